"""Scoring: from two files, annotations and detections, to COCO's 12 numbers."""

import contextlib
import io
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from detection.benchmark.agreement import ABSOLUTE, Check, require_close
from detection.benchmark.case import Case
from detection.benchmark.growth import SET, settings_for
from detection.benchmark.report import Measured, Row
from detection.benchmark.synthetic import write_coco
from detection.benchmark.timing import in_turns, stopwatch
from detection.data import read_annotations
from detection.evaluation.coco import SUMMARY, coco_scores
from detection.evaluation.result_files import read_detections

IMAGES = 500
SAME = 1e-12
"""Largest difference of a score."""


def score_stage(case: Case, images: int = IMAGES) -> Measured:
    """Seconds of the 12 numbers by either side, once both have the same.

    Raises:
        Disagreement: they have not.
    """
    host = torch.device("cpu")
    with TemporaryDirectory() as folder:
        root = Path(folder) / "coco"
        write_coco(root, images, case.config.seed)
        checks = [check_scores(scores_by_ours(root), scores_by_peer(root))]
        both = {"ours": scores_by_ours, "peer": scores_by_peer}
        sides = {name: stopwatch(lambda scores=scores: scores(root), host) for name, scores in both.items()}
        timing = in_turns(sides, case.rounds, warm_up=1)
    return Measured([Row("score", f"COCO's 12 numbers of {images:,} images, from files", timing)], checks)


def scores_by_ours(root: Path) -> dict[str, float]:
    """The 12 numbers by name, NaN where there is nothing to find."""
    annotations = read_annotations(settings_for(root), SET, pictures=False)
    return coco_scores(read_detections(root / "detections.json", annotations), annotations).summary


def scores_by_peer(root: Path) -> dict[str, float]:
    """The same by pycocotools, as its demonstration calls it; what it prints is dropped."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(root / "annotations" / f"instances_{SET}.json"))
        evaluation = COCOeval(objects, objects.loadRes(str(root / "detections.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [value if value > -1 else math.nan for value in evaluation.stats.tolist()]
    return dict(zip(SUMMARY, values, strict=True))


def check_scores(ours: dict[str, float], theirs: dict[str, float]) -> Check:
    """All numbers that either side has above 0 are the same; there is such a number.

    Raises:
        Disagreement: a number differs, or there is none.
    """
    known = [name for name in theirs if ours[name] > 0 or theirs[name] > 0]
    sides = [torch.tensor([side[name] for name in known], dtype=torch.float64) for side in (ours, theirs)]
    return require_close("scores", [sides[0]], [sides[1]], SAME, ABSOLUTE)
