import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.table import Table

from detection.training.log import RunLog

REPOSITORY = Path(__file__).parents[3]


def records(folder):
    """The records, read by a parser that knows no NaN and no Infinity, as JSON has none."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_texts_and_tables_go_to_console_and_file(tmp_path, capsys):
    log = RunLog(tmp_path, total_iterations=10)
    table = Table("class", "VOC area AP@0.5")
    table.add_row("cat", "0.612")
    long = f"saved to {'long/' * 50}best.pt [not markup] :smile:"
    log.say(long)
    log.say(table)
    printed, written = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    assert printed == written
    assert written.splitlines()[0] == long
    assert "VOC area AP@0.5" in written and "0.612" in written
    assert "\x1b" not in written


def test_records_are_unrounded_json_lines(tmp_path):
    log = RunLog(tmp_path, total_iterations=10)
    third = np.float32(1) / np.float32(3)
    log.record(3, loss=0.1 + 0.2, lr=torch.tensor(0.5), **{"images/s": third, "VOC area mAP@0.5": 1 / 7})
    log.record(4, sizes=np.array([600, 1000]), per_class={"cat": 0.25})
    assert records(tmp_path) == [
        {"step": 3, "loss": 0.30000000000000004, "lr": 0.5, "images/s": 0.3333333432674408, "VOC area mAP@0.5": 1 / 7},
        {"step": 4, "sizes": [600, 1000], "per_class": {"cat": 0.25}},
    ]


def test_values_that_are_not_finite_are_null_and_named(tmp_path):
    log = RunLog(tmp_path, total_iterations=10)
    log.record(1, rpn_box_loss=float("nan"), lr=0.1, loss=torch.tensor(float("inf")), per_class={"cat": np.nan})
    assert records(tmp_path) == [
        {
            "step": 1,
            "rpn_box_loss": None,
            "lr": 0.1,
            "loss": None,
            "per_class": {"cat": None},
            "non_finite": ["rpn_box_loss", "loss", "per_class.cat"],
        }
    ]


def test_progress_is_plain_lines_without_a_terminal(tmp_path, capsys, monkeypatch):
    seconds = iter([100.0, 110.0, 120.0, 130.0, 140.0, 150.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    log = RunLog(tmp_path, total_iterations=6, log_every=2)
    for step in range(1, 7):
        log.progress(step, {"loss": 0.123456, "images/s": 3.0, "waiting": 0.041, "memory": 3 * 2**29})
    log.close()
    shown = "loss 0.1235, images/s 3, waiting 4%, memory 1.5 GiB"
    expected = [
        f"iteration 2/6: {shown}, 0:00:40 left",  # ten seconds an iteration
        f"iteration 4/6: {shown}, 0:00:20 left",
        f"iteration 6/6: {shown}, 0:00:00 left",
    ]
    assert capsys.readouterr().out.splitlines() == expected
    assert (tmp_path / "log.txt").read_text().splitlines() == expected


def test_progress_is_a_bar_on_a_terminal_and_lines_in_the_file(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "110")
    log = RunLog(tmp_path, total_iterations=4, log_every=2)
    for step in (1, 2, 3):
        log.progress(step, {"loss": 0.5})
    log.say("in between")
    log.close()
    shown = terminal.getvalue()
    assert "━" in shown and "3/4" in shown and "loss 0.5" in shown and "in between" in shown
    assert "iteration 2/4" not in shown
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[0].startswith("iteration 2/4: loss 0.5, ") and lines[1:] == ["in between"]


def test_rewind_drops_later_records_and_a_line_cut_short(tmp_path):
    log = RunLog(tmp_path, total_iterations=10)
    for step in (0, 5, 10, 15):
        log.record(step, loss=step / 3)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    log.rewind(10)
    log.record(11, loss=1.0)
    assert [record["step"] for record in records(tmp_path)] == [0, 5, 10, 11]
    assert records(tmp_path)[1]["loss"] == 5 / 3
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl"]


def test_rewind_of_a_run_without_records_does_nothing(tmp_path):
    RunLog(tmp_path, total_iterations=10).rewind(3)
    assert os.listdir(tmp_path) == []


def test_other_processes_are_silent(tmp_path, capsys):
    log = RunLog(tmp_path, total_iterations=1, log_every=1, wandb="offline", enabled=False)
    log.say("x")
    log.record(1, loss=1.0)
    log.progress(1, {"loss": 1.0})
    log.pictures("samples", tmp_path / "x.png")
    log.rewind(0)
    log.close()
    assert capsys.readouterr().out == ""
    assert os.listdir(tmp_path) == []


def test_wandb_is_not_imported_unless_asked_for(tmp_path):
    code = (
        "import sys; from detection.training.log import RunLog\n"
        "log = RunLog(sys.argv[1], 1); log.record(1, loss=1.0); log.close()\n"
        "print('wandb' in sys.modules, 'torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "False False\n"


WANDB_RUN = """
import socket, sys
from PIL import Image
from detection.training.log import RunLog

def connect(self, address):
    if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
        raise AssertionError(f"a connection to {address}")
    return plain(self, address)

plain, socket.socket.connect = socket.socket.connect, connect
folder, mode = sys.argv[1:]
log = RunLog(folder, 2, wandb=mode, config={"train": {"lr": 0.1}})
for step in (1, 2):
    log.record(step, loss=float("nan") if step == 1 else 0.5)
Image.new("RGB", (4, 4)).save(folder + "/sheet.png")
log.pictures("predictions", folder + "/sheet.png")
log.close()
"""


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_wandb_writes_a_run_offline_when_asked_or_without_login(tmp_path, mode):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "none"), "TMPDIR": str(tmp_path)}
    run = tmp_path / "run"
    run.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", WANDB_RUN, str(run), mode],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    (folder,) = (run / "wandb").glob("offline-run-*")
    (binary,) = folder.glob("run-*.wandb")
    content = binary.read_bytes()
    assert b"loss" in content and b"predictions" in content
    assert list((folder / "files" / "media" / "images").glob("*.png"))
    warned = ended.stdout.startswith("wandb: no login was found")
    assert warned == (mode == "online")


def test_a_wandb_that_cannot_start_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    import wandb

    def broken(**settings):
        raise wandb.errors.CommError("the service did not start\nlong story")

    monkeypatch.setattr(wandb, "init", broken)
    log = RunLog(tmp_path, total_iterations=1, wandb="offline")
    log.record(1, loss=1.0)
    log.close()
    assert capsys.readouterr().out == (
        "wandb: the service did not start; going on without it, every record is in metrics.jsonl\n"
    )
    assert records(tmp_path) == [{"step": 1, "loss": 1.0}]
