"""The built-in localization set: one or two coloured shapes of one class on noisy ground among clutter, in VOC layout.

As `detection.data.shapes`, from whose parts it is drawn, but every image holds objects of a single class, of eight, so
that the class of an image is known and only the place of its object is asked for. Strokes, soft blobs and specks of
noise are no class. Objects are 24 to 81 pixels long and lie anywhere: the best fixed box finds one in seven.

Letters: ``S`` side of an image.
"""

import colorsys
from pathlib import Path

import cv2
import numpy as np

from detection.data.shapes import (
    SIDE,
    BuiltIn,
    ShapeObject,
    Style,
    arrange,
    coverage,
    ensure_built_in,
    ground,
    paint,
    photograph,
    tight_box,
)

CLASSES = ("arrow", "bar", "circle", "cross", "semicircle", "square", "star", "triangle")
COUNTS = {"train": 1200, "val": 400}
"""Images of each set."""

_SEED = 20151210
_PAIRS = 0.35
"""Share of the images that hold two objects, as far as there is room."""
_SIDES = (26.0, 74.0)
_HUES = {name: number / len(CLASSES) for number, name in enumerate(CLASSES)}


def ensure_single_shapes(root: str | Path) -> None:
    """Writes the data set to `root` unless it is there: see :func:`detection.data.shapes.ensure_built_in`."""
    ensure_built_in(root, BuiltIn("ResiDet single shapes", 1, _SEED, COUNTS, draw_single))


def draw_single(rng: np.random.Generator) -> tuple[np.ndarray, list[ShapeObject]]:
    """Draws one image: (S, S, 3) uint8 RGB and its one or two objects, which are of the same class."""
    base = rng.uniform(50, 205, 3)
    image = ground(base, rng)
    _strew(image, rng)
    name = CLASSES[rng.integers(len(CLASSES))]
    style = Style((name,), _SIDES, _HUES, contrast=45, overlap=0.05)
    objects = []
    for shape in arrange(rng, base, style, wanted=2 if rng.random() < _PAIRS else 1):
        cover = coverage(shape)
        paint(image, shape, cover, rng)
        objects.append(ShapeObject(name, tight_box(cover), difficult=False))
    return photograph(image, rng), objects


def _strew(image: np.ndarray, rng: np.random.Generator) -> None:
    """Puts clutter on the image, in any colour: strokes, blobs without an edge, and specks of noise."""
    for _ in range(rng.integers(2, 6)):
        _blend(image, _stroke(rng), _any_colour(rng))
    for _ in range(rng.integers(1, 4)):
        _blend(image, 0.8 * _blob(rng), _any_colour(rng))
    for _ in range(rng.integers(0, 3)):
        noise = 45 * rng.standard_normal((SIDE, SIDE, 1), np.float32)
        image += _blob(rng)[..., None] * noise


def _stroke(rng: np.random.Generator) -> np.ndarray:
    """(S, S) float32 in 0..1: a bent line, 1 to 3 pixels wide, a quadratic Bezier curve."""
    start, bend, end = rng.uniform(0, SIDE, (3, 2))
    t = np.linspace(0, 1, 24)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    mask = np.zeros((SIDE, SIDE), np.uint8)
    width = int(rng.integers(1, 4))
    cv2.polylines(mask, [np.rint(points * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255


def _blob(rng: np.random.Generator) -> np.ndarray:
    """(S, S) float32 in 0..1: a Gaussian, wide or tall."""
    x, y = rng.uniform(0, SIDE, 2)
    wide, tall = rng.uniform(4, 14, 2)
    pixels = np.arange(SIDE, dtype=np.float32) + 0.5
    across, down = (np.exp(-(((pixels - centre) / size) ** 2) / 2) for centre, size in ((x, wide), (y, tall)))
    return np.outer(down, across)


def _any_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) float32: red, green, blue in 0..255."""
    return np.array(colorsys.hsv_to_rgb(*rng.uniform((0, 0.3, 0.3), 1)), np.float32) * np.float32(255)


def _blend(image: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Puts the colour on the pixels that are covered enough for it to be seen."""
    seen, pixels = np.flatnonzero(cover > 1 / 256), image.reshape(-1, 3)
    before = pixels[seen]
    pixels[seen] = before + cover.reshape(-1, 1)[seen] * (colour - before)
