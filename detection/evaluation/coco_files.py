"""COCO's result form: a JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``.

Letters: ``D`` detections, ``I`` images, ``K`` classes.
"""

import json
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detection.data.box_forms import boxes_from_coco, boxes_to_coco
from detection.data.dataset import PLAIN_NUMBER, Annotations
from detection.errors import UserError, listed
from detection.evaluation.columns import (
    LARGEST,
    UNKNOWN,
    Columns,
    first,
    first_duplicate,
    images_by_id,
    look_up,
    read_bytes,
    require_finite,
)
from detection.files import replacing

_ROWS_AT_ONCE = 10_000

_DIGITS = re.compile("[0-9]+")

_OVERHANG = 0.1
"""Share of the image's side by which a box may stick out. Detectors clip their boxes, or stick out a little."""
_MANY_OUTSIDE = 0.2
"""Of corners read as sizes, all boxes leave whose centre is beyond 55 % of a side: far more than this share."""
_NEARLY_ALL = 0.99
"""Share of the boxes that must make sense as corners. Of sizes, a quarter at most would (w > x and h > y)."""
_MORE_THAN_CHANCE = 5
"""Up to so many boxes may lie in the first pixel of their images by chance; more are shares of the image's sides."""

_LONGEST_SHOWN = 100
"""Characters of a wrong value that a message shows."""


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
    columns = Columns(
        image_indices=_image_indices(path, [row.image_id for row in rows], annotations),
        labels=_labels(path, [row.category_id for row in rows], annotations),
        scores=np.fromiter((row.score for row in rows), np.float64, len(rows)),
        boxes=np.fromiter(chain.from_iterable(row.bbox for row in rows), np.float64, 4 * len(rows)).reshape(-1, 4),
    )
    numbers = np.flatnonzero(columns.image_indices >= 0)
    columns = columns.select(numbers)
    _check_boxes(path, numbers, columns.boxes, annotations.sizes[columns.image_indices])
    columns = columns._replace(boxes=boxes_from_coco(columns.boxes))
    duplicate = first_duplicate(columns)
    if duplicate:
        one, other = numbers[list(duplicate)]
        raise UserError(f"{path}: detections {one} and {other} are the same; remove one of them")
    return columns


def _lines(columns: Columns, annotations: Annotations) -> Iterator[list[str]]:
    # Nine digits identify a float32; three more on the sizes keep x + w the same float32 as x2. Scores, and boxes in
    # float64, take what identifies a float64.
    single = columns.boxes.dtype == np.float32
    bbox = "%.9g,%.9g,%.12g,%.12g" if single else "%r,%r,%r,%r"
    line = f'{{"image_id":%s,"category_id":%d,"bbox":[{bbox}],"score":%r}}'
    ids = [json.dumps(image_id) for image_id in annotations.json_ids()]
    categories = np.array(annotations.own_category_ids(), np.int64)
    for start in range(0, len(columns.scores), _ROWS_AT_ONCE):
        part = columns.select(slice(start, start + _ROWS_AT_ONCE))
        boxes = _exact_sizes(part.boxes.astype(np.float64)) if single else boxes_to_coco(part.boxes)
        images = (ids[index] for index in part.image_indices.tolist())
        labels, scores = categories[part.labels - 1].tolist(), part.scores.tolist()
        rows = zip(images, labels, *boxes.T.tolist(), scores, strict=True)
        yield [line % row for row in rows]


def _exact_sizes(corners: np.ndarray) -> np.ndarray:
    """(N, 4) x, y, width, height, unrounded: sums of them are the same float32 again."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


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
        mistake = _first_mistake(data) or f"is not sound JSON ({error}); write it again"
        raise UserError(f"{path}: {mistake}") from error


def _first_mistake(data: bytes) -> str:
    """What keeps the file from being read, found by Python's slower parser, which says where it stopped."""
    if not data.strip():
        return "is empty; a file without detections holds []"
    try:
        rows = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return _why_no_json(data.strip(), error)
    if not isinstance(rows, list):
        return _why_no_list(rows)
    mistakes = ((number, _mistake(row)) for number, row in enumerate(rows))
    return next((f"detection {number}: {mistake}" for number, mistake in mistakes if mistake), "")


def _why_no_json(data: bytes, error: Exception) -> str:
    faulty = isinstance(error, json.JSONDecodeError)
    if faulty and data.startswith(b"[") and not data.endswith(b"]"):
        return "ends in the middle of the list; write it again, or fetch all of it"
    if faulty and data.startswith(b"{") and error.msg == "Extra data":
        return "holds JSON line by line; write one list: [ before the first line, commas between, ] after the last"
    return f"is not JSON ({error}); name a file of detections in COCO result form"


def _why_no_list(content: Any) -> str:
    found = content if isinstance(content, dict) else {}
    for key, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and {"bbox", "score"} <= value[0].keys():
            return f"holds the list of detections under {key!r}; write that list alone"
    if {"images", "annotations"} & found.keys():
        return "holds annotations, not detections; name a file of detections in COCO result form"
    if "bbox" in found:
        return "holds a detection that is in no list; write [ before and ] after it"
    return "holds no list of detections; name a file in COCO result form"


def _mistake(row: Any) -> str:
    wanted = _Row.__struct_fields__
    if not isinstance(row, dict):
        return f"is not an object with {', '.join(wanted)}; write the file in COCO result form"
    missing = [key for key in wanted if key not in row]
    if missing:
        return f"has no {' and no '.join(missing)}; write the file in COCO result form"
    if not isinstance(row["image_id"], int | str) or isinstance(row["image_id"], bool):
        return f"image_id {_shown(row['image_id'])} is neither a whole number nor text; write the data set's id"
    if not isinstance(row["category_id"], int) or isinstance(row["category_id"], bool):
        return f"category_id {_shown(row['category_id'])} is not a whole number; write the data set's id"
    if not isinstance(row["bbox"], list) or len(row["bbox"]) != 4 or not all(map(_is_number, row["bbox"])):
        return f"bbox {_shown(row['bbox'])} is not four finite numbers; write x, y, width, height"
    return "" if _is_number(row["score"]) else f"score {_shown(row['score'])} is not a finite number; mend the detector"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} ..."


def _is_number(value: Any) -> bool:
    """Whether it is a number that float64 holds; JSON's whole numbers may have hundreds of digits."""
    largest = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


def _image_indices(path: Path, ids: list[int | str], annotations: Annotations) -> np.ndarray:
    images = images_by_id(path, annotations)
    indices = look_up(images | _by_number(images), ids)
    for number in first(indices == UNKNOWN):
        missing = f"image_id {ids[number]!r} is not in the data set"
        raise UserError(f"{path}: detection {number}: {missing}; name the set that was detected in")
    return indices


def _by_number(images: dict[str, int]) -> dict[int, int]:
    """The images by their ids as numbers: where no number could mean two of them 40 is "000040", as other tools write.

    Where it could, or where ids have letters too, only those that lose nothing as numbers.
    """
    numbers = {int(image_id): index for image_id, index in images.items() if _DIGITS.fullmatch(image_id)}
    if len(numbers) == len(images):
        return numbers
    return {int(image_id): index for image_id, index in images.items() if PLAIN_NUMBER.fullmatch(image_id)}


def _labels(path: Path, categories: list[int], annotations: Annotations) -> np.ndarray:
    known = {number: label for label, number in enumerate(annotations.own_category_ids(), 1)}
    labels = look_up(known, categories)
    for number in first(labels < 0):
        missing = f"category_id {categories[number]} is not one of {listed(sorted(known))}"
        raise UserError(f"{path}: detection {number}: {missing}; name the matching classes")
    return labels


def _check_boxes(path: Path, numbers: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> None:
    """Looks for boxes that cannot be right, then for those that are no x, y, width, height in pixels.

    Args:
        path: for the messages.
        numbers: (D,) places in the file.
        boxes: (D, 4) as read.
        sizes: (D, 2) rows and columns of their images; 0 where nobody looked.
    """
    for row in first((np.abs(boxes) > LARGEST).any(axis=1)):
        wrong = f"bbox {boxes[row].tolist()} is no place in an image"
        raise UserError(f"{path}: detection {numbers[row]}: {wrong}; mend the detector")
    for row in first((boxes[:, 2:] < 0).any(axis=1)):
        wrong = f"bbox {boxes[row].tolist()} has a negative width or height"
        raise UserError(f"{path}: detection {numbers[row]}: {wrong}; write x, y, width, height")
    if len(boxes) > _MORE_THAN_CHANCE and boxes.max() <= 1 and ((boxes > 0) & (boxes < 1)).mean() > 0.5:
        wrong = f"bbox {boxes[0].tolist()} and all others are 1 at most"
        raise UserError(
            f"{path}: detection {numbers[0]}: {wrong}: these look like shares of the image's sides; write pixels"
        )
    known = np.flatnonzero((sizes > 0).all(axis=1))
    rows = known[_corners(boxes[known], sizes[known])]
    for row in rows[:1]:
        wrong = f"bbox {boxes[row].tolist()} is one of {len(rows)} that leave their images"
        raise UserError(
            f"{path}: detection {numbers[row]}: {wrong}: these look like x1, y1, x2, y2; write x, y, width, height"
        )


def _corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The rows of the boxes that leave their images, if boxes make sense as corners and not as sizes."""
    limits = (1 + _OVERHANG) * sizes[:, ::-1]
    outside = (boxes[:, :2] + boxes[:, 2:] > limits).any(axis=1)
    corners = ((boxes[:, 2:] >= boxes[:, :2]) & (boxes[:, 2:] <= limits)).all(axis=1)
    several = len(boxes) > 0 and outside.mean() > _MANY_OUTSIDE and outside.sum() > 1
    return np.flatnonzero(outside if several and corners.mean() >= _NEARLY_ALL else [])
