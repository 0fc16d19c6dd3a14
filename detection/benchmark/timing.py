"""Sides measured in turns: A B A B, so that a machine whose speed drifts favours none."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of each turn, by side; turn i of all sides came one after another."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, side: str) -> float:
        """The middle one, in seconds."""
        return statistics.median(self.seconds[side])

    def spread(self, side: str) -> tuple[float, float]:
        """The quartiles, in seconds."""
        return quartiles(self.seconds[side])

    def ratios(self, peer: str, own: str) -> list[float]:
        """How many times as long `peer` took as `own`, turn by turn."""
        return [other / mine for mine, other in zip(self.seconds[own], self.seconds[peer], strict=True)]


def in_turns(sides: Mapping[str, Callable[[], float]], rounds: int, warm_up: int) -> Timing:
    """Ask each side for the seconds it takes, `rounds` times, in turns.

    Args:
        sides: by name; the order is that of the turns. Most are a :func:`stopwatch`.
        warm_up: turns before, which do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name, side in sides.items():
            taken = side()
            if number >= warm_up:
                seconds[name].append(taken)
    return Timing(seconds)


def stopwatch(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """`work` as a side: the seconds until it, and all that it left to the device, is done."""

    def timed() -> float:
        settle(device)
        start = time.perf_counter()
        work()
        settle(device)
        return time.perf_counter() - start

    return timed


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper one; of a single value, itself twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def in_words(seconds: float) -> str:
    """`1.23 s`, `45 ms`, `0.12 ms`."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
