"""Stopped and resumed, a run ends bit for bit as one that was never stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from detection import checkpoint
from detection.config import from_dict, overlay
from detection.errors import UserError
from detection.training import run as run_module

REPOSITORY = Path(__file__).parents[3]
TIMES = {"images/s", "waiting", "memory"}
"""What differs between two runs that compute the same."""
SGD = {
    "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "schedule": "multistep", "steps": [4], "warmup_iterations": 3,
    "ema_decay": 0.0, "eval_every": 0,
}  # fmt: skip
ADAMW = {"optimizer": "adamw", "schedule": "onecycle", "ema_decay": 0.6, "accumulate": 2, "eval_every": 3}
COMMON = {"iterations": 6, "deterministic": True}
AUGMENT = {"crop": 0.5, "vflip": 0.5, "colour": 0.5, "scale_jitter": [0.8, 1.2]}


def records(folder):
    """The lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def assert_identical(first, second, where="state"):
    """The same keys, values and tensors all the way down."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for name in first:
            assert_identical(first[name], second[name], f"{where}.{name}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_identical(one, other, f"{where}[{number}]")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), where
    else:
        assert first == second, where


def assert_same_end(folder, expected):
    """The last checkpoint of `folder` is the state `expected` except for the settings, which name the folder."""
    state = checkpoint.load(folder)
    assert_identical({k: v for k, v in state.items() if k != "config"}, expected)


def ending(folder):
    """The last checkpoint of a run without its settings."""
    return {name: value for name, value in checkpoint.load(folder).items() if name != "config"}


@pytest.fixture
def dropout(monkeypatch):
    """Detectors with dropout in the box head: the one thing in training that draws from torch's generator."""
    build = run_module.build_detector

    def with_dropout(*arguments, **options):
        detector, report = build(*arguments, **options)
        detector.roi_heads.box_head.register_forward_hook(lambda head, _, out: F.dropout(out, 0.5, head.training))
        return detector, report

    monkeypatch.setattr(run_module, "build_detector", with_dropout)


@pytest.fixture(params=[SGD, ADAMW], ids=["sgd", "adamw"])
def whole(request, dropout, start):
    """Settings, state and records of a run that was not interrupted."""
    settings = {"train": {**COMMON, **request.param}, "data": {"augment": AUGMENT}}
    folder = start("whole", **settings)
    return settings, ending(folder), records(folder)


def test_any_number_of_workers_and_a_break_make_no_difference(whole, start):
    settings, state, lines = whole
    is_scored_twice = bool(settings["train"]["eval_every"])
    assert state["step"] == 6
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "VOC area mAP@0.5" in line] == ([3, 6] if is_scored_twice else [6])
    is_thorough = settings["train"]["optimizer"] == "sgd"
    for before in (0, 2) if is_thorough else (2,):
        stopped = overlay(settings, {"train": {"stop_at": 3}, "data": {"workers": before}})
        folder = start(f"before-{before}", **stopped)
        assert checkpoint.load(folder)["step"] == 3
        for after in (0, 2) if is_thorough else (0,):
            copied = folder.with_name(f"{before}-{after}")
            shutil.copytree(folder, copied)
            assert start(copied.name, resume=str(copied), data={"workers": after}) == copied
            assert_same_end(copied, state)
            assert records(copied) == lines
            shutil.rmtree(copied)


@pytest.fixture(scope="module")
def two_of_four(tiny_run, tmp_path_factory):
    """A run of four iterations that has stopped after two."""
    folder = tmp_path_factory.mktemp("two-of-four") / "run"
    config = checkpoint.load(tiny_run)["config"]
    train = {"stop_at": 2, "schedule": "cosine", "warmup_iterations": 0, "ema_decay": 0.0}
    given = overlay(config, {"output": str(folder), "seed": 3, "train": train})
    yield run_module.train(from_dict(given), given)
    shutil.rmtree(folder)


@pytest.fixture
def stopped(two_of_four, tmp_path):
    """A copy of that run; the checkpoints are links, since a new one never writes into the old."""

    def copy(source, target):
        (os.link if source.endswith(".pt") else shutil.copy)(source, target)

    return shutil.copytree(two_of_four, tmp_path / "run", copy_function=copy)


def test_records_after_the_checkpoint_are_written_again(stopped, start):
    """A run that was killed has records, and half a line, that its last checkpoint knows nothing of."""
    folder = stopped
    before = records(folder)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss": 77.0}\n{"step": 4, "lo')
    start("run", resume=str(folder))
    after = records(folder)
    assert after[:2] == before
    assert [line["step"] for line in after if "loss" in line] == [1, 2, 3, 4]
    assert all(line["loss"] != 77.0 for line in after if "loss" in line)


def test_the_best_score_is_kept(stopped, start):
    """A better score from before the break keeps its weights in best.pt."""
    folder = stopped
    state = checkpoint.load(folder)
    checkpoint.save(folder / "last.pt", {**state, "best": 0.9})
    (folder / "best.pt").write_bytes(b"the weights that scored 0.9")
    start("run", resume=str(folder))
    assert (folder / "best.pt").read_bytes() == b"the weights that scored 0.9"
    assert checkpoint.load(folder)["best"] == 0.9


def test_settings_given_with_resume_win_and_the_others_stay(stopped, start):
    """The run ends earlier than it was to, and then goes on for longer."""
    start("run", resume=str(stopped), train={"iterations": 3})
    config = from_dict(checkpoint.load(stopped)["config"])
    assert (config.train.iterations, config.train.stop_at, config.seed, config.backbone) == (3, 0, 3, "resnet18")
    start("run", resume=str(stopped), train={"iterations": 5})
    assert [line["step"] for line in records(stopped) if "loss" in line] == [1, 2, 3, 4, 5]
    assert checkpoint.load(stopped)["step"] == 5


def test_config_yaml_of_a_resumed_run_still_describes_the_run(stopped, two_of_four, start):
    """Given to --config it must repeat the run, not resume this one; only its folder has moved here."""
    before = yaml.safe_load((stopped / "config.yaml").read_text())
    start("run", resume=str(stopped))
    after = yaml.safe_load((stopped / "config.yaml").read_text())
    assert before["output"] == str(two_of_four)
    assert after == overlay(before, {"train": {"stop_at": 0}, "output": str(stopped)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"train": {"optimizer": "sgd"}}, "optimizer"),
        ({"model": {"roi": {"hidden": 16}}}, "it was trained with model.roi.hidden 32"),
        ({"data": {"classes": ["circle", "cross", "square", "triangle", "star"]}}, "classes"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_a_users_mistake(stopped, start, given, words):
    with pytest.raises(UserError) as caught:
        start("run", resume=str(stopped), **given)
    assert words in str(caught.value)
    assert checkpoint.load(stopped)["step"] == 2


def test_a_moving_average_may_begin_with_the_resumed_part(stopped, start):
    """It begins with the weights of the checkpoint, here those of the second iteration."""
    before = checkpoint.load(stopped)["model"]
    start("run", resume=str(stopped), train={"iterations": 3, "ema_decay": 0.75})
    state, name = checkpoint.load(stopped), "roi_heads.box_head.fc6.weight"
    assert not torch.equal(state["model"][name], before[name])
    torch.testing.assert_close(state["ema"][name], 0.75 * before[name] + 0.25 * state["model"][name])


def test_resuming_from_the_best_weights_is_a_users_mistake(tiny_run, start, tmp_path):
    """best.pt holds weights alone: it can start a run, not continue one."""
    shutil.copy(tiny_run / "best.pt", tmp_path / "best.pt")
    with pytest.raises(UserError) as caught:
        start("run", resume=str(tmp_path / "best.pt"))
    assert "best.pt" in str(caught.value)


def test_sigterm_saves_and_the_resumed_run_ends_as_if_nothing_had_happened(tiny_config, start, tmp_path):
    """The signal goes to all processes of the run, as a scheduler sends it."""
    tiny_config = overlay(tiny_config, {"train": {"iterations": 12, "deterministic": True}, "data": {"workers": 1}})
    folder = tmp_path / "stopped"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**tiny_config, "output": str(folder)}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tools" / "train_det.py"), "--config", str(recipe)],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)
        words, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 0, words
    step = checkpoint.load(folder)["step"]
    assert 1 <= step < 12
    assert f"stopped at iteration {step} of 12" in words
    assert f"python tools/train_det.py --resume {folder}" in words
    assert "Traceback" not in words
    start("stopped", resume=str(folder))
    expected = start("whole", **tiny_config, output=str(tmp_path / "whole"))
    assert_same_end(folder, ending(expected))
    assert records(folder) == records(expected)
