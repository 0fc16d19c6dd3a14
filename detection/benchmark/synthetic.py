"""A data set in COCO's layout with random objects and detections, of any length, to read and score.

Letters: ``I`` images, ``M`` objects, ``D`` detections, ``n`` any of these two.
"""

import json
from pathlib import Path

import numpy as np

CLASSES = 80
SIZE = (480, 640)
"""Rows and columns of every image."""
OBJECTS_AN_IMAGE, DETECTIONS_AN_IMAGE = 7, 20
"""COCO has 7.3 objects; a detector's results keep up to 100, most of them of hardly any score."""


def write_coco(root: Path, images: int, seed: int = 0) -> Path:
    """Writes ``annotations/instances_val.json``, I empty pictures under ``val``, and detections; returns the latter.

    Half of the detections are near an object and of its class, the others anywhere.
    """
    rng = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    names = [f"{number:012d}.jpg" for number in range(1, images + 1)]
    for name in names:
        (root / "val" / name).touch()
    boxes, labels, owner = _objects(rng, OBJECTS_AN_IMAGE * images, images)
    size = {"height": SIZE[0], "width": SIZE[1]}
    rows = _rows(boxes, labels, owner)
    areas = boxes[:, 2:].prod(axis=1).tolist()
    content = {
        "images": [{"id": number, "file_name": name, **size} for number, name in enumerate(names, 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)],
        "annotations": [
            {**row, "id": number, "area": area, "iscrowd": 0}
            for number, (row, area) in enumerate(zip(rows, areas, strict=True), 1)
        ],
    }
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    found = _detections(rng, DETECTIONS_AN_IMAGE * images, boxes, labels, owner, images)
    (root / "detections.json").write_text(json.dumps(found))
    return root / "detections.json"


def _objects(rng: np.random.Generator, count: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 4) x, y, width, height with two decimals, (n,) labels from 1, and (n,) indices of their images, ascending."""
    limit = np.array([SIZE[1], SIZE[0]])
    sides = np.exp(rng.uniform(np.log(10), np.log(400), (count, 2))).round(2)
    starts = (rng.random((count, 2)) * (limit - sides)).round(2)
    owner = np.sort(rng.integers(0, images, count))
    return np.concatenate([starts, sides], axis=1), rng.integers(1, CLASSES + 1, count), owner


def _detections(
    rng: np.random.Generator, count: int, boxes: np.ndarray, labels: np.ndarray, owner: np.ndarray, images: int
) -> list[dict]:
    elsewhere, random_labels, random_owner = _objects(rng, count, images)
    source, is_near = rng.integers(0, len(boxes), count), rng.random(count) < 0.5
    near = boxes[source] * (1 + rng.normal(0, 0.03, (count, 4)))
    found = np.where(is_near[:, None], near, elsewhere)
    found_labels = np.where(is_near, labels[source], random_labels)
    rows = _rows(found, found_labels, np.where(is_near, owner[source], random_owner))
    scores = np.where(is_near, rng.beta(2, 3, count), rng.beta(1, 8, count)).tolist()
    return [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]


def _rows(boxes: np.ndarray, labels: np.ndarray, owner: np.ndarray) -> list[dict]:
    columns = zip((owner + 1).tolist(), labels.tolist(), boxes.tolist(), strict=True)
    return [{"image_id": image, "category_id": label, "bbox": box} for image, label, box in columns]
