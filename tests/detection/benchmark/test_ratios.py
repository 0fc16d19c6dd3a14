"""The figures of docs/benchmarks.md, as ratios in one run: `pytest -m benchmark`. Absolute times are never compared."""

import statistics
from typing import Any

import pytest

from detection.benchmark.case import make_case
from detection.benchmark.report import Row
from detection.benchmark.stages import STAGES

pytestmark = pytest.mark.benchmark


def ratios(stage: str, backbone: str, head: str, size: tuple[int, int], batch: int, **settings: Any) -> list[float]:
    """One ratio for each row of a stage."""
    case = make_case({"backbone": backbone, "device": "cpu", **settings}, head, size, batch, rounds=5)
    return [ratio(row) for row in STAGES[stage](case).rows]


def ratio(row: Row) -> float:
    """The median over the turns."""
    return statistics.median(row.timing.ratios(row.peer, row.own))


@pytest.mark.parametrize(
    ("backbone", "head", "is_compiled", "least"),
    [
        ("resnet101", "c4", False, 1.4),
        ("resnet101", "c4", True, 1.7),
        ("resnet101", "fpn", False, 1.3),
        ("vgg16", "fc", False, 1.15),
    ],
)
def test_prediction(backbone: str, head: str, is_compiled: bool, least: float) -> None:
    (found,) = ratios("predict", backbone, head, (600, 800), 1, compile=is_compiled)
    assert found >= least


def test_training_step() -> None:
    (found,) = ratios("train", "resnet50", "c4", (400, 500), 2)
    assert found >= 1.15


def test_loader() -> None:
    device, host = ratios("loader", "resnet50", "c4", (600, 800), 8)
    assert device >= 4.0 and host >= 2.2


def test_scoring() -> None:
    (found,) = ratios("score", "resnet50", "c4", (600, 800), 1)
    assert found >= 1


def test_startup() -> None:
    """0.6 s where importing torchvision takes 4.5 s."""
    (found,) = ratios("startup", "resnet50", "c4", (600, 800), 1)
    assert found >= 4.5 / 0.6


def test_scoring_a_detector() -> None:
    (found,) = ratios("eval", "resnet50", "fpn", (600, 800), 1)
    assert found >= 1.5


def test_growth() -> None:
    *_, whole = ratios("growth", "resnet50", "c4", (600, 800), 1)
    assert whole <= 1.2
