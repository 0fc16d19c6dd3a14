"""Boxes, names and scores on pictures; sheets of many pictures.

Letters: ``N`` boxes of an image, ``H, W`` rows and columns. Images are (H, W, 3) uint8 RGB arrays, boxes (N, 4)
x1, y1, x2, y2 in continuous pixel coordinates of the image they are drawn on.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detection.data.dataset import Annotations, Sample, read_image
from detection.errors import UserError
from detection.evaluation.detections import Detections
from detection.files import replacing

PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip
"""Okabe and Ito's colours, which colour-blind readers can tell apart. Label 1 takes the first, label 8 again."""

_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_SAVED = {"PNG": {"compress_level": 1}, "JPEG": {"quality": 92}}
"""Photographs as PNG: level 1 is 2 to 5 times as fast as the usual level, and files become a sixth larger at most."""
_GROUND, _INK = (32, 34, 37), (225, 227, 230)
_COLUMNS = 4
_TILE, _GAP, _CAPTION = 384, 10, 24
_DASHED, _DOTTED = (7, 5), (2, 4)
"""Lengths of line and gap in pixels."""

SHEET_IMAGES = 16
"""Most pictures on a sheet."""


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None = None,
    *,
    class_names: Sequence[str],
) -> np.ndarray:
    """A copy of the image with a frame and a filled label, "name" or "name 0.93", for every box.

    Frames lie inside their boxes, cut at the image border; a box without a part inside the image is not drawn.
    Labels stay inside the image and off each other where there is room; with scores, the best lie on top.

    Args:
        image: (H, W, 3) uint8; stays as it is.
        boxes: (N, 4) x1, y1, x2, y2.
        labels: (N,) 1..K.
        scores: (N,), or None to show names alone.
        class_names: K names.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    frames = _frames(boxes, canvas.size)
    order = np.arange(len(boxes)) if scores is None else np.argsort(scores, kind="stable")
    visible = [index for index in order.tolist() if frames[index] is not None]
    for index in visible:
        draw.rectangle(frames[index], outline=_colour(labels[index]), width=_line_width(canvas.size))
    font, taken = _font(_text_size(canvas.size)), []
    for index in reversed(visible):  # the best choose their place first
        text = class_names[labels[index] - 1] + ("" if scores is None else f" {scores[index]:.2f}")
        taken.append(_draw_label(draw, text, frames[index], _colour(labels[index]), font, taken))
    return np.array(canvas)


def draw_outlines(image: np.ndarray, boxes: np.ndarray, dotted: np.ndarray) -> np.ndarray:
    """A copy of the image with thin black and white lines around the boxes: annotations, beside coloured predictions.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) x1, y1, x2, y2.
        dotted: (N,) bool: dotted lines (difficult objects) instead of dashed ones.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for frame, is_dotted in zip(_frames(boxes, canvas.size), dotted, strict=True):
        if frame is not None:
            _draw_broken(draw, frame, _DOTTED if is_dotted else _DASHED)
    return np.array(canvas)


def prediction_sheet(
    annotations: Annotations, detections: Detections, indices: Sequence[int], score_threshold: float = 0.5
) -> np.ndarray:
    """A grid of up to 16 images with what was predicted (coloured) over what is annotated (dashed, difficult dotted).

    Args:
        annotations: the data set; its image files are read.
        detections: results for it; those of other images are left out.
        indices: images to show; those after the sixteenth are left out.
        score_threshold: detections scored lower are left out.

    Raises:
        UserError: an image file cannot be read.
    """
    tiles, indices = [], list(indices)[:SHEET_IMAGES]
    limits = _tile_size(annotations.sizes[indices])
    for index in indices:
        image, scale = _fit(read_image(annotations.image_paths[index]), limits)
        objects = annotations.objects(index)
        image = draw_outlines(image, annotations.boxes[objects] * scale, annotations.ignore[objects])
        found = detections.select((detections.image_indices == index) & (detections.scores >= score_threshold))
        names = annotations.class_names
        image = draw_boxes(image, found.boxes * scale, found.labels, found.scores, class_names=names)
        tiles.append((image, str(annotations.image_ids[index])))
    legend = f"coloured: predicted, score >= {score_threshold:g}"
    if annotations.annotated:
        legend += "    dashed: annotated    dotted: annotated as difficult"
    return _sheet(tiles, legend)


def training_sheet(samples: Sequence[Sample], class_names: Sequence[str]) -> np.ndarray:
    """A grid of up to 16 training samples as the detector gets them; `ignore` boxes are dotted and have no name.

    Args:
        samples: as the training transform returns them, not padded.
        class_names: K names.
    """
    tiles, samples = [], samples[:SHEET_IMAGES]
    limits = _tile_size(np.array([sample.image.shape[:2] for sample in samples]))
    for number, sample in enumerate(samples):
        rows, columns = sample.image.shape[:2]
        image, scale = _fit(sample.image, limits)
        boxes, ignore = sample.boxes * scale, sample.ignore
        image = draw_outlines(image, boxes[ignore], np.ones(int(ignore.sum()), bool))
        image = draw_boxes(image, boxes[~ignore], sample.labels[~ignore], class_names=class_names)
        tiles.append((image, f"sample {number}: {columns} x {rows} pixels"))
    return _sheet(tiles, "coloured: objects to learn    dotted: neither object nor background")


def save_picture(path: str | Path, image: np.ndarray) -> None:
    """Writes the image as PNG or JPEG, as the name ends; the file is replaced whole or not at all.

    Raises:
        UserError: the name ends otherwise, or the file cannot be written.
    """
    kind = _PICTURES.get(Path(path).suffix.lower())
    if kind is None:
        raise UserError(f"{path}: pictures are written as {', '.join(_PICTURES)}; end the name with one of these")
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format=kind, **_SAVED[kind])


def _frames(boxes: np.ndarray, size: tuple[int, int]) -> list[tuple[int, int, int, int] | None]:
    """First and last column and row of each box (left, top, right, bottom), or None outside the image."""
    limits = np.array(size * 2)
    inside = (boxes[:, 0] < limits[0]) & (boxes[:, 1] < limits[1]) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    corners = np.rint(np.clip(boxes, 0, limits)).astype(int)
    starts = np.minimum(corners[:, :2], limits[:2] - 1)
    ends = np.maximum(corners[:, 2:] - 1, starts)
    frames = np.concatenate([starts, ends], axis=1).tolist()
    return [tuple(frame) if visible else None for frame, visible in zip(frames, inside, strict=True)]


def _colour(label: int) -> tuple[int, int, int]:
    return PALETTE[(int(label) - 1) % len(PALETTE)]


def _line_width(size: tuple[int, int]) -> int:
    return max(2, round(max(size) / 250))


def _text_size(size: tuple[int, int]) -> int:
    return max(11, round(max(size) / 36))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # here, because it takes long to import

    # Pillow's own font covers Latin letters only.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    frame: tuple[int, int, int, int],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Draws the filled label and returns the pixels it takes (left, top, right, bottom, the last two exclusive)."""
    columns, rows = draw.im.size
    pad = max(2, font.size // 6)
    text = _shortened(text, font, columns - 2 * pad)
    width = min(columns, math.ceil(font.getlength(text)) + 2 * pad)
    height = min(rows, sum(font.getmetrics()) + pad)
    left, top, right, bottom = frame
    lefts = (left, right + 1 - width)
    tops = (top - height, top, bottom + 1, bottom + 1 - height)
    places = [(min(max(x, 0), columns - width), y) for y in tops for x in lefts if 0 <= y <= rows - height]
    spots = [(x, y, x + width, y + height) for x, y in places] or [(min(left, columns - width), 0, width, height)]
    spot = min(spots, key=lambda place: sum(_shared(place, other) for other in taken))  # the first of equals
    draw.rectangle((spot[0], spot[1], spot[2] - 1, spot[3] - 1), fill=colour)
    draw.text(((spot[0] + spot[2]) / 2, (spot[1] + spot[3]) / 2), text, fill=_readable(colour), font=font, anchor="mm")
    return spot


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _shared(place: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> int:
    """Pixels that two labels have in common."""
    width = min(place[2], other[2]) - max(place[0], other[0])
    height = min(place[3], other[3]) - max(place[1], other[1])
    return max(width, 0) * max(height, 0)


def _readable(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out from the colour (luma of ITU-R BT.601)."""
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luma > 100 else (255, 255, 255)


def _draw_broken(draw: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], pattern: tuple[int, int]) -> None:
    """A black frame of one pixel with white strokes on it: to be seen on any ground."""
    left, top, right, bottom = frame
    draw.rectangle(frame, outline=(0, 0, 0))
    stroke, gap = pattern
    for x in range(left, right + 1, stroke + gap):
        end = min(x + stroke - 1, right)
        draw.line((x, top, end, top), fill=(255, 255, 255))
        draw.line((x, bottom, end, bottom), fill=(255, 255, 255))
    for y in range(top, bottom + 1, stroke + gap):
        end = min(y + stroke - 1, bottom)
        draw.line((left, y, left, end), fill=(255, 255, 255))
        draw.line((right, y, right, end), fill=(255, 255, 255))


def _tile_size(sizes: np.ndarray) -> tuple[int, int]:
    """Columns and rows of a tile, in the proportions that images of these sizes (rows and columns) mostly have."""
    share = np.median(sizes[:, 0] / sizes[:, 1]) if len(sizes) else 1.0
    return _TILE, round(_TILE * min(1.0, share))


def _fit(image: np.ndarray, limits: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The image as large as a tile allows, and the factors (4,) for its boxes; small ones grow by a whole factor."""
    rows, columns = image.shape[:2]
    scale = min(limits[0] / columns, limits[1] / rows)
    grows = scale >= 1
    scale = math.floor(scale) if grows else scale
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    method = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    fitted = np.asarray(Image.fromarray(image).resize(size, method))
    return fitted, np.array([size[0] / columns, size[1] / rows] * 2, np.float32)


def _sheet(tiles: Sequence[tuple[np.ndarray, str]], legend: str) -> np.ndarray:
    """The pictures in a grid of equal cells, each over its caption, and the legend under all of them."""
    height = max((image.shape[0] for image, _ in tiles), default=_TILE)
    width = max((image.shape[1] for image, _ in tiles), default=_TILE)
    columns = max(1, min(_COLUMNS, len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    step_x, step_y = width + _GAP, height + _CAPTION + _GAP
    font = _font(14)
    total_width = max(columns * step_x, math.ceil(font.getlength(legend)) + _GAP) + _GAP
    canvas = Image.new("RGB", (total_width, rows * step_y + _GAP + _CAPTION), _GROUND)
    draw = ImageDraw.Draw(canvas)
    for number, (image, caption) in enumerate(tiles):
        left, top = _GAP + number % columns * step_x, _GAP + number // columns * step_y
        corner = (left + (width - image.shape[1]) // 2, top + (height - image.shape[0]) // 2)
        canvas.paste(Image.fromarray(image), corner)
        text = _shortened(caption, font, width)
        draw.text((left + width / 2, top + height + _CAPTION / 2), text, fill=_INK, font=font, anchor="mm")
    draw.text((_GAP, rows * step_y + _CAPTION / 2), legend, fill=_INK, font=font, anchor="lm")
    return np.array(canvas)
