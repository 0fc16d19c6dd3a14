"""Where and in which precision."""

import os
import subprocess
import sys

import pytest
import torch

from detection.errors import UserError
from detection.inference.devices import autocast, choose_device, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there is a GPU, or that there is none."""

    def pretend(available, bf16=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)

    return pretend


@pytest.mark.parametrize(
    ("name", "available", "expected"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_the_gpu_is_taken_if_there_is_one_and_nothing_else_was_asked_for(gpus, name, available, expected):
    gpus(available)
    assert choose_device(name).type == expected


def test_a_gpu_that_is_not_there_is_said(gpus):
    gpus(False)
    with pytest.raises(UserError, match="^--device cuda: torch sees no GPU here; use --device cpu"):
        choose_device("cuda")


def test_numbers_too_small_for_a_normal_float_become_zero_on_the_cpu():
    """The smallest normal float32 is 2**-126."""
    choose_device("cpu")
    assert torch.tensor([2.0**-120]).mul(2.0**-10).item() == 0.0
    assert torch.tensor([2.0**-120]).mul(2.0**-6).item() == 2.0**-126


def test_all_threads_do_so_when_the_device_is_chosen_first():
    """As every tool does: nothing that is imported before may start torch's threads."""
    program = (
        "import torch, detection.training.run; from detection.inference.devices import choose_device; "
        "torch.set_num_threads(2); choose_device('cpu'); "
        "print(torch.full((2**20,), 2.0**-120).mul(2.0**-10).count_nonzero().item())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


def test_deterministic_gpu_libraries_get_their_workspace(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    choose_device("cpu")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    choose_device("cpu")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(
    ("name", "device", "bf16", "expected"),
    [
        ("auto", CPU, True, torch.float32),
        ("auto", CUDA, True, torch.bfloat16),
        ("auto", CUDA, False, torch.float32),
        ("bf16", CPU, False, torch.bfloat16),
        ("fp32", CUDA, True, torch.float32),
        ("fp16", CUDA, True, torch.float16),
    ],
)
def test_precision(gpus, name, device, bf16, expected):
    gpus(device.type == "cuda", bf16)
    assert choose_precision(name, device) == expected


def test_fp16_is_refused_on_the_cpu():
    with pytest.raises(UserError, match="^train.precision fp16 needs a GPU: use bf16 or fp32$"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_the_precision(dtype):
    values = torch.rand(4, 4)
    with autocast(CPU, dtype):
        assert (values @ values).dtype == dtype
    assert (values @ values).dtype == torch.float32
