"""What happens to an image between the file and the batch: augmentation, then one resizing, all on uint8.

Letters: ``N`` objects of an image, ``H, W`` rows and columns.
"""

import os
import random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detection.config import AugmentSettings, DataSettings
from detection.data.dataset import ImageSize, resize, resized_size

if TYPE_CHECKING:
    import albumentations


class Transformed(NamedTuple):
    """What the transforms return."""

    image: np.ndarray
    """(H, W, 3) uint8, resized."""
    boxes: np.ndarray
    """(N, 4) float32 in pixels of the resized image."""
    labels: np.ndarray
    """(N,) int64"""
    ignore: np.ndarray
    """(N,) bool"""
    original_size: tuple[int, int]
    """Rows and columns before resizing, after any crop."""


class TrainTransform:
    """Augments and resizes a training image; all that is random follows from (seed, position) alone."""

    def __init__(self, settings: DataSettings, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._augment = Augmentation(settings.augment)

    def __call__(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        ignore: np.ndarray,
        position: int,
        index: int = 0,
    ) -> Transformed:
        """Transforms one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes: (N, 4) float32 in pixels of that image, inside it.
            labels: (N,) int64.
            ignore: (N,) bool.
            position: place of the sample in the run.
            index: of the image in its set; it makes no difference.
        """
        rng = np.random.default_rng([self._seed, position])
        if rng.random() < self._settings.augment.crop:
            image, boxes = _crop(image, boxes, rng)
        image, boxes, kept = self._augment(image, boxes, rng)
        factor = rng.uniform(*self._settings.augment.scale_jitter)
        shorter = factor * rng.choice(self._settings.min_size)
        size = resized_size(image.shape[:2], shorter, factor * self._settings.max_size)
        return _resized(image, boxes, labels[kept], ignore[kept], size)


class Augmentation:
    """Mirrors an image, varies its colours, and takes its boxes along, as `hflip`, `vflip` and `colour` say."""

    def __init__(self, augment: AugmentSettings) -> None:
        self._compose = _pipeline(augment) if max(augment.hflip, augment.vflip, augment.colour) > 0 else None

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, boxes, and which of the boxes given those are: labels and flags are taken along by it."""
        if self._compose is None:
            return image, boxes, np.arange(len(boxes))
        # One generator for all transforms. With `set_random_seed` each would begin the same sequence by itself, and
        # an image would be flipped both ways or not at all.
        self._compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        result = self._compose(image=image, bboxes=boxes, index=np.arange(len(boxes)))
        boxes = np.asarray(result["bboxes"], np.float32).reshape(-1, 4)
        return result["image"], boxes, np.asarray(result["index"], np.int64)


class TestTransform:
    """Resizes an image as at test time."""

    __test__ = False  # for pytest, which takes the name for a test

    def __init__(self, size: ImageSize) -> None:
        self._size = size

    def __call__(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        ignore: np.ndarray,
        position: int = 0,
        index: int = 0,
    ) -> Transformed:
        """Transforms one image; arguments as :class:`TrainTransform`'s; `position` and `index` make no difference."""
        return _resized(image, boxes, labels, ignore, self._size.resized(image.shape[:2]))


def _pipeline(augment: AugmentSettings) -> "albumentations.Compose":
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version when imported
    import albumentations as A

    return A.Compose(
        [
            A.HorizontalFlip(p=augment.hflip),
            A.VerticalFlip(p=augment.vflip),
            A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.05, 0.05), p=augment.colour),
        ],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["index"], clip=True, filter_invalid_bboxes=True),
    )


def _crop(image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random window of whole pixels around all boxes, or at least half as high and wide when there is none.

    Albumentations' own (BBoxSafeRandomCrop) rounds its far edges down, and so cuts off up to a pixel of the boxes.
    """
    spans = []
    for axis, length in ((0, image.shape[1]), (1, image.shape[0])):
        low, high = _must_keep(boxes[:, axis], boxes[:, axis + 2], length, rng)
        spans.append((int(rng.integers(0, low, endpoint=True)), int(rng.integers(high, length, endpoint=True))))
    (x1, x2), (y1, y2) = spans
    return image[y1:y2, x1:x2], boxes - np.array([x1, y1, x1, y1], np.float32)


def _must_keep(starts: np.ndarray, ends: np.ndarray, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """First and last edge between whole pixels that the window must reach, along one axis."""
    if len(starts):
        return int(np.floor(starts.min())), int(np.ceil(ends.max()))
    half = (length + 1) // 2
    low = int(rng.integers(0, length - half, endpoint=True))
    return low, low + half


def _resized(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, ignore: np.ndarray, size: tuple[int, int]
) -> Transformed:
    rows, columns = image.shape[:2]
    scale = np.array([size[1] / columns, size[0] / rows] * 2)
    boxes = np.clip(boxes * scale, 0, [size[1], size[0]] * 2).astype(np.float32)  # float32 may step over the edge
    return Transformed(resize(image, size), boxes, labels, ignore, (rows, columns))
