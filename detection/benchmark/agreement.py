"""Do both sides do the same work? Asked before anything is timed.

Shapes: ``D`` boxes of one image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Disagreement(Exception):
    """The sides differ: one sentence with the stage and by how much."""


@dataclass(frozen=True)
class Check:
    """What was compared, and how well it agreed."""

    stage: str
    words: str
    """`largest difference 2e-06 of the largest value`"""

    def __str__(self) -> str:
        return f"{self.stage}: {self.words}"


class Measure(NamedTuple):
    """How far two tensors of one shape are apart."""

    words: str
    """What follows the number."""
    of: Callable[[Tensor, Tensor], Tensor]
    """Takes ours and theirs in float64."""


ABSOLUTE = Measure("", lambda ours, theirs: (ours - theirs).abs().max())
RELATIVE = Measure(" of the largest value", lambda ours, theirs: ABSOLUTE.of(ours, theirs) / theirs.abs().max())
NORM = Measure(" of the norm", lambda ours, theirs: (ours - theirs).norm() / theirs.norm())


def require_close(
    stage: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float, measure: Measure
) -> Check:
    """Each of `ours` is at most `tolerance` from its partner among `theirs`.

    Raises:
        Disagreement: one is not, the shapes differ, or there is nothing to compare.
    """
    shapes = [[tuple(value.shape) for value in side] for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise Disagreement(f"{stage}: ours have shapes {shapes[0]}, the peer's {shapes[1]}")
    require_some(stage, sum(value.numel() for value in theirs))
    pairs = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if not torch.equal(mine, other)]
    differences = [measure.of(mine.detach().double(), other.detach().double()).item() for mine, other in pairs]
    worst = next(filter(math.isnan, differences), max(differences, default=0.0))
    if not worst <= tolerance:  # NaN is no agreement
        raise Disagreement(f"{stage}: the sides differ by {worst:.2g}{measure.words}, where {tolerance:g} is allowed")
    return Check(stage, f"largest difference {worst:.1e}{measure.words}")


def require_some(stage: str, count: int) -> None:
    """Raises a Disagreement when there is nothing to compare."""
    if not count:
        raise Disagreement(f"{stage}: there is nothing to compare")


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image with what else must agree."""

    boxes: np.ndarray
    """(D, 4) in pixels."""
    scores: np.ndarray
    """(D,)."""
    labels: np.ndarray
    """(D,)."""

    @classmethod
    def of(cls, found: dict[str, Tensor | np.ndarray]) -> "Boxes":
        """From what a detector returns; boxes alone get equal scores and labels."""
        count = len(found["boxes"])
        values = {"scores": np.zeros(count), "labels": np.zeros(count, np.int64), **found}
        return cls(*(np.asarray(torch.as_tensor(values[name]).cpu()) for name in ("boxes", "scores", "labels")))


def require_paired(
    stage: str, ours: list[Boxes], theirs: list[Boxes], *, pixels: float, score: float, share: float
) -> Check:
    """At least a `share` of the boxes has a partner on the other side, in the same image and of the same label.

    Selection is a row of comparisons: where two numbers are equal but for rounding, the sides may choose differently.
    That is why not every box need have a partner.

    Args:
        pixels, score: largest differences between partners.

    Raises:
        Disagreement: fewer have, or an image has no box on either side.
    """
    for mine, other in zip(ours, theirs, strict=True):
        require_some(stage, min(len(mine.boxes), len(other.boxes)))
    pairs = sum(count_pairs(mine, other, pixels, score) for mine, other in zip(ours, theirs, strict=True))
    total = max(sum(len(side.boxes) for side in sides) for sides in (ours, theirs))
    words = f"{pairs} of {total} boxes pair within {pixels:g} pixels"
    if pairs < share * total:
        raise Disagreement(f"{stage}: only {words}, where {share:.0%} must")
    return Check(stage, words)


def count_pairs(ours: Boxes, theirs: Boxes, pixels: float, score: float) -> int:
    """How many of our boxes find a partner, each of theirs being the partner of one at most."""
    free = np.ones(len(theirs.boxes), bool)
    for box, own_score, label in zip(ours.boxes, ours.scores, ours.labels, strict=True):
        distance = np.abs(theirs.boxes - box).max(axis=1)
        fits = free & (distance <= pixels) & (np.abs(theirs.scores - own_score) <= score) & (theirs.labels == label)
        if fits.any():
            free[np.where(fits, distance, np.inf).argmin()] = False
    return int((~free).sum())
