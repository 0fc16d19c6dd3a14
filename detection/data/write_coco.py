"""Writes annotations as a COCO file, which :func:`detection.data.coco.read_coco` reads as ``IMAGES_DIR=FILE.json``.

Letters: ``I`` images, ``M`` objects of all images.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from detection.data.box_forms import boxes_to_coco
from detection.data.coco_sets import name_set
from detection.data.dataset import Annotations
from detection.errors import UserError
from detection.files import replacing


def write_coco(path: str | Path, annotations: Annotations, keep: np.ndarray | None = None) -> str:
    """Writes images, objects and categories; a set that is not annotated gets no ``annotations``.

    Ids of images and categories are kept, numbers as numbers. Objects are numbered anew. Ignored objects become
    ``iscrowd`` 1. Segmentations are not part of :class:`~detection.data.dataset.Annotations` and so are not written.

    Args:
        path: the file; it is replaced whole or not at all.
        annotations: the data set.
        keep: (I,) bool, the images to write; all by default.

    Returns:
        What the file is called as a set: "IMAGES_DIR=FILE.json", with the deepest folder that holds all images.

    Raises:
        UserError: no image is kept, two images have one id (as in a union of sets), a set cannot be called by these
            paths, or the file cannot be written.
    """
    kept = np.arange(len(annotations)) if keep is None else np.flatnonzero(keep)
    ids = annotations.image_ids[kept].tolist()
    if not ids:
        raise UserError(f"{path}: no image is left to be written; mend the faults of the set, or choose another")
    repeated = _first_repeated(ids)
    if repeated is not None:
        raise UserError(f"{path}: two images have the id {repeated}; write the parts of the union one by one")
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in annotations.image_paths[kept]])
    name = name_set(Path(folder), Path(path).resolve())
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"images":[\n')
        _write_lines(file, _images(annotations, kept, folder))
        if annotations.annotated:
            file.write('],"annotations":[\n')
            _write_lines(file, _objects(annotations, kept))
        file.write('],"categories":[\n')
        _write_lines(file, _categories(annotations))
        file.write("]}\n")
    return name


def _first_repeated(ids: list[str]) -> str | None:
    seen: set[str] = set()
    return next((image_id for image_id in ids if image_id in seen or seen.add(image_id)), None)


def _write_lines(file: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        file.write(("" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False, separators=(",", ":")))
    file.write("\n")


def _images(annotations: Annotations, kept: np.ndarray, folder: str) -> Iterator[dict[str, Any]]:
    ids = annotations.json_ids()
    for index in kept.tolist():
        name = os.path.relpath(annotations.image_paths[index], folder).replace(os.sep, "/")
        rows, columns = annotations.sizes[index].tolist()
        yield {"id": ids[index], "file_name": name, "width": columns, "height": rows}


def _objects(annotations: Annotations, kept: np.ndarray) -> Iterator[dict[str, Any]]:
    ids, categories = annotations.json_ids(), annotations.own_category_ids()
    boxes = boxes_to_coco(annotations.boxes)
    number = 0
    for index in kept.tolist():
        here = annotations.objects(index)
        columns = (boxes[here], annotations.areas[here], annotations.labels[here], annotations.ignore[here])
        for box, area, label, ignore in zip(*(column.tolist() for column in columns), strict=True):
            number += 1
            yield {
                "id": number,
                "image_id": ids[index],
                "category_id": categories[label - 1],
                "bbox": box,
                "area": area,
                "iscrowd": int(ignore),
            }


def _categories(annotations: Annotations) -> Iterator[dict[str, Any]]:
    for number, name in zip(annotations.own_category_ids(), annotations.class_names, strict=True):
        yield {"id": number, "name": name}
