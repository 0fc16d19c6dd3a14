"""What is in a data set: how many objects of which class, how large after resizing, and how well anchors fit them.

Letters: ``I`` images, ``M`` objects of all images, ``K`` classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from detection.config import Config
from detection.data.anchor_fit import best_ious
from detection.data.dataset import COCO_AREAS, Annotations, resized_size

RANGES = ("small", "medium", "large")
"""COCO's ranges of an object's area."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
TINY_ORIGINAL, TINY_RESIZED = 1.0, 4.0
"""A box is tiny with a side below one pixel of the image, or below the finest pyramid level's stride when resized."""

IMAGES_AT_ONCE = 2048
"""Images that are looked through together for repeated objects."""


@dataclass(frozen=True)
class AnchorFit:
    """Best IoU that an anchor reaches, over the objects of one range that training would ask for."""

    objects: int
    mean: float
    """Of the best IoU; NaN without objects."""
    below_fg: int
    """Objects whose best anchor stays below `model.rpn.fg_iou`: it is positive only for being the best."""
    below_bg: int
    """Of these, below `model.rpn.bg_iou`: other anchors on the object all count as background."""
    untouched: int
    """Of these, touched by no anchor at all: never learned."""


@dataclass(frozen=True)
class Survey:
    """The numbers of one set. Objects that are ignored (difficult, crowd) count as objects, not as targets."""

    images: int
    annotated: bool
    empty: int
    """Images without objects."""
    objects: int
    ignored: int
    per_class: np.ndarray
    """(K,) objects."""
    images_per_class: np.ndarray
    """(K,) images that show the class."""
    per_range: np.ndarray
    """(3,) objects that are small, medium and large by COCO's areas of the original image."""
    resized_to: tuple[int, int]
    """Shorter side, and limit of the longer side, that the following numbers are for."""
    sides: np.ndarray
    """(Q,) quantiles of the square root of an object's area, in pixels of the resized image; NaN without objects."""
    ratios: np.ndarray
    """(Q,) quantiles of height over width, resized."""
    anchors: dict[str, AnchorFit]
    """By range, and "all"."""
    tiny: np.ndarray
    """Indices of objects with a tiny side."""
    repeated: np.ndarray
    """Indices of objects that repeat the label and the box of an earlier one in their image."""

    def as_record(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Plain values under speaking names, for JSON; NaN becomes None."""
        per_class = zip(class_names, self.per_class.tolist(), self.images_per_class.tolist(), strict=True)
        return {
            "images": self.images,
            "annotated": self.annotated,
            "images_without_objects": self.empty,
            "objects": self.objects,
            "ignored_objects": self.ignored,
            "classes": {name: {"objects": objects, "images": images} for name, objects, images in per_class},
            "objects_by_coco_area": dict(zip(RANGES, self.per_range.tolist(), strict=True)),
            "resized_to": list(self.resized_to),
            "resized_side_quantiles": _quantile_record(self.sides),
            "resized_height_over_width_quantiles": _quantile_record(self.ratios),
            "anchors": {name: {**vars(fit), "mean": _or_none(fit.mean)} for name, fit in self.anchors.items()},
        }


def survey(annotations: Annotations, config: Config, resized_to: tuple[int, int]) -> Survey:
    """Counts and measures one set.

    Args:
        annotations: as read.
        config: its anchors are tried, on ordinary objects (with `data.difficult` "use" on all).
        resized_to: shorter side and limit of the longer side that images are resized to.
    """
    image, k = annotations.image_of_object, len(annotations.class_names)
    boxes, sizes = resized_boxes(annotations, resized_to)
    lengths = boxes[:, 2:] - boxes[:, :2]
    cut = annotations.cut_boxes()
    original = cut[:, 2:] - cut[:, :2]
    is_tiny = (original.min(axis=1, initial=np.inf) < TINY_ORIGINAL) | (
        lengths.min(axis=1, initial=np.inf) < TINY_RESIZED
    )
    pairs = np.unique(image * (k + 1) + annotations.labels)
    in_range = np.searchsorted(COCO_AREAS, annotations.areas, side="right")
    return Survey(
        images=len(annotations),
        annotated=annotations.annotated,
        empty=int((np.diff(annotations.offsets) == 0).sum()),
        objects=len(boxes),
        ignored=int(annotations.ignore.sum()),
        per_class=np.bincount(annotations.labels, minlength=k + 1)[1:],
        images_per_class=np.bincount(pairs % (k + 1), minlength=k + 1)[1:],
        per_range=np.bincount(in_range, minlength=len(RANGES)),
        resized_to=resized_to,
        sides=_quantiles(np.sqrt(lengths.prod(axis=1))),
        ratios=_quantiles(lengths[:, 1] / np.maximum(lengths[:, 0], 1e-9)),
        anchors=dict(_fits(boxes, sizes[image], in_range, annotations.ignore, config)),
        tiny=np.flatnonzero(is_tiny),
        repeated=_repeated(annotations, image),
    )


def resized_boxes(annotations: Annotations, resized_to: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M, 4) cut to the images, in pixels of the resized ones, and rows and columns (I, 2) of these."""
    distinct, which = np.unique(annotations.sizes, axis=0, return_inverse=True)
    resized = [resized_size(tuple(size), *resized_to) for size in distinct.tolist()]
    sizes = np.array(resized, np.int64).reshape(-1, 2)[which.reshape(-1)]
    scale = (sizes / annotations.sizes)[annotations.image_of_object]
    return annotations.cut_boxes() * scale[:, [1, 0, 1, 0]], sizes


def _fits(
    boxes: np.ndarray, sizes: np.ndarray, in_range: np.ndarray, ignore: np.ndarray, config: Config
) -> Iterator[tuple[str, AnchorFit]]:
    targets = np.flatnonzero(~ignore | (config.data.difficult == "use"))
    ious = best_ious(boxes[targets], sizes[targets], config.model)
    for number, name in enumerate(RANGES):
        yield name, _fit(ious[in_range[targets] == number], config)
    yield "all", _fit(ious, config)


def _fit(ious: np.ndarray, config: Config) -> AnchorFit:
    rpn = config.model.rpn
    below = (int((ious < rpn.fg_iou).sum()), int((ious < rpn.bg_iou).sum()), int((ious == 0).sum()))
    return AnchorFit(len(ious), float(ious.mean()) if len(ious) else float("nan"), *below)


def _repeated(annotations: Annotations, image: np.ndarray) -> np.ndarray:
    """A part of the images at a time: what is sorted stays in the processor's cache."""
    bounds = annotations.offsets[[*range(0, len(annotations), IMAGES_AT_ONCE), len(annotations)]].tolist()
    rows = np.column_stack([image, annotations.labels, annotations.boxes])
    parts = [start + _repeated_rows(rows[start:end]) for start, end in pairwise(bounds)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _repeated_rows(rows: np.ndarray) -> np.ndarray:
    order = np.lexsort(rows.T[::-1])  # stable: of equal rows the first comes first
    is_same = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    return np.sort(order[1:][is_same])


def _quantiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)


def _quantile_record(values: np.ndarray) -> dict[str, float | None]:
    return {f"{quantile:g}": _or_none(value) for quantile, value in zip(QUANTILES, values.tolist(), strict=True)}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
