"""Average precision from a ranking with verdicts, for images that count several times or not at all.

An image of weight w stands for w copies of it. Their detections have equal scores and form runs of w true (or w false)
detections, of which only the end is looked at here. That is exact: along a run of true ones the precision rises, so the
best precision at a recall inside the run, or a higher one, is found at the run's end or later; false ones matter only
by their number before the next true one. So every AP by an envelope (COCO's 101 recalls, VOC's 11, the area) is that of
the copies one by one. It differs a little where an image has several detections of one class with the same score: here
each comes with all its copies, where copies scored one by one would come in turns.

Letters: ``D`` detections of the ranking, ``M`` objects, ``K`` classes, ``T`` verdicts on each detection (one for each
IoU threshold), ``S = T * K`` curves, ``E`` true detections of all curves, ``R`` recalls, ``I`` images.
"""

from dataclasses import dataclass

import numpy as np

from detection.config import VOCMetricSettings
from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.matching import COCO_IOUS, coco_matches
from detection.evaluation.voc import voc_matches


def coco_ranking(detections: Detections, annotations: Annotations, ious: np.ndarray = COCO_IOUS) -> "Ranking":
    """Detections in COCO's order with COCO's verdicts at the (T,) thresholds."""
    matches = coco_matches(detections, annotations, ious)
    order = coco_order(detections)
    true, counted = matches.true[:, order], ~matches.ignored[:, order]
    return Ranking.build(detections.select(order), annotations, true, counted, ~annotations.ignore)


def coco_order(detections: Detections) -> np.ndarray:
    """(D,) detections by class, then by descending score; ties by image, then in their order (pycocotools)."""
    return np.lexsort((detections.image_indices, -detections.scores, detections.labels))


def voc_ranking(detections: Detections, annotations: Annotations, settings: VOCMetricSettings) -> "Ranking":
    """Detections in the devkit's order with the devkit's verdict (T = 1)."""
    matches = voc_matches(
        detections, annotations, iou=settings.iou, pixels=settings.pixels, difficult=settings.difficult
    )
    ranked = detections.select(matches.order)
    return Ranking.build(ranked, annotations, matches.true[None], matches.counted[None], matches.wanted)


@dataclass(frozen=True)
class Ranking:
    """Detections by class and descending score, reduced to what their curves depend on."""

    images: np.ndarray
    """(D,) int64: image of each detection."""
    wanted: np.ndarray
    """(M', 2) int64: class index and image of each object that is to be found."""
    classes: int
    thresholds: int
    bounds: np.ndarray
    """(S + 1,) int64: where each curve begins among the E true detections; threshold by threshold, class by class."""
    true_images: np.ndarray
    """(E,) int64: image of each true detection."""
    before: np.ndarray
    """(E,) int64: how many of the D detections stand before the end of each true one, itself included."""
    before_class: np.ndarray
    """(S,) int64: how many of them stand before the class."""
    left_out_images: np.ndarray
    """(L,) int64: image of each detection that does not count, in the order of the curves."""
    left_out_before: np.ndarray
    """(E,) int64: how many of the L stand before each true detection."""
    left_out_before_curve: np.ndarray
    """(S,) int64: how many of them stand before the curve."""

    @classmethod
    def build(
        cls, ranked: Detections, annotations: Annotations, true: np.ndarray, counted: np.ndarray, wanted: np.ndarray
    ) -> "Ranking":
        """From verdicts.

        Args:
            ranked: D detections by class, then by descending score.
            annotations: M objects.
            true: (T, D) bool, in the order of `ranked`.
            counted: (T, D) bool: true or false; the others are passed over.
            wanted: (M,) bool: the objects to be found.
        """
        kept = counted.any(axis=0)
        ranked, true, counted = ranked.select(kept), true[:, kept], counted[:, kept]
        thresholds, classes, total = len(true), len(annotations.class_names), len(ranked)
        starts = np.searchsorted(ranked.labels, np.arange(1, classes + 1))
        curve_starts = (np.arange(thresholds)[:, None] * total + starts).ravel()
        true_places, left_out = np.flatnonzero(true), np.flatnonzero(~counted)
        positions = true_places % max(total, 1)
        return cls(
            images=ranked.image_indices,
            wanted=np.stack([annotations.labels - 1, annotations.image_of_object], axis=1)[wanted],
            classes=classes,
            thresholds=thresholds,
            bounds=np.append(np.searchsorted(true_places, curve_starts), len(true_places)),
            true_images=ranked.image_indices[positions],
            before=positions + 1,
            before_class=np.tile(starts, thresholds),
            left_out_images=ranked.image_indices[left_out % max(total, 1)],
            left_out_before=np.searchsorted(left_out, true_places),
            left_out_before_curve=np.searchsorted(left_out, curve_starts),
        )

    def weigh(self, weights: np.ndarray) -> "Curves":
        """The S curves when image i counts ``weights[i]`` times ((I,) int64)."""
        lengths = np.diff(self.bounds)
        found = _running(weights[self.true_images])
        ranked, passed_over = _running(weights[self.images]), _running(weights[self.left_out_images])
        # All that stood before, less what stood before the curve.
        seen = ranked[self.before] - passed_over[self.left_out_before]
        seen -= np.repeat(ranked[self.before_class] - passed_over[self.left_out_before_curve], lengths)
        own = found[1:] - np.repeat(found[self.bounds[:-1]], lengths)
        precision = own / np.maximum(seen, 1)
        labels, images = self.wanted.T
        objects = np.bincount(labels, weights=weights[images], minlength=self.classes).astype(np.int64)
        return Curves(self.bounds, found, precision, np.tile(objects, self.thresholds), self.thresholds)


@dataclass(frozen=True)
class Curves:
    """S curves of precision, each a stretch of E true detections."""

    bounds: np.ndarray
    """(S + 1,) int64: where each curve begins."""
    found: np.ndarray
    """(E + 1,) int64: weight of the true detections of all curves before each one."""
    precision: np.ndarray
    """(E,) float64, after each true detection."""
    objects: np.ndarray
    """(S,) int64: weight of the objects to be found."""
    thresholds: int

    def at(self, recalls: np.ndarray) -> np.ndarray:
        """(T, K, R) best precision at each recall or a higher one, 0 if it is not reached; NaN without objects."""
        needed = self.found[self.bounds[:-1], None] + _fewest(self.objects, recalls)
        # `found` grows along all curves, so one search serves them all.
        steps = np.searchsorted(self.found[1:], needed.ravel()).reshape(needed.shape)
        ends = self.bounds[1:, None]
        reached = steps < ends
        steps = np.minimum(steps, ends)
        # From step to step; the last one runs into the next curve, up to its first step, where precision is 0 still.
        best = np.maximum.reduceat(np.append(self.precision, 0.0), steps.ravel()).reshape(steps.shape)
        best = np.where(reached, best, 0.0)
        best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
        best[self.objects == 0] = np.nan
        return best.reshape(self.thresholds, -1, len(recalls))

    def area(self) -> np.ndarray:
        """(T, K) area under the best precision at each recall or a higher one; NaN without objects."""
        lengths = np.diff(self.bounds)
        # A curve further back starts at a higher level, so that one running maximum serves them all.
        level = np.repeat(2.0 * np.arange(len(lengths))[::-1], lengths)
        envelope = np.maximum.accumulate((self.precision + level)[::-1])[::-1] - level
        under = np.append(0.0, np.cumsum(np.diff(self.found) * envelope))
        area = np.diff(under[self.bounds])
        known = self.objects > 0
        return np.divide(area, self.objects, out=np.full(len(area), np.nan), where=known).reshape(self.thresholds, -1)


def _running(weights: np.ndarray) -> np.ndarray:
    """(N + 1,) sums of the first 0, 1, ... N weights."""
    sums = np.zeros(len(weights) + 1, np.int64)
    np.cumsum(weights, out=sums[1:])
    return sums


def _fewest(objects: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """(S, R) int64: the smallest n >= 1 for which n / objects, in float64, is at least the recall."""
    of = np.maximum(objects, 1)[:, None]
    fewest = np.ceil(of * recalls)
    fewest -= (fewest - 1) / of >= recalls
    fewest += fewest / of < recalls
    return np.maximum(fewest, 1).astype(np.int64)
