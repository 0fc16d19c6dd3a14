"""PASCAL VOC's result files: ``comp4_det_<set>_<class>.txt``, with ``image_id confidence xmin ymin xmax ymax`` a line.

Letters: ``D`` detections, ``K`` classes. File coordinates are 1-based and inclusive; what leaves this module is not.
"""

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from detection.data.box_forms import boxes_to_voc, voc_to_boxes
from detection.data.dataset import Annotations
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

_FIELDS = ("image_id", "confidence", "xmin", "ymin", "xmax", "ymax")


def write(
    folder: str | Path, columns: Columns, annotations: Annotations, set_name: str, competition: str
) -> list[Path]:
    """Writes K files; see `Detections.write_voc`."""
    for name in annotations.class_names:
        if "/" in name or os.sep in name:
            raise UserError(f"class {name}: no VOC result file can be named after it; rename it without {os.sep}")
    require_finite(Path(folder), columns)
    ids = annotations.image_ids.tolist()
    paths = []
    for label, name in enumerate(annotations.class_names, 1):
        part = columns.select(columns.labels == label)
        images = (ids[index] for index in part.image_indices.tolist())
        boxes = boxes_to_voc(part.boxes.astype(np.float64))
        rows = zip(images, part.scores.tolist(), *boxes.T.tolist(), strict=True)
        paths.append(Path(folder) / f"{competition}_det_{set_name}_{name}.txt")
        with replacing(paths[-1]) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines("{} {!r} {:.3f} {:.3f} {:.3f} {:.3f}\n".format(*row) for row in rows)
    return paths


def read(folder: str | Path, annotations: Annotations) -> Columns:
    """Reads the files of all classes, class by class; see `Detections.read_voc`."""
    folder = Path(folder)
    images = images_by_id(folder, annotations)
    paths = _files(folder, annotations.class_names)
    parts = [_read_class(path, label, images) for label, path in enumerate(paths, 1)]
    return Columns(*map(np.concatenate, zip(*parts, strict=True)))


def _files(folder: Path, class_names: Sequence[str]) -> list[Path]:
    """The file of each class."""
    paths = sorted(folder.glob("comp[34]_det_*.txt"))
    if not paths:
        raise UserError(f"{folder}: holds no comp4_det_<set>_<class>.txt; name the folder with the VOC result files")
    prefixes = [path.stem.removesuffix(_class_of(path, class_names)) for path in paths]
    if len(set(prefixes)) > 1:
        several = ", ".join(f"{prefix}<class>.txt" for prefix in sorted(set(prefixes)))
        raise UserError(f"{folder}: holds the results of several sets ({several}); leave those of one")
    wanted = [folder / f"{prefixes[0]}{name}.txt" for name in class_names]
    missing = [path.name for path in wanted if path not in paths]
    if missing:
        raise UserError(f"{folder}: {listed(missing)} missing; a class without detections has an empty file")
    return wanted


def _class_of(path: Path, class_names: Sequence[str]) -> str:
    """The longest of the names that the file may end with: a set and a class may both have underscores."""
    names = [name for name in class_names if path.stem.endswith(f"_{name}")]
    if not names:
        raise UserError(f"{path}: ends with none of the classes {listed(class_names)}; name the matching classes")
    return max(names, key=len)


def _read_class(path: Path, label: int, images: dict[str, int]) -> Columns:
    """The detections of one file."""
    rows = _rows(path)
    numbers = [number for number, row in enumerate(rows, 1) if row]
    rows = [row for row in rows if row]
    try:
        values = np.fromiter(map(float, chain.from_iterable(row[1:] for row in rows)), np.float64).reshape(-1, 5)
        if set(map(len, rows)) - {len(_FIELDS)} or not _is_plain("".join(chain.from_iterable(row[1:] for row in rows))):
            raise ValueError
    except ValueError as error:
        raise UserError(_first_mistake(path, rows, numbers)) from error
    indices = look_up(images, [row[0] for row in rows])
    corners = values[:, 1:]
    for row in first(indices == UNKNOWN):
        missing = f"image {rows[row][0]} is not in the data set"
        raise UserError(f"{path}: line {numbers[row]}: {missing}; name the set that was detected in")
    for row in first(~np.isfinite(values).all(axis=1)):
        raise UserError(f"{path}: line {numbers[row]}: {' '.join(rows[row])}: not finite; mend the detector")
    for row in first((np.abs(corners) > LARGEST).any(axis=1)):
        raise UserError(f"{path}: line {numbers[row]}: {' '.join(rows[row])}: no place in an image; mend the detector")
    # An inclusive box is xmax - xmin + 1 wide. One that was less than a pixel wide has xmax < xmin, rightly.
    for row in first((corners[:, 2:] - corners[:, :2] < -1.01).any(axis=1)):
        reversed_box = f"{' '.join(rows[row])}: xmax < xmin or ymax < ymin"
        raise UserError(f"{path}: line {numbers[row]}: {reversed_box}; write {' '.join(_FIELDS)}")
    boxes = voc_to_boxes(corners)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    kept = np.flatnonzero(indices >= 0)
    columns = Columns(indices, np.full(len(rows), label), values[:, 0], boxes).select(kept)
    duplicate = first_duplicate(columns)
    if duplicate:
        lines = " and ".join(str(numbers[kept[row]]) for row in duplicate)
        raise UserError(f"{path}: lines {lines} are the same; remove one of them")
    return columns


def _rows(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in read_bytes(path).decode("utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8 ({error.reason}); name the VOC result files") from error


def _first_mistake(path: Path, rows: list[list[str]], numbers: list[int]) -> str:
    row = next(row for row, fields in enumerate(rows) if not _is_sound(fields))
    return f"{path}: line {numbers[row]}: {' '.join(rows[row])!r} is not {' '.join(_FIELDS)}; mend the line"


def _is_sound(fields: list[str]) -> bool:
    try:
        return len(fields) == len(_FIELDS) and len([float(field) for field in fields[1:] if _is_plain(field)]) == 5
    except ValueError:
        return False


def _is_plain(text: str) -> bool:
    """Python reads "1_0" and full-width digits as numbers, too; nobody means them."""
    return text.isascii() and "_" not in text
