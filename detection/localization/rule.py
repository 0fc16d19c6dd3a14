"""ILSVRC's rule: when a guessed label and box are right, and the errors that follow (eval_clsloc.m of the devkit).

A guess is right when its label is the image's class and its box has an IoU of at least 0.5 with one of the objects of
that class. An image is an error unless one of its first g guesses is right. The devkit adds 1 to the sides of its
inclusive boxes; with x2 = xmax + 1 and y2 = ymax + 1, as everywhere here, the ordinary IoU is the same number.

Letters: ``I`` images, ``G`` guesses of an image (ILSVRC: 5), ``M`` objects, ``S`` intervals of a grid.
"""

from dataclasses import dataclass

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.overlaps import candidates, pairwise_iou, spell_out
from detection.localization.single import image_labels

GRID = 20
"""Steps of an image's side at which the corners of a constant box are tried."""

MOST_IMAGES = 2000
"""So many training images, evenly spread, choose the constant box: 44,100 boxes are tried on each."""


@dataclass(frozen=True)
class Guesses:
    """What is guessed for each image, best first."""

    labels: np.ndarray
    """(I, G) int64: 1..K; 0 where there is no guess."""
    boxes: np.ndarray
    """(I, G, 4) float64: x1, y1, x2, y2 in continuous pixels of the original image."""


@dataclass(frozen=True)
class LocalizationScores:
    """Errors as shares, 0..1, of the images that have an object; `classification` of those whose class is known."""

    top: np.ndarray
    """(G,) float64: localization error when the first 1..G guesses count. The last of five is ILSVRC's number."""
    classification: np.ndarray
    """(G,) float64: the share of images whose class is not among the first 1..G guesses, whatever their boxes."""
    images: int
    """How many images have an object."""
    classified_images: int
    """How many images have a known class, with an object or without."""
    given: float
    """Localization error with the class given: of the `given_images`, those whose first box of that class is wrong."""
    given_images: int
    """How many of `images` have their class among the guesses."""


def localization_scores(guesses: Guesses, annotations: Annotations, iou: float = 0.5) -> LocalizationScores:
    """The errors of guesses for the I images of `annotations`; NaN where no image counts.

    Args:
        guesses: in the order of the images.
        annotations: I images; ignored objects (difficult, crowd) are not there.
        iou: a box is right from this IoU on.
    """
    has_object = counted(annotations)
    best = best_ious(guesses, annotations)
    boxless = np.flatnonzero(~has_object & (image_labels(annotations) > 0))
    named_boxless = guesses.labels[boxless] == image_labels(annotations)[boxless, None]
    best = best[has_object]
    named, right = best >= 0, best >= iou
    guessed = named.any(axis=1)
    first_of_class = right[guessed, named[guessed].argmax(axis=1)]
    return LocalizationScores(
        top=_error_shares(right),
        classification=_error_shares(np.concatenate([named, named_boxless])),
        images=len(best),
        classified_images=len(best) + len(boxless),
        given=_share(~first_of_class),
        given_images=len(first_of_class),
    )


def given_class_errors(boxes: np.ndarray, annotations: Annotations, iou: float = 0.5) -> np.ndarray:
    """(I,) bool: the one box of each image is wrong, its class being known; true where the image has no object.

    Args:
        boxes: (I, 4) x1, y1, x2, y2 in pixels.
        annotations: I images, the objects of each of one class; see :func:`counted` for which of them count.
        iou: a box is right from this IoU on.
    """
    objects = np.flatnonzero(~annotations.ignore)
    counts = _objects_per_image(annotations)
    return ~(_best(boxes, annotations.boxes[objects], np.cumsum(counts) - counts, counts) >= iou)


def counted(annotations: Annotations) -> np.ndarray:
    """(I,) bool: the image has an object, and so is part of the errors."""
    return _objects_per_image(annotations) > 0


def best_constant_box(train: Annotations, val: Annotations, iou: float = 0.5) -> float:
    """The error on `val`, class given, of the one box in shares of the image's sides that is best on `train`.

    What a localizer must beat that looks at nothing. The sizes of all images must be known; NaN if no image of `val`
    has an object.
    """
    boxes = constant_box(train, iou) * _whole(val)
    return _share(given_class_errors(boxes, val, iou)[counted(val)])


def constant_box(annotations: Annotations, iou: float = 0.5) -> np.ndarray:
    """(4,) float64: x1, y1, x2, y2 in shares of the image's sides that are right in most images.

    IoU does not change when both axes are stretched, so that shares can be compared in place of pixels. All boxes with
    corners on a grid of 5 % are tried; of equals the first, from the top left.
    """
    objects, starts = _objects_in_shares(annotations)
    low, high = (np.linspace(0, 1, GRID + 1)[ends, None] for ends in np.triu_indices(GRID + 1, 1))  # (S, 1) each
    widths, heights = (
        np.clip(np.minimum(high, objects[:, axis + 2]) - np.maximum(low, objects[:, axis]), 0, None) for axis in (0, 1)
    )  # (S, M) each: what an interval shares with an object
    areas = (objects[:, 2] - objects[:, 0]) * (objects[:, 3] - objects[:, 1])
    right = np.empty((len(low), len(low)), np.int64)
    for row, (width, length) in enumerate(zip(widths, high - low, strict=True)):
        shared = width * heights
        hit = shared >= iou * (length * (high - low) + areas - shared)
        right[row] = np.logical_or.reduceat(hit, starts, axis=1).sum(axis=1) if len(starts) else 0
    across, down = np.unravel_index(right.argmax(), right.shape)
    return np.concatenate([low[across], low[down], high[across], high[down]])


def best_ious(guesses: Guesses, annotations: Annotations) -> np.ndarray:
    """(I, G) float64: IoU with the nearest object of the guessed class; -1 where the image has none of that class."""
    images = np.repeat(np.arange(len(annotations)), guesses.labels.shape[1])
    boxes = guesses.boxes.reshape(-1, 4)
    flat = Detections(images, guesses.labels.ravel(), np.zeros(len(images)), boxes)
    objects, first, counts = candidates(flat, annotations, np.flatnonzero(~annotations.ignore))
    return _best(boxes, annotations.boxes[objects], first, counts).reshape(guesses.labels.shape)


def _best(boxes: np.ndarray, objects: np.ndarray, first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R,) largest IoU of each of the (R, 4) boxes with its range of the objects; -1 where that is empty."""
    best = np.full(len(boxes), -1.0)
    rows = np.flatnonzero(counts)
    starts, row_of_pair, members = spell_out(first[rows], counts[rows])
    ious = pairwise_iou(boxes[rows[row_of_pair]], objects[members])
    best[rows] = np.maximum.reduceat(ious, starts) if len(rows) else 0
    return best


def _error_shares(right: np.ndarray) -> np.ndarray:
    """(G,) share of the rows of which none of the first 1..G columns of (I, G) `right` is true."""
    missed = ~np.logical_or.accumulate(right, axis=1)
    return np.array([_share(column) for column in missed.T])


def _share(wrong: np.ndarray) -> float:
    return float(wrong.mean()) if len(wrong) else float("nan")


def _objects_per_image(annotations: Annotations) -> np.ndarray:
    """(I,) int64: how many objects that are not ignored each image has."""
    return np.bincount(annotations.image_of_object[~annotations.ignore], minlength=len(annotations))


def _whole(annotations: Annotations) -> np.ndarray:
    """(I, 4): columns, rows, columns, rows of each image."""
    return annotations.sizes[:, [1, 0, 1, 0]].astype(np.float64)


def _objects_in_shares(annotations: Annotations) -> tuple[np.ndarray, np.ndarray]:
    """(M, 4) boxes in shares of their images' sides, and where each image's begin; of at most `MOST_IMAGES` images."""
    images = np.flatnonzero(counted(annotations))
    if len(images) > MOST_IMAGES:
        images = images[np.linspace(0, len(images) - 1, MOST_IMAGES).astype(np.int64)]
    owners = annotations.image_of_object
    rows = np.flatnonzero(~annotations.ignore & np.isin(owners, images))
    starts = np.searchsorted(owners[rows], images)
    return annotations.boxes[rows] / _whole(annotations)[owners[rows]], starts
