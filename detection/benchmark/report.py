"""What was measured, as a table and as JSON; the ratio comes last."""

import datetime
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from rich.table import Table

from detection.benchmark.agreement import Check
from detection.benchmark.timing import Timing, in_words, quartiles
from detection.data.pictures import available_cores


@dataclass(frozen=True)
class Row:
    """One comparison."""

    stage: str
    what: str
    """`resnet101 c4, 600x800, batch 1`"""
    timing: Timing
    own: str = "ours"
    peer: str = "peer"
    """Sides of the timing; the ratio says how many times as long the peer takes."""
    images: int = 0
    """Images of a turn: the speed is shown in images a second; 0: the seconds of a turn are."""

    def cells(self) -> list[str]:
        """What the table shows."""
        ratios = self.timing.ratios(self.peer, self.own)
        ratio = f"{statistics.median(ratios):.2f}\n{' to '.join(f'{value:.2f}' for value in quartiles(ratios))}"
        return [self.stage, self.what, self._shown(self.own), self._shown(self.peer), ratio]

    def record(self) -> dict[str, Any]:
        """Every number, for JSON."""
        ratios = self.timing.ratios(self.peer, self.own)
        return {
            "stage": self.stage,
            "what": self.what,
            "sides": [self.own, self.peer],
            "images_a_turn": self.images,
            "seconds": {side: list(self.timing.seconds[side]) for side in (self.own, self.peer)},
            "median_seconds": {side: self.timing.median(side) for side in (self.own, self.peer)},
            "quartiles_seconds": {side: list(self.timing.spread(side)) for side in (self.own, self.peer)},
            "ratio_quartiles": list(quartiles(ratios)),
            "ratio": statistics.median(ratios),
        }

    def _shown(self, side: str) -> str:
        low, high = self.timing.spread(side)
        name = "" if side in ("ours", "peer") else f"{side}: "
        if self.images:
            middle, low, high = (self.images / value for value in (self.timing.median(side), high, low))
            return f"{name}{middle:.3g} images/s\n{low:.3g} to {high:.3g}"
        return f"{name}{in_words(self.timing.median(side))}\n{in_words(low)} to {in_words(high)}"


@dataclass(frozen=True)
class Measured:
    """What a stage leaves."""

    rows: list[Row]
    checks: list[Check]
    """That both sides do the same work."""
    details: dict[str, dict[str, str]] = field(default_factory=dict)
    """By side: what else was measured of it, in words."""


def table(rows: Sequence[Row]) -> Table:
    """All comparisons: medians with quartiles, the ratio last."""
    shown = Table("stage", "what", "ours", "peer", "ratio", title="median (quartiles) of turns A B A B")
    for row in rows:
        shown.add_row(*row.cells())
    return shown


def details_table(measured: Measured) -> Table:
    """What else was seen in a stage, a column a side."""
    shown = Table("", *measured.details, title=measured.rows[0].stage)
    for name in dict.fromkeys(name for side in measured.details.values() for name in side):
        shown.add_row(name, *(side.get(name, "") for side in measured.details.values()))
    return shown


def record(measured: Sequence[Measured]) -> dict[str, Any]:
    """All of it for JSON."""
    return {
        "rows": [row.record() for part in measured for row in part.rows],
        "checks": [f"{part.rows[0].stage}: {check}" for part in measured for check in part.checks],
        "details": {part.rows[0].stage: part.details for part in measured if part.details},
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and when."""
    has_gpu = torch.cuda.is_available()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
