"""What each kind of error costs: the AP50 that a detector would gain if it made no such errors.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020 (arXiv 2008.08115), section
2.3. Each kind is mended alone, starting from the same detections; the gains do not add up to the whole.

The AP that gains are counted from is COCO's AP50: a class without objects is no part of the mean. The released code,
tidecv 1.0.1, counts such a class as AP 0 as soon as it has detections, and leaves out a class of which mending leaves
neither objects nor detections, which keeps its 0 here. For differences in the kinds see `errors`.

Letters: ``D`` detections, ``M`` objects.
"""

from dataclasses import dataclass, replace

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.curves import Ranking, coco_order
from detection.evaluation.detections import Detections
from detection.evaluation.errors import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    IGNORED,
    KINDS,
    LOCALIZATION,
    TRUE,
    Errors,
)
from detection.evaluation.matching import COCO_RECALLS
from detection.evaluation.means import mean_of_known


@dataclass(frozen=True)
class ErrorCost:
    """How many errors there are of a kind, and what they cost."""

    count: int
    ap50: float
    """AP50 gained if they were mended, in [-1, 1]; NaN without any object to be found. (It is AP at the IoU of the
    errors, 0.5 unless another was chosen.)"""


def error_costs(detections: Detections, annotations: Annotations, errors: Errors) -> dict[str, ErrorCost]:
    """Count and cost by kind of error: TIDE's six and its two totals.

    Mended means: a mislocated or misclassified detection becomes true, if its object is not found and no better
    detection of either kind points to the same one, otherwise it is removed; duplicates, background, both: removed;
    a missed object is no longer asked for. "false positives" removes every false detection, "false negatives" asks for
    no object that was not found.

    Args:
        detections: D detections in the images of `annotations`.
        annotations: M objects.
        errors: what :func:`find_errors` says of them.
    """
    today = _Verdicts.of(detections, annotations, errors)
    false = (errors.kinds != TRUE) & (errors.kinds != IGNORED)
    wanted_in_vain = ~annotations.ignore & (errors.found_by < 0)
    mended = {
        "localization": today.corrected(annotations, errors, LOCALIZATION),
        "classification": today.corrected(annotations, errors, CLASSIFICATION),
        **{KINDS[kind]: today.without(errors.kinds == kind) for kind in (BOTH, DUPLICATE, BACKGROUND)},
        "missed": today.not_asking_for(errors.missed),
        "false positives": today.without(false),
        "false negatives": today.not_asking_for(wanted_in_vain),
    }
    counts = {kind: np.count_nonzero(errors.kinds == number) for number, kind in enumerate(KINDS)} | {
        "missed": np.count_nonzero(errors.missed),
        "false positives": np.count_nonzero(false),
        "false negatives": np.count_nonzero(wanted_in_vain),
    }
    before = today.average_precision(annotations)
    return {
        kind: ErrorCost(int(counts[kind]), verdicts.average_precision(annotations) - before)
        for kind, verdicts in mended.items()
    }


@dataclass(frozen=True)
class _Verdicts:
    """What AP depends on."""

    detections: Detections
    order: np.ndarray
    """(D,) int64: COCO's ranking."""
    true: np.ndarray
    """(D,) bool."""
    counted: np.ndarray
    """(D,) bool: true or false."""
    wanted: np.ndarray
    """(M,) bool: objects to be found."""

    @classmethod
    def of(cls, detections: Detections, annotations: Annotations, errors: Errors) -> "_Verdicts":
        true, counted = errors.kinds == TRUE, errors.kinds != IGNORED
        return cls(detections, coco_order(detections), true, counted, ~annotations.ignore)

    def without(self, which: np.ndarray) -> "_Verdicts":
        """The detections (D,) removed."""
        return replace(self, counted=self.counted & ~which)

    def not_asking_for(self, which: np.ndarray) -> "_Verdicts":
        """The objects (M,) no longer to be found."""
        return replace(self, wanted=self.wanted & ~which)

    def corrected(self, annotations: Annotations, errors: Errors, kind: int) -> "_Verdicts":
        """The errors of a kind, localization or classification, made true where that is possible, else removed."""
        of_kind = errors.kinds == kind
        right = of_kind & _first_choices(self.detections, errors)
        labels = self.detections.labels.copy()
        labels[right] = annotations.labels[errors.objects[right]]
        detections = replace(self.detections, labels=labels)
        order = coco_order(detections) if kind == CLASSIFICATION else self.order
        return replace(self.without(of_kind & ~right), detections=detections, order=order, true=self.true | right)

    def average_precision(self, annotations: Annotations) -> float:
        """Mean over the classes that have objects. One of which all are mended away keeps the 0 it had."""
        order = self.order[self.counted[self.order]]
        true, counted = self.true[order], np.ones(len(order), bool)
        ranking = Ranking.build(self.detections.select(order), annotations, true[None], counted[None], self.wanted)
        precision = ranking.weigh(np.ones(len(annotations), np.int64)).at(COCO_RECALLS)[0]
        classes = np.unique(annotations.labels[~annotations.ignore]) - 1
        return mean_of_known(np.nan_to_num(precision[classes]))


def _first_choices(detections: Detections, errors: Errors) -> np.ndarray:
    """(D,) bool: of the localization and classification errors that point to an object not found, the best-scored.

    The two kinds compete for an object: TIDE's code keeps one best detection an object, whatever its error.
    """
    points = (errors.kinds == LOCALIZATION) | (errors.kinds == CLASSIFICATION)
    rows = np.flatnonzero(points)
    rows = rows[errors.found_by[errors.objects[rows]] < 0]
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    chosen = np.zeros(len(detections), bool)
    chosen[rows[np.unique(errors.objects[rows], return_index=True)[1]]] = True
    return chosen
