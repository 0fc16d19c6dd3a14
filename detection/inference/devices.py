"""Where to compute and in which precision."""

import contextlib
import os

import torch
from torch import nn

from detection.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(name: str) -> torch.device:
    """The device for `--device auto|cpu|cuda`.

    On the CPU, numbers too small for a normal float are set to 0: they cost a hundred times more, and random weights
    produce many. Threads take this over from the one that starts them, and torch's start with the first large
    operation: call this before any. Deterministic GPU libraries get the workspace that they ask for.

    Raises:
        UserError: "cuda" without a GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or install a driver for the GPU")
    device = torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_flush_denormal(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of convolutions and matrix products for `train.precision`.

    Raises:
        UserError: fp16 on the CPU, where gradients would vanish without a scaler.
    """
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("train.precision fp16 needs a GPU: use bf16 or fp32")
    return DTYPES[name]


def trained_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that a trained network runs in; what was trained in fp16 runs in float32 on the CPU."""
    return choose_precision("fp32" if name == "fp16" and device.type == "cpu" else name, device)


def place(detector: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """The detector on `device`, its convolutions in the given memory layout."""
    return detector.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """A context in which convolutions run in `dtype`; nothing changes for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
