"""What a run or a tool leaves of its detections: files to hand on, a sheet to look at, scores with their tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from detection.config import Config
from detection.data.dataset import Annotations
from detection.evaluation.costs import ErrorCost, error_costs
from detection.evaluation.detections import Detections
from detection.evaluation.errors import find_errors
from detection.evaluation.result_files import write_server_archive
from detection.evaluation.scores import Scores, score
from detection.evaluation.tables import error_table
from detection.inspection.draw import SHEET_IMAGES, prediction_sheet, save_picture


@dataclass(frozen=True)
class Results:
    """What detections are worth, and where they are."""

    files: tuple[str, ...]
    """What was written, relative to the folder."""
    scores: Scores | None = None
    """None for a set without annotations."""
    costs: Mapping[str, ErrorCost] = field(default_factory=dict)
    """What each kind of error costs."""

    def headline(self) -> str:
        """`COCO AP 36.2 %, COCO AP50 57.0 %, ..., VOC area mAP@0.5 58.1 %`; empty for a set without annotations."""
        numbers = self.scores.headline() if self.scores else {}
        return ", ".join(f"{name} {100 * value:.1f} %" for name, value in numbers.items())

    def tables(self, class_names: Sequence[str]) -> list[Table]:
        """Scores by both protocols, then the errors; nothing for a set without annotations."""
        return [*self.scores.tables(class_names), error_table(self.costs)] if self.scores else []


def write_results(folder: Path, detections: Detections, annotations: Annotations, config: Config) -> Results:
    """Write ``detections.json`` and ``predictions.png``; score the detections if there is something to score against.

    A set without annotations (VOC2012 test, COCO test-dev) gets the file that its evaluation server takes instead.

    Args:
        folder: where to write.
        annotations: the set `config.data.val`.

    Raises:
        UserError: a file cannot be written, or an image not be read.
    """
    detections.write_coco(folder / "detections.json", annotations)
    spread = np.linspace(0, len(annotations) - 1, min(SHEET_IMAGES, len(annotations))).astype(int)
    save_picture(folder / "predictions.png", prediction_sheet(annotations, detections, spread.tolist()))
    files = ("detections.json", "predictions.png")
    if not annotations.annotated:
        archive = write_server_archive(folder, detections, annotations, config.data)
        return Results((*files, str(archive.relative_to(folder))))
    costs = error_costs(detections, annotations, find_errors(detections, annotations))
    return Results(files, score(detections, annotations, config.metric), costs)
