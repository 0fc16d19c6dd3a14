"""Trained detectors on a whole set: the step that scoring and inspecting them share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detection import distributed
from detection.config import Config, DataSettings
from detection.console import progress_bar
from detection.data import class_names, read_annotations
from detection.data.checks import report
from detection.data.dataset import Annotations
from detection.errors import UserError, listed
from detection.evaluation.detections import Detections
from detection.inference.ensemble import introduce
from detection.inference.predictor import load_detector


class SetPrediction(NamedTuple):
    """What was found in a set, and in what."""

    annotations: Annotations
    detections: Detections
    """Those of all processes, on every process."""
    config: Config
    """The settings of the run with those given now laid over them."""


def predict_set(paths: Sequence[str | Path], settings: dict[str, Any]) -> SetPrediction:
    """Runs a trained detector, or an ensemble of several, over the set `data.val`, on all processes.

    The main process shows how far it is.

    Args:
        paths: checkpoints or run folders; the data set is that of the first one's run.
        settings: nested values laid over the runs' settings, as ``{"data": {"val": "2012/val"}}``.

    Raises:
        UserError: a checkpoint or the data set cannot be used.
    """
    path, device = paths[0], settings.get("device", "auto")
    predictor = load_detector(paths, device, settings)
    data = dataclasses.replace(predictor.config.data, classes=predictor.class_names)
    if (
        "root" not in settings.get("data", {})
        and data.format not in ("shapes", "single_shapes")
        and not Path(data.root).is_dir()
    ):
        raise UserError(f"{path}: its run read --data.root {data.root}, which is not here; say where the data is now")
    annotations = read_annotations(data, data.val)
    if "classes" not in settings.get("data", {}):
        require_known_classes(data, path)
    if not annotations.category_ids:  # a file that lists images alone
        annotations = dataclasses.replace(annotations, category_ids=predictor.category_ids)
    for line in [*report(annotations.dropped), *introduce(predictor.members)] if distributed.is_main() else ():
        print(line)
    with progress_bar("predicting", is_shown=distributed.is_main()) as show:
        detections = predictor.predict(annotations, show)
    return SetPrediction(annotations, detections, predictor.config)


def require_known_classes(data: DataSettings, path: str | Path) -> None:
    """Raises a UserError when the set `data.val` has classes that are not among `data.classes`, the detector's."""
    try:
        own = class_names(dataclasses.replace(data, classes=(), train=data.val))
    except UserError:
        return  # a set without any class: there is nothing to score
    unknown = [name for name in own if name not in data.classes]
    if unknown:
        raise UserError(
            f"{path}: the detector knows {listed(data.classes)}, but {data.val} has {listed(unknown)} too; "
            f"choose another set, or score without these by --data.classes [{','.join(data.classes)}]"
        )
