"""COCO's assignment of detections to objects, for every IoU threshold at once.

The rule is that of pycocotools (COCOeval.evaluateImg, area range "all"). It is sequential: within an image and class a
detection may take only what better ones have left over. But images and classes do not touch each other, nor do
thresholds, so all detections of the same rank choose together: at most `max_detections` rounds, each of whole arrays.

Letters: ``D`` detections, ``M`` objects, ``T`` thresholds, ``P`` pairs of a detection and an object of the same image
and class.
"""

from dataclasses import dataclass

import numpy as np

from detection.data.box_forms import boxes_from_coco, boxes_to_coco
from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.overlaps import candidates, chunks, pairwise_iou, spell_out

COCO_IOUS = np.linspace(0.5, 0.95, 10)
"""(10,) float64: the thresholds of COCO's AP, .5, .55, ... .95, computed as pycocotools does."""

COCO_RECALLS = np.linspace(0, 1, 101)
"""(101,) float64: the recalls at which COCO's AP takes the precision."""


@dataclass(frozen=True)
class Matches:
    """Which object each detection is matched to, at T thresholds."""

    ious: np.ndarray
    """(T,) float64: smallest IoU of a match."""
    objects: np.ndarray
    """(T, D) int64: index of the matched object, or -1."""
    ignored: np.ndarray
    """(T, D) bool: matched to an ignored object, or beyond the best `max_detections` of its image and class: such a
    detection is neither true nor false."""

    @property
    def true(self) -> np.ndarray:
        """(T, D) bool: the detection finds an object that is to be found."""
        return (self.objects >= 0) & ~self.ignored


def coco_matches(
    detections: Detections, annotations: Annotations, ious: np.ndarray = COCO_IOUS, max_detections: int = 100
) -> Matches:
    """Matches detections to objects by COCO's rule.

    In each image and class, detections choose by descending score, ties in their order, only the best
    `max_detections`. Each takes the object of largest IoU, of equals the last, among those not yet taken whose IoU is
    at least the threshold. Ordinary objects go before ignored ones of whatever IoU. Ignored objects count as crowds:
    they can be taken again and again, and instead of the IoU the share of the detection inside them is taken.

    Args:
        detections: D detections in the images of `annotations`.
        annotations: M objects.
        ious: (T,) thresholds; above 1 - 1e-10 they count as that (pycocotools).
        max_detections: detections of an image and class that may match.

    Raises:
        UserError: the set has no annotations.
    """
    annotations.require_annotated()
    ious = np.asarray(ious, np.float64)
    rank = ranks(detections, len(annotations.class_names))
    rows, objects, overlaps = _pairs(detections, annotations, rank < max_detections, ious.min())
    order = np.lexsort((overlaps, ~annotations.ignore[objects], rows, rank[rows]))
    taken_by = _choose(rank, rows[order], objects[order], overlaps[order], annotations.ignore, ious)
    to_ignored = (taken_by >= 0) & np.append(annotations.ignore, False)[taken_by]
    return Matches(ious, taken_by, to_ignored | (rank >= max_detections))


def ranks(detections: Detections, classes: int) -> np.ndarray:
    """(D,) int64: how many detections of the same image and class stand before each one, by score, then by order."""
    keys = detections.image_indices * (classes + 1) + detections.labels
    order = np.lexsort((-detections.scores, keys))  # a stable sort
    _, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
    rank = np.empty(len(detections), np.int64)
    rank[order] = np.arange(len(detections)) - np.repeat(starts, sizes)
    return rank


def coco_boxes(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) float64 boxes whose far corners are those of COCO's x, y, w, h, to the bit."""
    return boxes_from_coco(boxes_to_coco(boxes))


def _pairs(
    detections: Detections, annotations: Annotations, allowed: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All P pairs of an allowed detection and an object with IoU >= `least`: detections, objects, IoUs.

    They are ordered by detection, then by object.
    """
    objects, first, counts = candidates(detections, annotations, np.arange(len(annotations.boxes)))
    found, own = coco_boxes(detections.boxes), coco_boxes(annotations.boxes)
    paired = np.flatnonzero(allowed & (counts > 0))
    parts = []
    for part in chunks(paired, counts[paired]):
        _, rows, members = spell_out(first[part], counts[part])
        rows, members = part[rows], objects[members]
        overlaps = pairwise_iou(found[rows], own[members], crowd=annotations.ignore[members])
        enough = (overlaps >= min(least, 1 - 1e-10)) & (overlaps > 0)
        parts.append((rows[enough], members[enough], overlaps[enough]))
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    rows, members, overlaps = (np.concatenate(column) for column in zip(none, *parts, strict=True))
    return rows, members, overlaps


def _choose(
    rank: np.ndarray,
    rows: np.ndarray,
    objects: np.ndarray,
    overlaps: np.ndarray,
    ignore: np.ndarray,
    ious: np.ndarray,
) -> np.ndarray:
    """(T, D) object taken by each detection, or -1.

    Args:
        rank: (D,) place of each detection within its image and class.
        rows, objects, overlaps: (P,) the pairs, by rank, then by detection, then in the order of rising preference.
        ignore: (M,) objects that many may take.
        ious: (T,) thresholds.
    """
    taken_by = np.full((len(ious), len(rank)), -1)
    free = np.ones((len(ious), len(ignore)), bool)
    enough = overlaps >= np.minimum(ious, 1 - 1e-10)[:, None]
    bounds = np.searchsorted(rank[rows], np.arange(rank[rows].max(initial=-1) + 2))
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        if start == end:
            continue
        pairs = objects[start:end]
        own, starts = np.unique(rows[start:end], return_index=True)
        eligible = enough[:, start:end] & free[:, pairs]
        last = np.maximum.reduceat(np.where(eligible, np.arange(end - start), -1), starts, axis=1)
        chosen = np.where(last >= 0, pairs[last], -1)
        taken_by[:, own] = chosen
        threshold, column = np.nonzero((chosen >= 0) & ~ignore[chosen])
        free[threshold, chosen[threshold, column]] = False
    return taken_by
