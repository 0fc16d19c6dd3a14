"""What a run or a tool leaves of its detections: files to hand on, a sheet to look at, scores with their tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from detection.config import Config
from detection.console import progress_bar
from detection.data.dataset import Annotations
from detection.evaluation.bootstrap import Intervals, bootstrap
from detection.evaluation.costs import ErrorCost, error_costs
from detection.evaluation.detections import Detections
from detection.evaluation.errors import Errors, find_errors
from detection.evaluation.result_files import write_server_archive
from detection.evaluation.scores import Scores, score
from detection.evaluation.tables import error_table
from detection.inspection.draw import SHEET_IMAGES, prediction_sheet, save_picture


@dataclass(frozen=True)
class Judged:
    """What detections are worth, and what is wrong with them."""

    detections: Detections
    scores: Scores
    errors: Errors
    costs: dict[str, ErrorCost]
    """What each kind of error costs."""

    @classmethod
    def of(cls, detections: Detections, annotations: Annotations, config: Config) -> "Judged":
        """Scores by `config.metric`, and errors at IoU 0.5.

        Raises:
            UserError: the set has no annotations.
        """
        errors = find_errors(detections, annotations)
        costs = error_costs(detections, annotations, errors)
        return cls(detections, score(detections, annotations, config.metric), errors, costs)

    def headline(self) -> str:
        """`COCO AP 36.2 %, COCO AP50 57.0 %, ..., VOC area mAP@0.5 58.1 %`."""
        numbers = ", ".join(f"{name} {100 * value:.1f} %" for name, value in self.scores.headline().items())
        return numbers if len(self.detections) else f"{numbers}: not one detection (above test.score_threshold)"

    def tables(self, class_names: Sequence[str]) -> list[Table]:
        """Scores by both protocols, then the errors."""
        return [*self.scores.tables(class_names), error_table(self.costs)]


def write_results(
    folder: Path, detections: Detections, annotations: Annotations, config: Config
) -> tuple[Judged | None, list[str]]:
    """Write ``detections.json`` and ``predictions.png``; score the detections if there is something to score against.

    A set without annotations (VOC2012 test, COCO test-dev) gets the file that its evaluation server takes instead.

    Args:
        folder: where to write.
        annotations: the set `config.data.val`.

    Returns:
        What the detections are worth (None for a set without annotations), and the names of the files.

    Raises:
        UserError: a file cannot be written, or an image not be read.
    """
    detections.write_coco(folder / "detections.json", annotations)
    spread = np.linspace(0, len(annotations) - 1, min(SHEET_IMAGES, len(annotations))).astype(int)
    save_picture(folder / "predictions.png", prediction_sheet(annotations, detections, spread.tolist()))
    files = ["detections.json", "predictions.png"]
    if annotations.annotated:
        return Judged.of(detections, annotations, config), files
    archive = write_server_archive(folder, detections, annotations, config.data)
    return None, [*files, archive.name]


def intervals_of(results: Sequence[Detections], annotations: Annotations, config: Config) -> Intervals:
    """The 95 % intervals of one result, or of two and of their difference, with a bar while they are computed."""
    first, other = [*results, None][:2]
    with progress_bar("resampling images") as show:
        return bootstrap(first, annotations, config.metric, config.seed, other, show)
