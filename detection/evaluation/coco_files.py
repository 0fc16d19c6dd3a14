"""COCO's result form: a JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``.

Letters: ``D`` detections, ``I`` images, ``K`` classes.
"""

import json
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detection.data.dataset import PLAIN_NUMBER, Annotations
from detection.errors import UserError
from detection.evaluation.columns import (
    Columns,
    first,
    first_duplicate,
    images_by_id,
    listed,
    look_up,
    read_bytes,
    require_finite,
)
from detection.files import replacing

_ROWS_AT_ONCE = 10_000

_OVERHANG = 0.1
"""Share of the image's side by which a box may stick out. Detectors clip their boxes, or stick out a little."""
_MANY_OUTSIDE = 0.2
"""Of corners read as sizes, all boxes leave whose centre is beyond 55 % of a side: far more than this share."""
_NEARLY_ALL = 0.99
"""Share of the boxes that must make sense as corners. Of sizes, a quarter at most would (w > x and h > y)."""


def write(path: str | Path, columns: Columns, annotations: Annotations) -> None:
    """Writes one detection a line; see `Detections.write_coco`."""
    require_finite(Path(path), columns)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for number, lines in enumerate(_lines(columns, annotations)):
            file.write(("\n" if number == 0 else ",\n") + ",\n".join(lines))
        file.write("\n]\n")


def read(path: str | Path, annotations: Annotations) -> Columns:
    """Reads the list and checks all of it; see `Detections.read_coco`."""
    path = Path(path)
    rows = _decode(path)
    categories = [row.category_id for row in rows]
    boxes = np.fromiter(chain.from_iterable(row.bbox for row in rows), np.float64, 4 * len(rows)).reshape(-1, 4)
    columns = Columns(
        image_indices=_image_indices(path, [row.image_id for row in rows], annotations),
        labels=_labels(path, categories, annotations),
        scores=np.fromiter((row.score for row in rows), np.float64, len(rows)),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
    )
    _check_boxes(path, boxes, annotations.sizes[columns.image_indices])
    duplicate = first_duplicate(columns)
    if duplicate:
        raise UserError(f"{path}: detections {duplicate[0]} and {duplicate[1]} are the same; remove one of them")
    return columns


def _lines(columns: Columns, annotations: Annotations) -> Iterator[list[str]]:
    # Nine digits identify a float32; three more on the sizes keep x + w the same float32 as x2. Scores, and boxes in
    # float64, take what identifies a float64.
    digits = (9, 9, 12, 12) if columns.boxes.dtype == np.float32 else (17,) * 4
    bbox = ",".join(f"%.{count}g" for count in digits)
    line = f'{{"image_id":%s,"category_id":%d,"bbox":[{bbox}],"score":%r}}'
    ids = [json.dumps(image_id) for image_id in annotations.json_ids()]
    categories = np.array(annotations.own_category_ids(), np.int64)
    for start in range(0, len(columns.scores), _ROWS_AT_ONCE):
        part = Columns(*(column[start : start + _ROWS_AT_ONCE] for column in columns))
        corners = part.boxes.astype(np.float64)
        numbers = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2], part.scores[:, None]], axis=1)
        images = (ids[index] for index in part.image_indices.tolist())
        rows = zip(images, categories[part.labels - 1].tolist(), *numbers.T.tolist(), strict=True)
        yield [line % row for row in rows]


class _Row(msgspec.Struct, gc=False):
    """A detection as the file has it; further keys are passed over."""

    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def _decode(path: Path) -> list[_Row]:
    data = read_bytes(path)
    try:
        return msgspec.json.decode(data, type=list[_Row])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {_first_mistake(data) or error}") from error


def _first_mistake(data: bytes) -> str:
    """What keeps the file from being read, found by Python's slower parser, which says where it stopped."""
    try:
        text = data.decode("utf-8")
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        text = text.strip()
        if not text or (text[0] == "[" and text[-1] != "]"):
            return "ends in the middle of the list; write it again, or fetch all of it"
        return f"is not JSON ({error}); name a file of detections in COCO result form"
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error}); name a file of detections in COCO result form"
    if not isinstance(rows, list):
        return "holds no list of detections; name a file in COCO result form"
    mistakes = ((number, _mistake(row)) for number, row in enumerate(rows))
    return next((f"detection {number}: {mistake}" for number, mistake in mistakes if mistake), "")


def _mistake(row: Any) -> str:
    wanted = _Row.__struct_fields__
    if not isinstance(row, dict):
        return f"is not an object with {', '.join(wanted)}; write the file in COCO result form"
    missing = [key for key in wanted if key not in row]
    if missing:
        return f"has no {' and no '.join(missing)}; write the file in COCO result form"
    if not isinstance(row["image_id"], int | str) or isinstance(row["image_id"], bool):
        return f"image_id {row['image_id']!r} is neither a whole number nor text; write the data set's id"
    if not isinstance(row["category_id"], int) or isinstance(row["category_id"], bool):
        return f"category_id {row['category_id']!r} is not a whole number; write the data set's id"
    if not isinstance(row["bbox"], list) or len(row["bbox"]) != 4 or not all(map(_is_number, row["bbox"])):
        return f"bbox {row['bbox']!r} is not four finite numbers; write x, y, width, height"
    return "" if _is_number(row["score"]) else f"score {row['score']!r} is not a finite number; mend the detector"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _image_indices(path: Path, ids: list[int | str], annotations: Annotations) -> np.ndarray:
    images = images_by_id(path, annotations)
    images |= {int(image_id): index for image_id, index in images.items() if PLAIN_NUMBER.fullmatch(image_id)}
    indices = look_up(images, ids)
    for number in first(indices < 0):
        missing = f"image_id {ids[number]!r} is not in the data set"
        raise UserError(f"{path}: detection {number}: {missing}; name the set that was detected in")
    return indices


def _labels(path: Path, categories: list[int], annotations: Annotations) -> np.ndarray:
    known = {number: label for label, number in enumerate(annotations.own_category_ids(), 1)}
    labels = look_up(known, categories)
    for number in first(labels < 0):
        missing = f"category_id {categories[number]} is not one of {listed(sorted(known))}"
        raise UserError(f"{path}: detection {number}: {missing}; name the matching classes")
    return labels


def _check_boxes(path: Path, boxes: np.ndarray, sizes: np.ndarray) -> None:
    """Args: (D, 4) x, y, width, height as read; (D, 2) rows and columns of their images."""
    for number in first((boxes[:, 2:] < 0).any(axis=1)):
        wrong = f"bbox {boxes[number].tolist()} has a negative width or height"
        raise UserError(f"{path}: detection {number}: {wrong}; write x, y, width, height")
    limits = (1 + _OVERHANG) * sizes[:, ::-1]
    outside = (boxes[:, :2] + boxes[:, 2:] > limits).any(axis=1)
    corners = ((boxes[:, 2:] >= boxes[:, :2]) & (boxes[:, 2:] <= limits)).all(axis=1)
    if len(boxes) and outside.mean() > _MANY_OUTSIDE and corners.mean() >= _NEARLY_ALL:
        number = int(np.argmax(outside))
        wrong = f"bbox {boxes[number].tolist()} and {outside.sum() - 1} others leave their images"
        raise UserError(
            f"{path}: detection {number}: {wrong}: these look like x1, y1, x2, y2; write x, y, width, height"
        )
