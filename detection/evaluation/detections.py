"""The one form of results: flat arrays, written to and read from COCO JSON, written to VOC result files.

Letters: ``D`` detections, ``I`` images and ``K`` classes of the data set.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.dataset import Annotations
from detection.data.voc import boxes_to_voc
from detection.errors import UserError
from detection.files import replacing


@dataclass
class Detections:
    """D detections of a data set. Their order is the order of the file: protocols break ties of scores by it."""

    image_indices: np.ndarray
    """(D,) int64: index of the image in the data set's `Annotations`."""
    labels: np.ndarray
    """(D,) int64: 1..K."""
    scores: np.ndarray
    """(D,) float32 or float64, higher is better."""
    boxes: np.ndarray
    """(D, 4) float32: x1, y1, x2, y2 in pixels of the original image."""

    @classmethod
    def empty(cls) -> "Detections":
        """No detections (D = 0)."""
        return cls(
            image_indices=np.zeros(0, np.int64),
            labels=np.zeros(0, np.int64),
            scores=np.zeros(0, np.float32),
            boxes=np.zeros((0, 4), np.float32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Detections"]) -> "Detections":
        """The detections of all parts, one part after another; of no parts, none."""
        if not parts:
            return cls.empty()
        return cls(
            image_indices=np.concatenate([part.image_indices for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            boxes=np.concatenate([part.boxes for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, which: np.ndarray) -> "Detections":
        """The detections at `which`, a mask (D,) or indices in the wanted order."""
        return Detections(self.image_indices[which], self.labels[which], self.scores[which], self.boxes[which])

    def write_coco(self, path: str | Path, annotations: Annotations, category_ids: Sequence[int] | None = None) -> None:
        """Writes COCO's result form: a list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``.

        :meth:`read_coco` gives back exactly the same numbers, in the same order.

        Args:
            path: the file; it is replaced whole or not at all.
            annotations: the data set. Its image ids are written as numbers when all of them are plain numbers
                (COCO), otherwise as text (VOC's "000017" would lose its zeros).
            category_ids: id in the file of each of the K classes; by default 1..K.

        Raises:
            UserError: the file cannot be written.
        """
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write("[")
            for number, lines in enumerate(self._coco_lines(annotations, category_ids)):
                file.write(("\n" if number == 0 else ",\n") + ",\n".join(lines))
            file.write("\n]\n")

    def _coco_lines(self, annotations: Annotations, category_ids: Sequence[int] | None) -> Iterator[list[str]]:
        # Nine digits identify a float32; three more on the sizes keep x + w the same float32 as x2. Scores may be
        # float64 and take the shortest digits that identify one.
        line = '{"image_id":%s,"category_id":%d,"bbox":[%.9g,%.9g,%.12g,%.12g],"score":%r}'
        ids = [json.dumps(image_id) for image_id in _json_ids(annotations)]
        categories = _category_ids(annotations, category_ids)
        for start in range(0, len(self), 10_000):
            part = self.select(np.arange(start, min(start + 10_000, len(self))))
            corners = part.boxes.astype(np.float64)
            columns = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2], part.scores[:, None]], axis=1)
            images = (ids[index] for index in part.image_indices.tolist())
            rows = zip(images, categories[part.labels - 1].tolist(), *columns.T.tolist(), strict=True)
            yield [line % row for row in rows]

    @classmethod
    def read_coco(
        cls, path: str | Path, annotations: Annotations, category_ids: Sequence[int] | None = None
    ) -> "Detections":
        """Reads what :meth:`write_coco`, or other software, wrote about the images of `annotations`.

        Returns:
            Detections in the order of the file; scores are float64, so that close ones keep their order.

        Raises:
            UserError: the file is missing, is no such list, names an image or a category that is not in the set, or
                holds a box of negative size.
        """
        rows = _read_rows(Path(path))
        images = {str(image_id): index for index, image_id in enumerate(annotations.image_ids.tolist())}
        if len(images) != len(annotations):
            raise UserError(f"{path}: some images of the data set have the same id; name a set with each image once")
        labels = {int(number): label for label, number in enumerate(_category_ids(annotations, category_ids), 1)}
        parsed = []
        for number, row in enumerate(rows):
            try:
                parsed.append(_parse(row, images, labels))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}: detection {number}: {_complaint(row, images, labels)}") from error
        table = np.array(parsed, np.float64).reshape(-1, 7)
        for number in np.flatnonzero((table[:, 5:] < 0).any(axis=1))[:1]:
            box = f"bbox {rows[number]['bbox']!r} has a negative width or height"
            raise UserError(f"{path}: detection {number}: {box}; bbox is x, y, width, height")
        return cls._from_numbers(table)

    @classmethod
    def _from_numbers(cls, table: np.ndarray) -> "Detections":
        """From (D, 7) float64: image index, label, score, x, y, w, h."""
        starts = table[:, 3:5].astype(np.float32)
        ends = (starts + table[:, 5:]).astype(np.float32)
        return cls(
            image_indices=table[:, 0].astype(np.int64),
            labels=table[:, 1].astype(np.int64),
            scores=table[:, 2].copy(),
            boxes=np.concatenate([starts, ends], axis=1),
        )

    def write_voc(
        self, folder: str | Path, annotations: Annotations, set_name: str, competition: str = "comp4"
    ) -> list[Path]:
        """Writes the devkit's result files ``<competition>_det_<set>_<class>.txt``, one for each class.

        A line is ``image_id confidence xmin ymin xmax ymax`` with 1-based inclusive pixels. A class without
        detections has an empty file, which the evaluation server expects. For an upload the folder is
        ``results/VOC2012/Main``.

        Args:
            folder: where the files go; it is made if necessary.
            annotations: the data set that was detected in.
            set_name: the set's name without the year, as "test".
            competition: "comp3" if nothing but VOC images was used in training, otherwise "comp4".

        Returns:
            The K files, in the order of the classes.

        Raises:
            UserError: a class name cannot be part of a file name, or a file cannot be written.
        """
        for name in annotations.class_names:
            if "/" in name or os.sep in name:
                raise UserError(f"class {name}: no VOC result file can be named after it; rename it without {os.sep}")
        ids = annotations.image_ids.tolist()
        paths = []
        for label, name in enumerate(annotations.class_names, 1):
            part = self.select(self.labels == label)
            images = (ids[index] for index in part.image_indices.tolist())
            rows = zip(images, part.scores.tolist(), *boxes_to_voc(part.boxes).T.tolist(), strict=True)
            paths.append(Path(folder) / f"{competition}_det_{set_name}_{name}.txt")
            with replacing(paths[-1]) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.writelines("{} {!r} {:.3f} {:.3f} {:.3f} {:.3f}\n".format(*row) for row in rows)
        return paths


def _json_ids(annotations: Annotations) -> list[int] | list[str]:
    ids = annotations.image_ids.tolist()
    plain = re.compile("0|[1-9][0-9]*").fullmatch
    return [int(image_id) for image_id in ids] if all(map(plain, ids)) else ids


def _category_ids(annotations: Annotations, category_ids: Sequence[int] | None) -> np.ndarray:
    if category_ids is None:
        return np.arange(1, len(annotations.class_names) + 1)
    return np.asarray(category_ids, np.int64)


def _read_rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a file of detections") from error
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); name a file of detections in COCO result form") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds no list of detections; name a file in COCO result form")
    return rows


def _parse(row: dict[str, Any], images: dict[str, int], labels: dict[int, int]) -> tuple[float, ...]:
    x, y, width, height = row["bbox"]
    numbers = (images[str(row["image_id"])], labels[row["category_id"]], row["score"], x, y, width, height)
    if not math.isfinite(sum(numbers)):
        raise ValueError
    return numbers


def _complaint(row: Any, images: dict[str, int], labels: dict[int, int]) -> str:
    wanted = ("image_id", "category_id", "bbox", "score")
    if not isinstance(row, dict) or not all(key in row for key in wanted):
        return f"is not an object with {', '.join(wanted)}; write the file in COCO result form"
    if str(row["image_id"]) not in images:
        return f"image_id {row['image_id']!r} is not in the data set; name the set that was detected in"
    if row["category_id"] not in list(labels):
        return f"category_id {row['category_id']!r} is not one of {sorted(labels)}; name the matching classes"
    return f"bbox {row['bbox']!r} and score {row['score']!r} are not four and one finite numbers; repair them"
