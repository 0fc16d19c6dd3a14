"""What happens to an image between the file and the batch: augmentation, then one resizing, all on uint8.

Letters: ``N`` objects of an image, ``H, W`` rows and columns.
"""

import os
import random
from typing import TYPE_CHECKING, NamedTuple, Protocol

import cv2
import numpy as np

from detection.config import AugmentSettings, DataSettings
from detection.data.dataset import Decoded, ImageSize, resize, resized_size

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


class TrainingTransform(Protocol):
    """What happens to a training image."""

    longest: float
    """No side of what it makes is longer, in pixels."""

    def enough(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns to which an image of `size` may be reduced before it comes: at least what is made of it."""

    def __call__(
        self,
        image: Decoded,
        boxes: np.ndarray,
        labels: np.ndarray,
        ignore: np.ndarray,
        position: int,
        index: int,
    ) -> Transformed:
        """Transforms an image; `position` is its place in the run, `index` that in its set."""


class TrainTransform:
    """Augments and resizes a training image; all that is random follows from (seed, position) alone."""

    def __init__(self, settings: DataSettings, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._augment = Augmentation(settings.augment)
        self.longest = settings.max_size * settings.augment.scale_jitter[1]

    def enough(self, size: tuple[int, int]) -> tuple[int, int]:
        """The largest size that can be drawn, with `reduced_decoding`; all of it if windows may be cut out."""
        settings, factor = self._settings, self._settings.augment.scale_jitter[1]
        if settings.augment.crop > 0 or not settings.reduced_decoding:
            return size
        return resized_size(size, factor * max(settings.min_size), factor * settings.max_size)

    def __call__(
        self,
        image: Decoded,
        boxes: np.ndarray,
        labels: np.ndarray,
        ignore: np.ndarray,
        position: int,
        index: int = 0,
    ) -> Transformed:
        """Transforms one image.

        Args:
            image: reduced to no less than :meth:`enough` says.
            boxes: (N, 4) float32 in pixels of the image as stored, inside it.
            labels: (N,) int64.
            ignore: (N,) bool.
            position: place of the sample in the run.
            index: of the image in its set; it makes no difference.
        """
        rng = np.random.default_rng([self._seed, position])
        if rng.random() < self._settings.augment.crop:
            image, boxes = _crop(image, boxes, rng)
        image, boxes = self._augment(image, boxes, rng)
        factor = rng.uniform(*self._settings.augment.scale_jitter)
        shorter = factor * rng.choice(self._settings.min_size)
        size = resized_size(image.size, shorter, factor * self._settings.max_size)
        return _resized(image, boxes, labels, ignore, size)


class Augmentation:
    """Mirrors an image, varies its colours, and takes its boxes along, as `hflip`, `vflip` and `colour` say."""

    def __init__(self, augment: AugmentSettings) -> None:
        self._augment = augment
        self._jitter = _colour_jitter() if augment.colour > 0 else None

    def __call__(self, image: Decoded, boxes: np.ndarray, rng: np.random.Generator) -> tuple[Decoded, np.ndarray]:
        """Image, and boxes (N, 4) float32 in pixels of it as stored, in the same order."""
        pixels, size = image
        if rng.random() < self._augment.hflip:
            pixels, boxes = cv2.flip(pixels, 1), _mirrored(boxes, size[1], 0)
        if rng.random() < self._augment.vflip:
            pixels, boxes = cv2.flip(pixels, 0), _mirrored(boxes, size[0], 1)
        if rng.random() < self._augment.colour:
            self._jitter.set_random_state(rng, random.Random(int(rng.integers(2**63))))
            pixels = self._jitter(image=pixels)["image"]
        return Decoded(pixels, size), boxes


class TestTransform:
    """Resizes an image as at test time."""

    __test__ = False  # for pytest, which takes the name for a test

    def __init__(self, size: ImageSize) -> None:
        self._size = size

    def enough(self, size: tuple[int, int]) -> tuple[int, int]:
        """What an image of `size` is resized to."""
        return self._size.resized(size)

    def __call__(
        self,
        image: Decoded,
        boxes: np.ndarray,
        labels: np.ndarray,
        ignore: np.ndarray,
        position: int = 0,
        index: int = 0,
    ) -> Transformed:
        """Transforms one image; arguments as :class:`TrainTransform`'s; `position` and `index` make no difference."""
        return _resized(image, boxes, labels, ignore, self._size.resized(image.size))


def _colour_jitter() -> "albumentations.ColorJitter":
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version when imported
    import albumentations as A

    return A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.05, 0.05), p=1.0)


def _mirrored(boxes: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Boxes (N, 4) in the image mirrored along `axis`, 0 or 1 for x or y, which is `length` pixels long."""
    boxes = boxes.copy()
    boxes[:, [axis, axis + 2]] = length - boxes[:, [axis + 2, axis]]
    return boxes


def _crop(image: Decoded, boxes: np.ndarray, rng: np.random.Generator) -> tuple[Decoded, np.ndarray]:
    """A random window of whole pixels around all boxes, or at least half as high and wide when there is none.

    The image must not be reduced.
    Albumentations' own (BBoxSafeRandomCrop) rounds its far edges down, and so cuts off up to a pixel of the boxes.
    """
    spans = []
    for axis, length in ((0, image.size[1]), (1, image.size[0])):
        low, high = _must_keep(boxes[:, axis], boxes[:, axis + 2], length, rng)
        spans.append((int(rng.integers(0, low, endpoint=True)), int(rng.integers(high, length, endpoint=True))))
    (x1, x2), (y1, y2) = spans
    return Decoded.whole(image.pixels[y1:y2, x1:x2]), boxes - np.array([x1, y1, x1, y1], np.float32)


def _must_keep(starts: np.ndarray, ends: np.ndarray, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """First and last edge between whole pixels that the window must reach, along one axis."""
    if len(starts):
        return int(np.floor(starts.min())), int(np.ceil(ends.max()))
    half = (length + 1) // 2
    low = int(rng.integers(0, length - half, endpoint=True))
    return low, low + half


def _resized(
    image: Decoded, boxes: np.ndarray, labels: np.ndarray, ignore: np.ndarray, size: tuple[int, int]
) -> Transformed:
    rows, columns = image.size
    scale = np.array([size[1] / columns, size[0] / rows] * 2)
    boxes = np.clip(boxes * scale, 0, [size[1], size[0]] * 2).astype(np.float32)  # float32 may step over the edge
    return Transformed(resize(image.pixels, size), boxes, labels, ignore, image.size)
