"""The built-in data set: coloured shapes on noisy ground, generated and written to disk in VOC layout.

It is small enough to learn from scratch in minutes on a CPU, and holds what real data does: four classes, each with a
typical colour that a tenth of its objects do not have, 1-4 objects an image, overlap, shading, and objects that are
hard to see, which are marked difficult. `detection.data.single_shapes` is made of the same parts.

Letters: ``S`` side of an image.
"""

import colorsys
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import cv2
import numpy as np

from detection.data.box_forms import boxes_to_voc
from detection.errors import UserError

CLASSES = ("circle", "cross", "square", "triangle")
SIDE = 128
"""Rows and columns of an image."""
COUNTS = {"train": 600, "val": 150}
"""Images of each set."""

_MARKER = "README.txt"
_TITLE = "ResiDet shapes"
_CONTENT = {"Annotations", "ImageSets", "JPEGImages", _MARKER}
_SEED = 20160627
_FINE = 4
"""Shapes are drawn this many times larger and averaged, which gives each pixel its covered share."""
_HUES = {"circle": 0.0, "cross": 0.3, "square": 0.6, "triangle": 0.13}
"""Typical hue of each class as a share of the colour circle: red, green, blue, yellow."""
_HUE_SPREAD = 0.05
"""Most that a typical colour differs from that hue."""
_ANY_COLOUR = 0.1
"""Share of the objects that have any colour."""
_DIFFICULT_VISIBLE = 0.7
"""An object of which less than this share is not covered by others is difficult."""
_DIFFICULT_CONTRAST = 36.0
"""An object whose colour is nearer to the ground's than this (mean over RGB, of 255) is difficult."""


@dataclass(frozen=True)
class Shape:
    """One shape: all lengths in pixels, positions in continuous coordinates."""

    name: str
    centre: tuple[float, float]
    """x, y"""
    side: float
    """Width before it is turned."""
    angle: float
    """Radians it is turned by."""
    colour: tuple[float, float, float]
    """Red, green, blue in 0..255."""


@dataclass(frozen=True)
class ShapeObject:
    """A shape as it is annotated."""

    name: str
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2, continuous (so that x2 - x1 is the number of columns)."""
    difficult: bool


class BuiltIn(NamedTuple):
    """A data set that is generated."""

    title: str
    """What its README begins with; tells it from other data."""
    version: int
    seed: int
    counts: Mapping[str, int]
    """Images of each set."""
    draw: Callable[[np.random.Generator], tuple[np.ndarray, list[ShapeObject]]]
    """As :func:`draw_scene`."""

    @property
    def first_line(self) -> str:
        """Of its README."""
        return f"{self.title}, version {self.version}\n"


class Style(NamedTuple):
    """What the shapes of an image are drawn from at random."""

    names: tuple[str, ...]
    sides: tuple[float, float]
    """Smallest and largest side, in pixels."""
    hues: Mapping[str, float]
    """Typical hue of each class as a share of the colour circle."""
    contrast: float
    """Least that a shape's colour differs from the ground's (mean over RGB, of 255)."""
    overlap: float
    """Two shapes have less in common than this: see :func:`_overlap`."""


_STYLE = Style(CLASSES, sides=(20, 64), hues=_HUES, contrast=24, overlap=0.3)


def ensure_shapes(root: str | Path) -> None:
    """Writes the data set to `root` unless it is there: see :func:`ensure_built_in`."""
    ensure_built_in(root, BuiltIn(_TITLE, 1, _SEED, COUNTS, draw_scene))


def ensure_built_in(root: str | Path, data: BuiltIn) -> None:
    """Writes a data set to `root` unless it is there; an older version of it is replaced.

    It is written beside `root` and then renamed, so that `root` is never seen half written, also when several
    processes start at once.

    Raises:
        UserError: `root` exists and holds something else, or cannot be written.
    """
    root = Path(root)
    if _is_current(root, data):
        return
    _require_ours(root, data)
    beside = root.with_name(f".{root.name}-{uuid4().hex[:8]}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        _write(beside, data)
        _move(beside, root, data)
    except OSError as error:
        raise UserError(f"--data.root {root}: the built-in data set cannot be written there ({error})") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[ShapeObject]]:
    """Draws one image: (S, S, 3) uint8 RGB and its objects, later ones lying over earlier ones."""
    base = rng.uniform(50, 205, 3)
    image = ground(base, rng)
    shapes = arrange(rng, base, _STYLE, wanted=int(rng.integers(1, 5)))
    covers = [coverage(shape) for shape in shapes]
    for shape, cover in zip(shapes, covers, strict=True):
        paint(image, shape, cover, rng)
    visible = _visible_shares(covers)
    objects = [
        ShapeObject(
            shape.name, tight_box(cover), share < _DIFFICULT_VISIBLE or _contrast(shape, base) < _DIFFICULT_CONTRAST
        )
        for shape, cover, share in zip(shapes, covers, visible, strict=True)
    ]
    return photograph(image, rng), objects


def photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8: the float image as a camera sees it, a little noisy."""
    image = image + 4 * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def coverage(shape: Shape) -> np.ndarray:
    """(S, S) float32 in 0..1: which share of each pixel the shape covers."""
    fine = np.zeros((SIDE * _FINE, SIDE * _FINE), np.uint8)
    corners = OUTLINES[shape.name]() * shape.side / 2
    turn = np.array([[np.cos(shape.angle), np.sin(shape.angle)], [-np.sin(shape.angle), np.cos(shape.angle)]])
    points = (corners @ turn + shape.centre) * _FINE
    # OpenCV's integer coordinates are pixel centres and its `shift` counts binary digits: 4 of them are 1/16 pixel.
    cv2.fillPoly(fine, [np.rint((points - 0.5) * 16).astype(np.int32)], 255, shift=4)
    return cv2.resize(fine, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def tight_box(cover: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 around the pixels that are covered at least by half."""
    inside = cover >= 0.5
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _circle() -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _cross() -> np.ndarray:
    arm = 1 / 3
    quarter = np.array([(arm, -1.0), (arm, -arm), (1.0, -arm)])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, number) for number in range(4)])


def _square() -> np.ndarray:
    return 0.9 * np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


def _triangle() -> np.ndarray:
    return np.array([(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)])


def _bar() -> np.ndarray:
    return np.array([(-1.0, -0.4), (1.0, -0.4), (1.0, 0.4), (-1.0, 0.4)])


def _semicircle() -> np.ndarray:
    turn = np.linspace(0, np.pi, 45)
    return np.stack([np.cos(turn), 0.5 - np.sin(turn)], axis=1)


def _star() -> np.ndarray:
    turn = np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2, 0.45, 1.0)
    return np.stack([reach * np.sin(turn), -reach * np.cos(turn)], axis=1)


def _arrow() -> np.ndarray:
    upper = [(-1.0, -0.25), (0.1, -0.25), (0.1, -0.75)]
    return np.array([*upper, (1.0, 0.0), *((x, -y) for x, y in reversed(upper))])


OUTLINES: dict[str, Callable[[], np.ndarray]] = {
    "arrow": _arrow,
    "bar": _bar,
    "circle": _circle,
    "cross": _cross,
    "semicircle": _semicircle,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}
"""Corners (., 2) of each shape around the origin, within -1..1, in drawing order."""


def arrange(rng: np.random.Generator, base: np.ndarray, style: Style, wanted: int) -> list[Shape]:
    """So many shapes, or as many as find room; one that would cover much of another, or lie under it, is drawn anew."""
    shapes: list[Shape] = []
    for _ in range(60):
        shape = _random_shape(rng, base, style)
        if all(_overlap(shape, other) < style.overlap for other in shapes):
            shapes.append(shape)
        if len(shapes) == wanted:
            break
    return shapes


def _random_shape(rng: np.random.Generator, base: np.ndarray, style: Style) -> Shape:
    side = float(np.exp(rng.uniform(*np.log(style.sides))))
    margin = 0.65 * side
    name = style.names[rng.integers(len(style.names))]
    colour = _colour(style.hues[name], rng)
    while np.abs(colour - base).mean() < style.contrast:
        colour = _colour(style.hues[name], rng)
    return Shape(
        name=name,
        centre=tuple(rng.uniform(margin, SIDE - margin, 2).tolist()),
        side=side,
        angle=float(rng.uniform(-np.pi / 9, np.pi / 9)),
        colour=tuple(colour.tolist()),
    )


def _colour(typical: float, rng: np.random.Generator) -> np.ndarray:
    """Red, green, blue in 0..255 for an object of a class with this hue."""
    spread = 0.5 if rng.random() < _ANY_COLOUR else _HUE_SPREAD
    hue = (typical + rng.uniform(-spread, spread)) % 1
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 1), rng.uniform(0.35, 1)))


def _overlap(shape: Shape, other: Shape) -> float:
    """Common area of the two upright squares, as a share of the smaller one."""
    reach = (shape.side + other.side) / 2
    smaller = min(shape.side, other.side)
    apart = np.abs(np.subtract(shape.centre, other.centre))
    return float(np.prod(np.clip(reach - apart, 0, smaller)) / smaller**2)


def ground(base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) float32: a base colour with blotches of three sizes."""
    image = np.tile(base.astype(np.float32), (SIDE, SIDE, 1))
    for cells, strength in ((4, 14), (16, 9), (64, 7)):
        blotches = strength * rng.standard_normal((cells, cells, 3), np.float32)
        image += cv2.resize(blotches, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return image


def paint(image: np.ndarray, shape: Shape, cover: np.ndarray, rng: np.random.Generator) -> None:
    """Puts the shape on the image, lit from a random direction."""
    direction = rng.uniform(0, 2 * np.pi)
    pixels = np.arange(SIDE, dtype=np.float32) + 0.5
    along = (pixels - shape.centre[0]) * np.cos(direction) + (pixels[:, None] - shape.centre[1]) * np.sin(direction)
    light = 30 * np.clip(along / shape.side, -1, 1).astype(np.float32)
    image += cover[..., None] * (np.array(shape.colour, np.float32) + light[..., None] - image)


def _visible_shares(covers: list[np.ndarray]) -> list[float]:
    """Share of each shape that no later shape lies over."""
    shares, free = [], np.ones((SIDE, SIDE), np.float32)
    for cover in reversed(covers):
        shares.append(float((cover * free).sum() / cover.sum()))
        free = free * (1 - cover)
    return shares[::-1]


def _contrast(shape: Shape, base: np.ndarray) -> float:
    return float(np.abs(np.array(shape.colour) - base).mean())


def _is_current(root: Path, data: BuiltIn) -> bool:
    return _read_marker(root).startswith(data.first_line)


def _read_marker(root: Path) -> str:
    """What the README there says, whoever wrote it in whatever encoding; nothing if there is none."""
    marker = root / _MARKER
    return marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else ""


def _require_ours(root: Path, data: BuiltIn) -> None:
    """Refuses to touch a folder that holds anything but an older version of this data set."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    ours = root.is_dir() and {entry.name for entry in root.iterdir()} <= _CONTENT
    if not (ours and _read_marker(root).startswith(f"{data.title},")):
        raise UserError(
            f"--data.root {root}: holds something other than the built-in data set; name a new folder, "
            "or read what is there with --data.format voc"
        )


def _move(beside: Path, root: Path, data: BuiltIn) -> None:
    """Puts the new folder in place of an older one, or leaves it when another process was faster."""
    if root.is_dir() and any(root.iterdir()) and not _is_current(root, data):
        old = root.with_name(beside.name + "-old")
        os.rename(root, old)
        shutil.rmtree(old, ignore_errors=True)
    try:
        os.rename(beside, root)
    except OSError:
        if not _is_current(root, data):
            raise


def _write(folder: Path, data: BuiltIn) -> None:
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(data.seed)
    start = 0
    for name, count in data.counts.items():
        ids = [f"{number:06d}" for number in range(start + 1, start + count + 1)]
        for image_id in ids:
            _write_image(folder, image_id, *data.draw(rng))
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
        start += count
    (folder / _MARKER).write_text(data.first_line + "Generated; in PASCAL VOC layout. Delete the folder at will.\n")


def _write_image(folder: Path, image_id: str, image: np.ndarray, objects: list[ShapeObject]) -> None:
    encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    (folder / "JPEGImages" / f"{image_id}.jpg").write_bytes(encoded.tobytes())
    body = "".join(_OBJECT.format(o.name, int(o.difficult), *boxes_to_voc(np.array(o.box))) for o in objects)
    (folder / "Annotations" / f"{image_id}.xml").write_text(_ANNOTATION.format(image_id, SIDE, body))


_ANNOTATION = """<annotation>
  <filename>{0}.jpg</filename>
  <size><width>{1}</width><height>{1}</height><depth>3</depth></size>
{2}</annotation>
"""
_OBJECT = """  <object>
    <name>{}</name>
    <difficult>{}</difficult>
    <bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>
  </object>
"""
