"""Sides take turns; medians, quartiles and ratios of numbers given by hand."""

import time

import pytest
import torch

from detection.benchmark.timing import Timing, in_turns, in_words, quartiles, stopwatch


def test_turns_alternate_and_warm_up_does_not_count() -> None:
    order: list[str] = []
    clock = iter(range(100))

    def side(name: str) -> float:
        order.append(name)
        return float(next(clock))

    timing = in_turns({"ours": lambda: side("A"), "peer": lambda: side("B")}, rounds=3, warm_up=1)
    assert "".join(order) == "ABABABAB"
    assert timing.seconds == {"ours": [2.0, 4.0, 6.0], "peer": [3.0, 5.0, 7.0]}


def test_medians_quartiles_and_ratios() -> None:
    timing = Timing({"ours": [1.0, 2.0, 4.0], "peer": [3.0, 3.0, 6.0]})
    assert timing.median("ours") == 2.0
    assert timing.spread("ours") == (1.5, 3.0)
    assert timing.ratios("peer", "ours") == [3.0, 1.5, 1.5]
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0)


def test_a_drifting_machine_leaves_the_ratio_alone() -> None:
    slower = [1.0, 2.0, 4.0, 8.0, 16.0]
    timing = Timing({"ours": slower, "peer": [3 * value for value in slower]})
    assert timing.ratios("peer", "ours") == [3.0] * 5


def test_the_stopwatch_measures() -> None:
    taken = stopwatch(lambda: time.sleep(0.02), torch.device("cpu"))()
    assert taken == pytest.approx(0.02, abs=0.02) and taken >= 0.02


def test_seconds_in_words() -> None:
    assert [in_words(value) for value in (12.345, 0.0451, 0.000123)] == ["12.3 s", "45.1 ms", "0.123 ms"]
