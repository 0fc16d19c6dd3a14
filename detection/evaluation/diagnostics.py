"""Where a detector is weak: which classes it mixes up, which sizes it misses, what precision its recall costs.

Letters: ``D`` detections, ``M`` objects, ``K`` classes, ``T`` IoU thresholds, ``R`` recalls (101), ``B`` bins of size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detection.data.dataset import COCO_AREAS, Annotations
from detection.evaluation.curves import coco_ranking
from detection.evaluation.detections import Detections
from detection.evaluation.matching import COCO_IOUS, COCO_RECALLS, coco_matches
from detection.plain import plain

COCO_SIZES = (0.0, *np.sqrt(COCO_AREAS).tolist(), np.inf)
"""Where small, medium and large objects begin, in pixels: square roots of COCO's areas."""

FINE_SIZES = (0.0, 16.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, np.inf)
"""Finer bins; COCO's bounds are among them."""


@dataclass(frozen=True)
class SizeRecall:
    """Share of the objects that are found, by size."""

    ious: np.ndarray
    """(T,) float64: smallest IoU of a match."""
    edges: np.ndarray
    """(B + 1,) float64: a bin holds the objects whose square root of area is at least its edge and below the next."""
    objects: np.ndarray
    """(B,) int64: objects to be found."""
    found: np.ndarray
    """(B, T) int64: how many of them are found at each IoU threshold."""

    @property
    def recall(self) -> np.ndarray:
        """(B, T) float64: share of the bin's objects that are found; NaN in an empty bin."""
        objects = np.broadcast_to(self.objects[:, None], self.found.shape)
        return np.divide(self.found, objects, out=np.full(self.found.shape, np.nan), where=objects > 0)

    def merged(self, edges: Sequence[float]) -> "SizeRecall":
        """The same in fewer bins; all of `edges` are among the present ones, with the first and the last."""
        starts = np.searchsorted(self.edges, edges[:-1])
        objects, found = (np.add.reduceat(counts, starts, axis=0) for counts in (self.objects, self.found))
        return SizeRecall(self.ious, np.asarray(edges, np.float64), objects, found)


@dataclass(frozen=True)
class PrecisionRecall:
    """COCO's precision-recall curves."""

    ious: np.ndarray
    """(T,) float64."""
    recalls: np.ndarray
    """(R,) float64: 0, 0.01, ... 1."""
    precision: np.ndarray
    """(T, K, R) float64: best precision at that recall or a higher one; NaN for classes without objects. The mean of
    a curve is its AP."""

    @property
    def mean(self) -> np.ndarray:
        """(T, R) float64: mean over the classes that have objects; NaN without any."""
        known = ~np.isnan(self.precision).any(axis=(0, 2))
        if not known.any():
            return np.full((len(self.ious), len(self.recalls)), np.nan)
        return self.precision[:, known].mean(axis=1)


@dataclass(frozen=True)
class Diagnostics:
    """What is told about a result beside its scores and errors."""

    confusion: np.ndarray
    """(K + 1, K + 1) int64 of :func:`confusion_matrix`."""
    score_threshold: float
    """Smallest score of the detections in `confusion`."""
    iou: float
    """Smallest IoU of a match in `confusion`."""
    recall: SizeRecall
    """In the bins `FINE_SIZES`, at COCO's ten thresholds."""
    precision: PrecisionRecall
    """At IoU 0.5 and 0.75."""

    def record(self, class_names: Sequence[str]) -> dict[str, Any]:
        """All of it in lists and dictionaries, for JSON; None for what does not exist, and for no upper bound."""
        recall, precision = self.recall, self.precision
        curves = zip(class_names, plain(precision.precision.swapaxes(0, 1)), strict=True)
        ious = [f"IoU {iou:g}" for iou in precision.ious]
        return {
            "confusion matrix": {
                "IoU": self.iou,
                "score threshold": self.score_threshold,
                "rows: annotated as": [*class_names, "nothing there"],
                "columns: detected as": [*class_names, "not found"],
                "counts": self.confusion.tolist(),
            },
            "recall by object size": {
                "IoUs": np.round(recall.ious, 2).tolist(),
                "square root of area from": plain(recall.edges[:-1]),
                "below": plain(recall.edges[1:]),
                "objects": recall.objects.tolist(),
                "found at each IoU": recall.found.tolist(),
                "recall at each IoU": plain(recall.recall),
            },
            "precision at recall": {
                "recalls": np.round(precision.recalls, 2).tolist(),
                "mean": dict(zip(ious, plain(precision.mean), strict=True)),
                "classes": {name: dict(zip(ious, of_class, strict=True)) for name, of_class in curves},
            },
        }


def diagnose(
    detections: Detections, annotations: Annotations, score_threshold: float = 0.5, iou: float = 0.5
) -> Diagnostics:
    """Confusion matrix, recall by object size, and precision by recall.

    Args:
        detections: D detections in the images of `annotations`.
        annotations: M objects of K classes.
        score_threshold: for :func:`confusion_matrix`.
        iou: likewise.

    Raises:
        UserError: the set has no annotations.
    """
    return Diagnostics(
        confusion=confusion_matrix(detections, annotations, score_threshold, iou),
        score_threshold=score_threshold,
        iou=iou,
        recall=recall_by_size(detections, annotations, COCO_IOUS),
        precision=precision_recall(detections, annotations),
    )


def confusion_matrix(
    detections: Detections, annotations: Annotations, score_threshold: float = 0.5, iou: float = 0.5
) -> np.ndarray:
    """What objects of each class are taken for.

    Detections are matched by COCO's rule as if all classes were one, so that a detection goes to the object it overlaps
    most, whatever that is. The best 100 of an image take part. Of the others, those that lie in an ignored object of
    their own class are left out.

    Args:
        detections: D detections in the images of `annotations`.
        annotations: M objects of K classes.
        score_threshold: detections scored lower are left out: the many weak ones that every detector gives would fill
            the background's row and say nothing about the classes.
        iou: smallest IoU of a match.

    Returns:
        (K + 1, K + 1) int64: objects of the row's class that were detected as the column's. The last row counts
        detections without an object, the last column objects without a detection.

    Raises:
        UserError: the set has no annotations.
    """
    confident = detections.select(detections.scores >= score_threshold)
    ious = np.array([iou])
    # What may not be matched gets label 0, which no detection has.
    one_class = replace(annotations, labels=(~annotations.ignore).astype(np.int64))
    matches = coco_matches(replace(confident, labels=np.ones_like(confident.labels)), one_class, ious)
    crowds = replace(annotations, labels=np.where(annotations.ignore, annotations.labels, 0))
    excused = coco_matches(confident, crowds, ious).ignored[0]
    background = len(annotations.class_names)
    objects = matches.objects[0]
    counted = ~matches.ignored[0] & ~(excused & (objects < 0))
    actual = np.append(annotations.labels - 1, background)[objects[counted]]
    lost = ~annotations.ignore
    lost[objects[objects >= 0]] = False
    matrix = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(matrix, (actual, confident.labels[counted] - 1), 1)
    matrix[:-1, -1] = np.bincount(annotations.labels[lost] - 1, minlength=background)
    return matrix


def recall_by_size(
    detections: Detections, annotations: Annotations, ious: Sequence[float], edges: Sequence[float] = FINE_SIZES
) -> SizeRecall:
    """Share of the objects of each size that are found by at most 100 detections of an image and class.

    Size is the square root of the area, which COCO counts inside the outline. Every object weighs the same, where
    COCO's AR weighs every class the same; and objects of other sizes take detections as usual.

    Args:
        detections: D detections in the images of `annotations`.
        annotations: M objects.
        ious: T smallest IoUs of a match; `COCO_IOUS` for a mean like COCO's AR.
        edges: (B + 1,) bounds of the bins in pixels.

    Raises:
        UserError: the set has no annotations.
    """
    matches = coco_matches(detections, annotations, np.asarray(ious, np.float64))
    found = np.zeros((len(ious), len(annotations.boxes)), bool)
    threshold, detection = np.nonzero(matches.true)
    found[threshold, matches.objects[threshold, detection]] = True
    bins = np.searchsorted(edges, np.sqrt(annotations.areas), side="right") - 1
    inside = ~annotations.ignore & (bins >= 0) & (bins < len(edges) - 1)
    count = len(edges) - 1
    return SizeRecall(
        ious=np.asarray(ious, np.float64),
        edges=np.asarray(edges, np.float64),
        objects=np.bincount(bins[inside], minlength=count),
        found=np.stack([np.bincount(bins[inside & own], minlength=count) for own in found], axis=1),
    )


def precision_recall(
    detections: Detections, annotations: Annotations, ious: Sequence[float] = (0.5, 0.75)
) -> PrecisionRecall:
    """COCO's curves of every class at the T thresholds `ious`.

    Raises:
        UserError: the set has no annotations.
    """
    ranking = coco_ranking(detections, annotations, np.asarray(ious, np.float64))
    precision = ranking.weigh(np.ones(len(annotations), np.int64)).at(COCO_RECALLS)
    return PrecisionRecall(np.asarray(ious, np.float64), COCO_RECALLS, precision)
