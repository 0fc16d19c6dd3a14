"""What a run or a tool leaves of its detections: files to hand on, a sheet to look at, scores with their table."""

from pathlib import Path

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.voc import VOCScores, voc_scores
from detection.inspection.draw import SHEET_IMAGES, prediction_sheet, save_picture


def write_results(folder: Path, detections: Detections, annotations: Annotations, set_name: str) -> VOCScores | None:
    """Write ``detections.json`` and ``predictions.png``; score the detections if there is something to score against.

    A set without annotations (VOC2012 test) gets the devkit's result files instead, for the evaluation server.

    Args:
        folder: where to write.
        set_name: the set as named in `data.val`, as "2012/test" or "val".

    Returns:
        The VOC scores, or None for a set without annotations.
    """
    detections.write_coco(folder / "detections.json", annotations)
    spread = np.linspace(0, len(annotations) - 1, min(SHEET_IMAGES, len(annotations))).astype(int)
    save_picture(folder / "predictions.png", prediction_sheet(annotations, detections, spread.tolist()))
    if not annotations.annotated:
        year, _, name = set_name.rpartition("+")[2].rpartition("/")
        detections.write_voc(folder / "results" / (f"VOC{year}" if year else "") / "Main", annotations, name)
        return None
    return voc_scores(detections, annotations)
