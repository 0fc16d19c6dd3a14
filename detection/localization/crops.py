"""Squares cut out of images: what a localizer is trained on.

Letters: ``N`` objects of an image, ``P`` proposals of an image, ``I`` images of a set, ``S`` side of a crop, ``H, W``
rows and columns. Everything random of a training crop follows from (seed, position) alone.
"""

import math

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from detection.config import Config
from detection.data.dataset import Decoded, resize, resized_size
from detection.data.transforms import Augmentation, Transformed

LEAST_VISIBLE = 0.25
"""A box of which a smaller share is inside the crop is ignored: nothing to be found, nor background."""
TRIES = 10
"""How often a crop without an object is drawn anew, before one is cut around an object."""


class CropTransform:
    """Makes a crop of S x S pixels of a training image, mirrored and with other colours as `data.augment` says.

    rpn, pcr: the shorter side is resized to a random length, and a random square is cut, both as in classification
    (ResNet paper, appendix C). Objects of which less than a quarter is visible are ignored.

    rcnn: a random proposal is warped to the square; with probability `loc.fg_fraction` a positive one (IoU of at least
    `loc.fg_iou` with an object), otherwise a negative one (below `loc.bg_iou`), and one of the other kind where there
    is none. Annotated boxes count as proposals.

    Boxes are those of whole objects, which may reach beyond the crop: at test time a part of an object is no answer.

    Args:
        config: `loc` and `data.augment` count.
        seed: of everything random.
        proposals: (I, P, 4) in pixels of the images, of method rcnn; rows less than a pixel wide or high are padding.
    """

    def __init__(self, config: Config, seed: int, proposals: np.ndarray | None = None) -> None:
        self._loc = config.loc
        self._seed = seed
        self._proposals = proposals
        self._augment = Augmentation(config.data.augment)
        self.longest = config.loc.crop

    def enough(self, size: tuple[int, int]) -> tuple[int, int]:
        """All of an image: a crop shows a part of it."""
        return size

    def __call__(
        self,
        image: Decoded,
        boxes: np.ndarray,
        labels: np.ndarray,
        ignore: np.ndarray,
        position: int,
        index: int = 0,
    ) -> Transformed:
        """Transforms one image; arguments as of :class:`~detection.data.transforms.TrainTransform`.

        `index`, of the image in its set, finds its proposals.
        """
        rng = np.random.default_rng([self._seed, position])
        take = self._proposal if self._loc.method == "rcnn" else self._window
        crop, boxes, kept, ignore = take(image.pixels, boxes, ignore, rng, index)
        return Transformed(crop.pixels, boxes.astype(np.float32), labels[kept], ignore, crop.size)

    def _window(
        self, image: np.ndarray, boxes: np.ndarray, ignore: np.ndarray, rng: np.random.Generator, index: int
    ) -> "_Crop":
        """A random window; a box of which nothing is seen is left out."""
        size, (x, y), shares = self._draw(image.shape[:2], boxes, ignore, rng)
        side, seen = self._loc.crop, np.flatnonzero(shares > 0)
        crop = np.ascontiguousarray(resize(image, size)[y : y + side, x : x + side])
        moved = (boxes * _scale(image.shape[:2], size) - [x, y, x, y])[seen]
        crop, moved = self._augment(Decoded.whole(crop), moved.astype(np.float32), rng)
        return crop, moved, seen, ignore[seen] | (shares[seen] < LEAST_VISIBLE)

    def _draw(
        self, shape: tuple[int, int], boxes: np.ndarray, ignore: np.ndarray, rng: np.random.Generator
    ) -> tuple[tuple[int, int], tuple[int, int], np.ndarray]:
        """Rows and columns that an image is resized to, corner x, y of the window, and shares (N,) of boxes in it.

        Length and window are drawn together, so that a large object is met at a size at which the window shows enough.
        """
        side, (low, high) = self._loc.crop, self._loc.scales
        wanted = ~ignore if not ignore.all() else np.ones(len(boxes), bool)
        for _ in range(TRIES):
            size = _enlarged(shape, int(rng.integers(low, high, endpoint=True)), side)
            corner = tuple(int(rng.integers(0, size[axis] - side, endpoint=True)) for axis in (1, 0))
            shares = _visible(boxes * _scale(shape, size), corner, side)
            if (shares[wanted] >= LEAST_VISIBLE).any() or not len(boxes):
                return size, corner, shares
        return self._around(shape, boxes, int(rng.choice(np.flatnonzero(wanted))))

    def _around(
        self, shape: tuple[int, int], boxes: np.ndarray, chosen: int
    ) -> tuple[tuple[int, int], tuple[int, int], np.ndarray]:
        """As :meth:`_draw`, with the window's centre as near as can be to that of the box `chosen`, which counts."""
        side = self._loc.crop
        size = _enlarged(shape, self._loc.scales[0], side)
        scaled = boxes * _scale(shape, size)
        centre = (scaled[chosen, :2] + scaled[chosen, 2:]) / 2
        x, y = np.clip(np.round(centre - side / 2), 0, [size[1] - side, size[0] - side]).astype(int).tolist()
        shares = _visible(scaled, (x, y), side)
        shares[chosen] = 1  # less than a quarter of it is seen only if it is far larger than the crop
        return size, (x, y), shares

    def _proposal(
        self, image: np.ndarray, boxes: np.ndarray, ignore: np.ndarray, rng: np.random.Generator, index: int
    ) -> "_Crop":
        """A random proposal."""
        chosen = self._choose(boxes[~ignore], image.shape[:2], rng, index)
        side = self._loc.crop
        inside = (boxes - np.tile(chosen[:2], 2)) * (side / np.tile(chosen[2:] - chosen[:2], 2))
        crop = Decoded.whole(warp(image, chosen, side))
        crop, inside = self._augment(crop, inside.astype(np.float32), rng)
        return crop, inside, np.arange(len(boxes)), ignore

    def _choose(self, objects: np.ndarray, shape: tuple[int, int], rng: np.random.Generator, index: int) -> np.ndarray:
        """The proposal (4,) to look at; the whole image where there is neither a proposal nor an object."""
        loc = self._loc
        given = np.zeros((0, 4)) if self._proposals is None else self._proposals[index]
        given = np.clip(given, 0, [shape[1], shape[0]] * 2)
        given = given[(given[:, 2:] - given[:, :2] >= 1).all(axis=1)]
        boxes = np.concatenate([given, objects]).astype(np.float64)
        if not len(boxes):
            return np.array([0, 0, shape[1], shape[0]], np.float64)
        is_positive, is_negative = _states(boxes, objects, loc.fg_iou, loc.bg_iou)
        is_wanted_positive = rng.random() < loc.fg_fraction
        order = (is_positive, is_negative) if is_wanted_positive else (is_negative, is_positive)
        group = next((group for group in order if group.any()), np.ones(len(boxes), bool))
        return boxes[rng.choice(np.flatnonzero(group))]


_Crop = tuple[Decoded, np.ndarray, np.ndarray, np.ndarray]
"""The crop (S, S, 3), boxes in pixels of it, which of the boxes given those are, and which of them are ignored."""


def warp(image: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """A box (4,) inside an image (H, W, 3), warped to (S, S, 3): what RoIAlign makes of it at test time.

    That is ``roi_align`` with ``aligned=True, sampling_ratio=2``: each pixel is the mean of 2 x 2 bilinear samples.
    """
    step = (box[2:] - box[:2]).astype(np.float64) / (2 * side)
    start = box[:2] + step / 2 - 0.5  # OpenCV counts from the centre of the first pixel, we from its corner
    matrix = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    samples = cv2.warpAffine(image, matrix, (2 * side, 2 * side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(samples, (side, side), interpolation=cv2.INTER_AREA)


def _enlarged(shape: tuple[int, int], shorter: int, side: int) -> tuple[int, int]:
    """Rows and columns of an image resized to a shorter side of `shorter` pixels, or as many as a crop has."""
    return resized_size(shape, max(shorter, side), math.inf)


def _scale(shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Factors (4,) of a box's coordinates when an image of `shape` is resized to `size`, both rows and columns."""
    return np.array([size[1] / shape[1], size[0] / shape[0]] * 2)


def _visible(boxes: np.ndarray, corner: tuple[int, int], side: int) -> np.ndarray:
    """Shares (N,) of the boxes (N, 4) inside the square at `corner`."""
    inside = np.clip(boxes - np.tile(corner, 2), 0, side)
    return (inside[:, 2:] - inside[:, :2]).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _states(boxes: np.ndarray, objects: np.ndarray, fg_iou: float, bg_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Which of `boxes` (P, 4) are positive and which negative (P,), with respect to `objects` (N, 4)."""
    if not len(objects):
        return np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(objects.astype(np.float64))).amax(dim=1).numpy()
    return iou >= fg_iou, iou < bg_iou
