"""How well the anchors of a recipe fit the objects of a data set: the best IoU that any anchor reaches.

Letters: ``M`` objects, ``S`` anchor shapes of a map. Nothing here runs a network: the grids follow from the sizes.

For one anchor shape on a grid, the IoU with an object grows with their intersection, and the intersection is the
product of an overlap along x and one along y, each of which falls with the distance of the centres. So the best place
of a grid is found along each axis by itself, next to the object's centre, and no anchor has to be listed.
"""

from collections.abc import Iterator

import numpy as np

from detection.config import ModelSettings

STRIDE = 16
"""Pixels between the anchors of the heads without a pyramid (conv4 of a ResNet, conv5_3 of VGG)."""
PYRAMID_STRIDES = (4, 8, 16, 32, 64)
"""The same for the levels P2 to P6 of a pyramid."""


OBJECTS_AT_ONCE = 16384
"""Objects whose arrays stay in the processor's cache while all anchors are tried on them."""


def best_ious(boxes: np.ndarray, sizes: np.ndarray, model: ModelSettings) -> np.ndarray:
    """The best IoU of each object with any anchor.

    Args:
        boxes: (M, 4) in pixels of the resized images.
        sizes: (M, 2) rows and columns of the resized image that each object is in.
        model: sizes and shapes of the anchors; the head says on which grids. With `rpn.ignore_border` anchors that
            cross the border of the image do not count.

    Returns:
        (M,) float64; 0 where no anchor touches the object.
    """
    places = [*range(OBJECTS_AT_ONCE, len(boxes), OBJECTS_AT_ONCE)]
    parts = zip(np.split(boxes, places), np.split(sizes, places), strict=True)
    return np.concatenate([_best_of_part(*part, model) for part in parts])


def _best_of_part(boxes: np.ndarray, sizes: np.ndarray, model: ModelSettings) -> np.ndarray:
    best = np.zeros(len(boxes))
    object_areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for stride, shape in anchor_shapes(model):
        shared = np.ones(len(boxes))
        for axis in (0, 1):
            limits = sizes[:, 1 - axis]
            shared *= _best_overlap(
                boxes[:, axis],
                boxes[:, axis + 2],
                shape[axis] / 2,
                stride,
                limits,
                model.padding,
                model.rpn.ignore_border,
            )
        np.maximum(best, shared / (object_areas + shape.prod() - shared), out=best)
    return best


def anchor_shapes(model: ModelSettings) -> Iterator[tuple[int, np.ndarray]]:
    """Stride and (width, height) of every anchor shape, as torchvision rounds them.

    Its anchors are centred on 0 and their corners rounded to whole pixels, in float32, so that sides are even.
    """
    rpn = model.rpn
    levels = zip(PYRAMID_STRIDES, rpn.anchor_sizes, strict=True)
    grids = [(stride, [size]) for stride, size in levels] if model.head == "fpn" else [(STRIDE, rpn.anchor_sizes)]
    for stride, edges in grids:
        for ratio in np.sqrt(np.array(rpn.anchor_ratios, np.float32)):
            for edge in np.array(edges, np.float32):
                sides = np.array([np.float32(1) / ratio * edge, ratio * edge], np.float32)
                yield stride, 2.0 * np.round(sides / 2).astype(np.float64)


def _best_overlap(
    starts: np.ndarray, ends: np.ndarray, half: float, stride: int, limits: np.ndarray, padding: int, is_inside: bool
) -> np.ndarray:
    """(M,) the longest overlap of objects with anchors of half length `half`, along one axis.

    Args:
        starts, ends: (M,) of the objects.
        limits: (M,) length of the image; the grid covers it and its padding to a multiple of `padding`.
        is_inside: only anchors inside the image count.
    """
    first, last = np.zeros(len(starts)), np.ceil(limits / padding) * (padding // stride) - 1
    if is_inside:
        first, last = np.maximum(first, np.ceil(half / stride)), np.minimum(last, np.floor((limits - half) / stride))
    nearest = np.floor((starts + ends) / 2 / stride)
    best = np.zeros(len(starts))
    for place in (nearest, nearest + 1):
        centre = np.clip(place, first, np.maximum(first, last)) * stride
        overlap = np.minimum(ends, centre + half) - np.maximum(starts, centre - half)
        np.maximum(best, overlap, out=best)
    return np.where(last >= first, best, 0)
