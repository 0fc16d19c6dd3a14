"""What there is to measure, by name."""

from collections.abc import Callable

from detection.benchmark.case import Case
from detection.benchmark.commands import eval_stage, startup_stage
from detection.benchmark.growth import growth_stage
from detection.benchmark.loader import loader_stage
from detection.benchmark.predict import predict_stage
from detection.benchmark.report import Measured
from detection.benchmark.score import score_stage
from detection.benchmark.train import train_stage

STAGES: dict[str, Callable[[Case], Measured]] = {
    "loader": loader_stage,
    "train": train_stage,
    "predict": predict_stage,
    "score": score_stage,
    "startup": startup_stage,
    "eval": eval_stage,
    "growth": growth_stage,
}
"""Each raises a :class:`~detection.benchmark.agreement.Disagreement` when the sides do not do the same work."""
