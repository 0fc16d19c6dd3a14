"""Writes a data set in COCO's layout with random objects, and detections like a detector's, to measure readers and
scorers on: ``python tests/measure/make_coco.py OUT --images 5000 --objects 36000 --detections 500000``.

``--polygons`` gives each object an outline of about 24 points, as COCO's have; ``--pictures FOLDER`` takes the JPEGs of
a folder in turn for the images, which are otherwise empty files.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""The 80 ids of COCO."""
WITHOUT_HEIGHT = (1000, 500_000)
"""Objects without height, of which train2017 has two as well."""


def main() -> None:
    given = arguments()
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(581_929, given.images, replace=False) + 1)
    sizes = write_pictures(given.out / "val", ids, given.pictures, rng)
    owner = np.sort(rng.integers(0, given.images, given.objects))
    boxes = random_boxes(rng, sizes[owner])
    labels = rng.integers(0, 80, given.objects)
    (given.out / "annotations").mkdir(parents=True, exist_ok=True)
    with open(given.out / "annotations" / "instances_val.json", "w") as file:
        images = [
            {"id": own, "file_name": f"{own:012d}.jpg", "width": columns, "height": rows}
            for own, (columns, rows) in zip(ids.tolist(), sizes.tolist(), strict=True)
        ]
        head = {"images": images, "categories": [{"id": own, "name": f"class {own}"} for own in CATEGORIES]}
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number, row in enumerate(objects(rng, ids[owner], labels, boxes, given.polygons)):
            file.write((",\n" if number else "") + json.dumps(row))
        file.write("]}")
    if given.detections:
        rows = detections(rng, given.detections, ids, sizes, owner, boxes, labels)
        (given.out / "detections.json").write_text(json.dumps(list(rows)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name in ("images", "objects", "detections"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--polygons", action="store_true")
    parser.add_argument("--pictures", type=Path)
    return parser.parse_args()


def write_pictures(folder: Path, ids: np.ndarray, pictures: Path | None, rng: np.random.Generator) -> np.ndarray:
    """Copied or empty files; returns (I, 2) columns and rows."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / f"{own:012d}.jpg" for own in ids.tolist()]
    if pictures is None:
        for name in names:
            name.touch()
        return np.where(rng.random((len(ids), 1)) < 0.7, (640, 480), (480, 640))
    sources = sorted(pictures.glob("*.jpg"))
    sizes = {source: Image.open(source).size for source in sources}
    for name, source in zip(names, cycle(sources), strict=False):
        shutil.copyfile(source, name)
    return np.array([sizes[source] for _, source in zip(names, cycle(sources), strict=False)])


def random_boxes(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    """(M, 4) x, y, width, height inside images of these (M, 2) columns and rows; sides from 10 to 400 pixels."""
    sides = np.exp(rng.uniform(np.log(10), np.log(400), sizes.shape)).clip(max=sizes - 1)
    return np.concatenate([rng.random(sizes.shape) * (sizes - sides), sides], axis=1).round(2)


def objects(
    rng: np.random.Generator, image_ids: np.ndarray, labels: np.ndarray, boxes: np.ndarray, polygons: bool
) -> Iterator[dict[str, Any]]:
    """COCO's annotations; every 86th is a crowd."""
    points = rng.geometric(1 / 24, len(boxes)).clip(3, 200)
    for number, (x, y, width, height) in enumerate(boxes.tolist()):
        outline = (rng.random((points[number], 2)) * (width, height) + (x, y)).round(2).ravel().tolist()
        yield {
            "id": number + 1,
            "image_id": int(image_ids[number]),
            "category_id": CATEGORIES[labels[number]],
            "bbox": [x, y, width, 0.0 if polygons and number in WITHOUT_HEIGHT else height],
            "area": round(0.6 * width * height, 4),
            "iscrowd": int(number % 86 == 0),
            **({"segmentation": [outline]} if polygons else {}),
        }


def detections(
    rng: np.random.Generator,
    count: int,
    ids: np.ndarray,
    sizes: np.ndarray,
    owner: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
) -> Iterator[dict[str, Any]]:
    """Half of them near an object, mostly of its class and with higher scores; half anywhere."""
    near, source = rng.random(count) < 0.5, rng.integers(0, len(boxes), count)
    images = np.where(near, owner[source], rng.integers(0, len(ids), count))
    found = np.where(near & (rng.random(count) < 0.9), labels[source], rng.integers(0, 80, count))
    moved = boxes[source] + rng.normal(0, 0.08, (count, 4)) * np.tile(boxes[source, 2:], 2)
    starts = moved[:, :2].clip(0, sizes[images] - 2)
    sides = np.abs(moved[:, 2:]).clip(1, sizes[images] - starts)
    scores = np.where(near, rng.beta(2, 3, count), rng.beta(1, 8, count))
    rows = zip(ids[images].tolist(), found.tolist(), np.hstack([starts, sides]).tolist(), scores.tolist(), strict=True)
    for image_id, label, box, score in rows:
        yield {"image_id": image_id, "category_id": CATEGORIES[label], "bbox": box, "score": score}


if __name__ == "__main__":
    main()
