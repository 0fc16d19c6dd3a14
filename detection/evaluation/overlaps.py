"""Intersection over union of boxes, pair by pair.

A matrix of all detections and all objects would not fit into memory; the pairs that can overlap at all, those of one
image, do, a chunk at a time.

Letters: ``D`` detections, ``M`` objects, ``P`` pairs of a detection and an object, ``R`` rows (detections,
mostly) that each have a range of partners.
"""

from collections.abc import Iterator

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections

PAIRS_AT_ONCE = 500_000
"""Pairs whose IoU is held in memory at a time (about 100 MB)."""


def candidates(
    detections: Detections, annotations: Annotations, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The objects of each detection's image and class.

    Args:
        detections: D detections in the images of `annotations`.
        annotations: M objects.
        objects: (N,) which of them take part, ascending.

    Returns:
        (N,) the objects grouped by image and class, ascending inside a group; (D,) the place where each detection's
        group begins; (D,) how many it holds.
    """
    width = len(annotations.class_names) + 1
    keys = (annotations.image_of_object * width + annotations.labels)[objects]
    order = np.argsort(keys, kind="stable")
    wanted = detections.image_indices * width + detections.labels
    first = np.searchsorted(keys[order], wanted, side="left")
    return objects[order], first, np.searchsorted(keys[order], wanted, side="right") - first


def chunks(rows: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of the (R,) `rows` whose `counts` of partners add up to about `PAIRS_AT_ONCE`."""
    before = np.cumsum(counts) - counts
    bins = before // PAIRS_AT_ONCE
    yield from (part for part in np.split(rows, np.flatnonzero(np.diff(bins)) + 1) if len(part))


def spell_out(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spells out the R ranges ``first[r] ... first[r] + counts[r] - 1``.

    Returns:
        where each range starts among the P pairs; (P,) range r of each pair; (P,) its member of the range.
    """
    starts = np.cumsum(counts) - counts
    rows = np.repeat(np.arange(len(counts)), counts)
    return starts, rows, first[rows] + np.arange(len(rows)) - starts[rows]


def pairwise_iou(
    boxes: np.ndarray, others: np.ndarray, *, margin: float = 0.0, crowd: np.ndarray | None = None
) -> np.ndarray:
    """(P,) float64 IoU of two (P, 4) arrays of boxes.

    Args:
        margin: each side counts as so much shorter than in our coordinates.
        crowd: (P,) bool, where given: the other box is a crowd, and the share of the first box inside it is taken
            instead of the IoU (COCO).
    """
    x1, y1, x2, y2 = boxes.T.astype(np.float64)
    left, top, right, bottom = others.T.astype(np.float64)
    width = np.minimum(x2, right) - np.maximum(x1, left) - margin
    height = np.minimum(y2, bottom) - np.maximum(y1, top) - margin
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    own = (x2 - x1 - margin) * (y2 - y1 - margin)
    union = own + (right - left - margin) * (bottom - top - margin) - shared
    if crowd is not None:
        union = np.where(crowd, own, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def first_largest(values: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(R,) index of the largest of the (P,) `values` of each row, of equals the first; as from :func:`spell_out`."""
    largest = np.flatnonzero(values == np.maximum.reduceat(values, starts)[rows])
    return largest[np.searchsorted(rows[largest], np.arange(len(starts)))]
