"""A checkpoint's detector on a whole set: the step that scoring and inspecting a trained detector share."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from detection import distributed
from detection.config import Config
from detection.data import read_annotations
from detection.data.checks import report
from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.inference.predictor import load_detector
from detection.progress import progress_bar


class SetPrediction(NamedTuple):
    """What was found in a set, and in what."""

    annotations: Annotations
    detections: Detections
    """Those of all processes, on every process."""
    config: Config
    """The settings of the run with those given now laid over them."""


def predict_set(path: str | Path, settings: dict[str, Any]) -> SetPrediction:
    """Runs a trained detector over the set `data.val`, on all processes; the main one shows how far it is.

    Args:
        path: a checkpoint or a run folder.
        settings: nested values laid over the run's settings, as ``{"data": {"val": "2012/val"}}``.

    Raises:
        UserError: the checkpoint or the data set cannot be used.
    """
    device = settings.get("device", "auto")
    predictor = load_detector(path, device, settings)
    data = dataclasses.replace(predictor.config.data, classes=predictor.class_names)
    annotations = read_annotations(data, data.val)
    if not annotations.category_ids:  # a file that lists images alone
        annotations = dataclasses.replace(annotations, category_ids=predictor.category_ids)
    for line in report(annotations.dropped) if distributed.is_main() else ():
        print(line)
    with progress_bar("predicting", is_shown=distributed.is_main()) as show:
        detections = predictor.predict(annotations, show)
    return SetPrediction(annotations, detections, predictor.config)
