import errno
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from detection import checkpoint
from detection.errors import UserError

REPOSITORY = Path(__file__).parents[2]


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refusal(path):
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_saved_is_loaded_with_format_and_versions(tmp_path):
    weights = torch.randn(3, 4, dtype=torch.float64)
    checkpoint.save(tmp_path / "last.pt", {"model": {"w": weights}, "class_names": ["cat", "dog"], "step": 7})
    state = checkpoint.load(tmp_path)
    assert torch.equal(state["model"]["w"], weights)
    assert (state["class_names"], state["step"], state["format"]) == (["cat", "dog"], 7, 1)
    assert state["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(state["versions"]) == {"residet", "torch", "torchvision"}
    assert os.listdir(tmp_path) == ["last.pt"]


def test_saving_again_replaces(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path / "last.pt", {"step": step})
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 2


def test_a_run_folder_means_its_last_checkpoint(tmp_path):
    assert checkpoint.resolve(tmp_path) == tmp_path / "last.pt"
    assert checkpoint.resolve(tmp_path / "best.pt") == tmp_path / "best.pt"
    assert "no such checkpoint" in refusal(tmp_path)


@pytest.mark.parametrize("limit", [100, 5_000, 200_000, 399_000, 401_000])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, limit):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # the write that goes beyond it fails
        with pytest.raises(UserError) as caught:
            checkpoint.save(path, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert str(caught.value).startswith(
        f"{path}: the checkpoint could not be saved (File too large); the one saved before"
    )
    assert checkpoint.load(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_no_space_left_is_said(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(tmp_path / "last.pt", {"step": 1})
    assert os.listdir(tmp_path) == []


def test_an_error_that_is_not_the_disks_is_not_hidden(tmp_path, monkeypatch):
    def broken(state, file):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        checkpoint.save(tmp_path / "last.pt", {"step": 1})
    assert os.listdir(tmp_path) == []


def test_killed_at_any_moment_it_loads(tmp_path):
    path = tmp_path / "last.pt"
    code = (
        "import sys, torch; from detection import checkpoint\n"
        "for step in range(10**6):\n"
        "    checkpoint.save(sys.argv[1], {'step': step, 'weights': torch.full((300_000,), float(step))})\n"
    )
    for seed in range(4):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=REPOSITORY)
        while not path.exists():
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0.0, 0.1))
        process.kill()
        process.wait()
        state = checkpoint.load(path)
        assert torch.equal(state["weights"], torch.full((300_000,), float(state["step"])))


def test_a_cut_or_changed_file_is_damaged(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"weights": torch.zeros(1000)})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[2000] ^= 1  # inside the weights, whose own 4000 bytes follow a short pickle
    for content in (
        b"",
        b"text",
        whole[: len(whole) // 2],
        whole[:-10],
        bytes(flipped),
        random.Random(0).randbytes(999),
    ):
        path.write_bytes(content)
        assert "damaged or incomplete" in refusal(path)


def test_nothing_in_a_foreign_file_is_executed(tmp_path):
    path, trap = tmp_path / "evil.pt", tmp_path / "sprung"
    torch.save({"format": 1, "model": Trap(trap)}, path)
    assert "never run" in refusal(path)
    path.write_bytes(pickle.dumps(Trap(trap)))
    refusal(path)
    assert not trap.exists()


def test_other_files_of_torch_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"conv1.weight": torch.zeros(2)}, path)
    assert "bare weights" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    assert "no checkpoint" in refusal(path)
    torch.save({"format": 2, "versions": {"residet": "9.0"}}, path)
    assert "ResiDet 9.0 wrote this checkpoint in a newer form" in refusal(path)
