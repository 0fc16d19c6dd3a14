"""Where a detector is weak: which classes it mixes up, which sizes it misses, what precision its recall costs.

Letters: ``D`` detections, ``M`` objects, ``K`` classes, ``T`` IoU thresholds, ``R`` recalls (101), ``B`` bins of size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.curves import coco_ranking
from detection.evaluation.detections import Detections
from detection.evaluation.matching import COCO_RECALLS, coco_matches

COCO_SIZES = (0.0, 32.0, 96.0, np.inf)
"""Where small, medium and large objects begin, in pixels: square roots of COCO's areas."""

FINE_SIZES = (0.0, 16.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, np.inf)
"""Finer bins; COCO's bounds are among them."""


@dataclass(frozen=True)
class SizeRecall:
    """Share of the objects that are found, by size."""

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


def confusion_matrix(
    detections: Detections, annotations: Annotations, score_threshold: float = 0.5, iou: float = 0.5
) -> np.ndarray:
    """What objects of each class are taken for.

    Detections are matched by COCO's rule as if all classes were one, so that a detection goes to the object it overlaps
    most, whatever that is. The best 100 of an image take part. Detections of ignored objects are left out.

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
    one_class = replace(annotations, labels=np.ones_like(annotations.labels))
    matches = coco_matches(replace(confident, labels=np.ones_like(confident.labels)), one_class, np.array([iou]))
    background = len(annotations.class_names)
    objects, counted = matches.objects[0], ~matches.ignored[0]
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
