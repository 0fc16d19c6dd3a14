"""Average precision by the PASCAL VOC protocol, on flat arrays.

The rules are those of the VOC2012 devkit (VOCevaldet.m, VOCap.m), and of its VOC2007 edition for the 11-point AP.

Letters: ``D`` detections, ``M`` objects, ``K`` classes, ``P`` pairs of a detection and an object of the same image
and class.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.means import mean_of_known
from detection.evaluation.overlaps import candidates, chunks, first_largest, pairwise_iou, spell_out

Pixels = Literal["inclusive", "continuous"]
Difficult = Literal["ignore", "drop", "count"]

VOC07_RECALLS = np.arange(0, 1.1, 0.1)
"""(11,) float64: steps as such, of which 0.30000000000000004, 0.6000000000000001 and 0.7000000000000001 lie above the
tenths, so that a recall of exactly 3/10 misses its step. Published numbers of this protocol depend on it."""


@dataclass(frozen=True)
class VOCScores:
    """Scores of K classes and the protocol that they were computed by. Index k is label k + 1."""

    ap_11point: np.ndarray
    """(K,) float64 in [0, 1]: VOC2007's AP; NaN for a class without countable objects."""
    ap_area: np.ndarray
    """(K,) float64 in [0, 1]: the AP of VOC2010 and later; NaN for a class without countable objects."""
    objects: np.ndarray
    """(K,) int64: objects that count as to be found."""
    detections: np.ndarray
    """(K,) int64: detections of the class."""
    recall: tuple[np.ndarray, ...]
    """K curves, each over the detections that count, by descending score; NaN without countable objects."""
    precision: tuple[np.ndarray, ...]
    """K curves beside those of `recall`."""
    iou: float
    """Smallest IoU of a match."""
    pixels: Pixels
    """How box sizes were counted."""
    difficult: Difficult
    """How difficult objects were treated."""

    @property
    def mean_11point(self) -> float:
        """Mean of `ap_11point` over the classes that have countable objects; NaN when none has."""
        return mean_of_known(self.ap_11point)

    @property
    def mean_area(self) -> float:
        """Mean of `ap_area` over the classes that have countable objects; NaN when none has."""
        return mean_of_known(self.ap_area)


def voc_scores(
    detections: Detections,
    annotations: Annotations,
    *,
    iou: float = 0.5,
    pixels: Pixels = "inclusive",
    difficult: Difficult = "ignore",
) -> VOCScores:
    """Scores detections by the devkit's protocol.

    For each class, detections are taken by descending score, ties in their order. Each looks at the object of its
    image that it overlaps most (of equals the first), whether that one is taken or not. It is true if the IoU is at
    least `iou` and the object is not taken yet, false if it is taken or the IoU is less.

    Args:
        detections: D detections in the images of `annotations`.
        annotations: M objects of K classes.
        iou: smallest IoU of a match.
        pixels: "inclusive" counts a box from xmin to xmax of the file as ``xmax - xmin + 1`` wide (the devkit);
            "continuous" as ``xmax - xmin``, for objects and detections alike.
        difficult: "ignore" neither asks for difficult objects nor punishes their detection (the devkit); "drop"
            scores as if they were not annotated; "count" treats them as any other object.

    Raises:
        UserError: the set has no annotations.
    """
    matches = voc_matches(detections, annotations, iou=iou, pixels=pixels, difficult=difficult)
    classes = len(annotations.class_names)
    objects = np.bincount(annotations.labels[matches.wanted], minlength=classes + 1)[1:]
    bounds = np.searchsorted(detections.labels[matches.order], np.arange(1, classes + 2))
    spans = [slice(start, end) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
    true, counted = matches.true, matches.counted
    curves = [_curve(true[span][counted[span]], wanted) for span, wanted in zip(spans, objects, strict=True)]
    return VOCScores(
        ap_11point=np.where(objects > 0, [_ap_11point(*curve) for curve in curves], np.nan),
        ap_area=np.where(objects > 0, [_ap_area(*curve) for curve in curves], np.nan),
        objects=objects,
        detections=np.diff(bounds),
        recall=tuple(recall for recall, _ in curves),
        precision=tuple(precision for _, precision in curves),
        iou=iou,
        pixels=pixels,
        difficult=difficult,
    )


@dataclass(frozen=True)
class VOCMatches:
    """Which detections are true."""

    order: np.ndarray
    """(D,) int64: the detections by class, then by descending score, ties in their order."""
    true: np.ndarray
    """(D,) bool, in that order: finds an object for the first time."""
    counted: np.ndarray
    """(D,) bool, in that order: true or false; the others found difficult objects that are ignored."""
    wanted: np.ndarray
    """(M,) bool: the objects that count as to be found."""


def voc_matches(
    detections: Detections, annotations: Annotations, *, iou: float, pixels: Pixels, difficult: Difficult
) -> VOCMatches:
    """Matches detections to objects; rule, arguments and errors are those of :func:`voc_scores`."""
    annotations.require_annotated()
    present = ~annotations.ignore | (difficult != "drop")
    excused = annotations.ignore & (difficult == "ignore")
    order = np.lexsort((-detections.scores, detections.labels))  # a stable sort
    # Looked up in their own order, mostly image by image: neighbours in memory are read together.
    best, overlap = _best_objects(detections, annotations, present, margin=float(pixels == "continuous"))
    best, overlap = best[order], overlap[order]
    matched = (best >= 0) & (overlap >= iou)
    counted = ~(matched & np.append(excused, False)[best])
    return VOCMatches(order, _first_of_each(best, matched & counted), counted, present & ~excused)


def _best_objects(
    detections: Detections, annotations: Annotations, present: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """(D,) index of the object of the same image and class with the largest IoU, or -1 if none overlaps; (D,) IoU."""
    objects, first, counts = candidates(detections, annotations, np.flatnonzero(present))
    best, overlap = np.full(len(detections), -1), np.zeros(len(detections))
    paired = np.flatnonzero(counts)
    for part in chunks(paired, counts[paired]):
        starts, rows, members = spell_out(first[part], counts[part])
        partners = objects[members]
        values = pairwise_iou(detections.boxes[part][rows], annotations.boxes[partners], margin=margin)
        chosen = first_largest(values, starts, rows)
        best[part], overlap[part] = partners[chosen], values[chosen]
    best[overlap <= 0] = -1
    return best, overlap


def _first_of_each(objects: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(D,) bool: candidates that are the first one of their object."""
    rows = np.flatnonzero(candidates)
    first = np.zeros(len(objects), bool)
    first[rows[np.unique(objects[rows], return_index=True)[1]]] = True
    return first


def _curve(true: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each of the ranked detections of a class."""
    found = np.cumsum(true)
    recall = found / objects if objects else np.full(len(true), np.nan)
    return recall, found / np.arange(1, len(true) + 1)


def _ap_11point(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean, over 11 recalls from 0 to 1, of the best precision at that recall or a higher one (VOC2007)."""
    reached = np.searchsorted(recall, VOC07_RECALLS)
    return float(np.append(_envelope(precision), 0.0)[reached].mean())


def _ap_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the best precision at each recall or a higher one (VOC2010 and later)."""
    return float(np.diff(recall, prepend=0.0) @ _envelope(precision))


def _envelope(precision: np.ndarray) -> np.ndarray:
    """The best precision here or later in the ranking."""
    return np.maximum.accumulate(precision[::-1])[::-1]
