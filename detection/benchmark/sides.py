"""The two sides of a stage that runs the network, and their comparison.

Letters: ``B`` images, ``H, W`` rows and columns.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detection import checkpoint
from detection.batch import Batch
from detection.benchmark.agreement import Check
from detection.benchmark.case import Case
from detection.benchmark.peer import as_torchvision_takes
from detection.benchmark.report import Measured, Row
from detection.benchmark.timing import in_turns
from detection.benchmark.work import (
    INSIDE,
    OUTSIDE,
    Stages,
    matrix_rate,
    operations,
    peak_memory,
    shares,
    synchronizations,
    write_trace,
)
from detection.config import Config, to_dict
from detection.data.loader import Images
from detection.inference.ensemble import sizes_of
from detection.inference.predictor import Predictor, at_sizes

Found = list[dict[str, Any]]
"""Of each image `boxes`, `labels` and `scores`, as NumPy arrays."""
WARM_UP = {"cpu": 1, "cuda": 3}
"""Turns that do not count; CUDA graphs are recorded in the second."""


@dataclass(frozen=True)
class Side:
    """One side, ready to run."""

    work: Callable[[], object]
    """A prediction, or a training step."""
    detector: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    """None for predictions."""
    batches: Callable[[], list[Tensor]] = list
    """What of the batches before is still held."""

    def held(self) -> Iterator[Tensor]:
        """What is in memory all the time."""
        yield from chain(self.detector.parameters(), self.detector.buffers(), self.batches())
        yield from (value.grad for value in self.detector.parameters() if value.grad is not None)
        for state in self.optimizer.state.values() if self.optimizer else ():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def compare(stage: str, sides: dict[str, Side], case: Case, checks: list[Check], device: torch.device) -> Measured:
    """Times the sides in turns, "ours" against each other one, then looks into each."""
    clocks = {name: Stages(side.work, side.detector, device, side.optimizer) for name, side in sides.items()}
    timing = in_turns(clocks, case.rounds, WARM_UP[device.type])
    rows = [Row(stage, str(case), timing, peer=name) for name in sides if name != "ours"]
    details = {name: shares(clock.medians(case.rounds)) for name, clock in clocks.items()}
    rate = matrix_rate(device) if device.type == "cuda" else 0.0
    for name, side in sides.items():
        details[name] |= look_into(side, timing.median(name), rate, device)
        if case.profile:
            write_trace(Path(case.profile) / f"{stage}_{name.replace(' ', '_')}.json", side.work)
    return Measured(rows, checks, details)


def look_into(side: Side, seconds: float, rate: float, device: torch.device) -> dict[str, str]:
    """Operations; on a GPU, of bf16 matrix rate `rate`, also memory and synchronizations."""
    count = operations(side.work)
    found = {"operations": f"{count / 1e12:.3g} TFLOP, {count / seconds / 1e12:.3g} TFLOP/s"}
    if device.type == "cuda":
        found["operations"] += f", {count / seconds / rate:.0%} of the bf16 matrix rate of {rate / 1e12:.0f} TFLOP/s"
        found["peak memory"] = f"{peak_memory(side.work, side.held(), device) / 2**20:,.0f} MiB"
        waits = synchronizations(side.work)
        found["synchronizations"] = f"{waits[OUTSIDE]} {OUTSIDE} the selection of boxes, {waits[INSIDE]} {INSIDE} it"
    return found


def save_checkpoint(config: Config, state: dict[str, Tensor], folder: Path) -> Path:
    """A checkpoint in `folder`, as a training run leaves it, of the detector with this state dict."""
    path = folder / "last.pt"
    identity = {"kind": "detector", "config": to_dict(config), "class_names": list(config.data.classes)}
    checkpoint.save(path, {**identity, "model": state})
    return path


def images_of(predictor: Predictor, pictures: Sequence[np.ndarray]) -> Images:
    """B pictures (H, W, 3) uint8 of one size, at every size that the predictor looks at, on its device."""
    sizes = sizes_of(predictor.members)
    single = [at_sizes(picture, sizes) for picture in pictures]
    return {size: stacked([images[size] for images in single]).to(predictor.device) for size in sizes}


def stacked(batches: Sequence[Batch]) -> Batch:
    """Batches of images of one size as a single one."""
    names = [field.name for field in dataclasses.fields(Batch)]
    return Batch(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})


def found_by_ours(predictor: Predictor, pictures: Sequence[np.ndarray]) -> Found:
    """What our user gets from decoded pictures, on the host."""
    return predictor.run(images_of(predictor, pictures))


@torch.inference_mode()
def found_by_peer(peer: nn.Module, pictures: Sequence[np.ndarray], device: torch.device) -> Found:
    """What torchvision's user gets from them, on the host as well."""
    results = peer(as_torchvision_takes(pictures, device))
    return [{name: values.float().cpu().numpy() for name, values in result.items()} for result in results]


def name_of(dtype: torch.dtype) -> str:
    """`bfloat16`"""
    return str(dtype).removeprefix("torch.")
