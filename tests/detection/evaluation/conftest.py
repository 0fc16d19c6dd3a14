"""Builds small data sets and detections from lists; COCO's matching in slow loops."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections

Object = tuple[int, int, tuple[float, float, float, float], bool]
Detection = tuple[int, int, float, tuple[float, float, float, float]]


def _annotations(objects: Sequence[Object], images: int, classes: int) -> Annotations:
    """Objects are (image, label, box, difficult); they are stored by image, otherwise in the given order."""
    objects = sorted(objects, key=lambda item: item[0])
    boxes = np.array([item[2] for item in objects], np.float64).reshape(-1, 4)
    return Annotations(
        class_names=tuple(f"class{index}" for index in range(1, classes + 1)),
        image_ids=np.array([f"{index:06d}" for index in range(images)], dtype=str),
        image_paths=np.array([f"{index:06d}.jpg" for index in range(images)], dtype=str),
        sizes=np.full((images, 2), 100, np.int32),
        offsets=np.searchsorted([item[0] for item in objects], np.arange(images + 1)).astype(np.int64),
        boxes=boxes,
        labels=np.array([item[1] for item in objects], np.int64),
        ignore=np.array([item[3] for item in objects], bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )


def _detections(rows: Sequence[Detection]) -> Detections:
    """Rows are (image, label, score, box)."""
    return Detections(
        image_indices=np.array([row[0] for row in rows], np.int64),
        labels=np.array([row[1] for row in rows], np.int64),
        scores=np.array([row[2] for row in rows], np.float32),
        boxes=np.array([row[3] for row in rows], np.float32).reshape(-1, 4),
    )


def _match_in_loops(
    detections: Detections, annotations: Annotations, threshold: float, limit: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's rule: for each image and class, the object of each detection or -1, and which count as ignored."""
    matched, ignored = np.full(len(detections), -1), np.zeros(len(detections), bool)
    for image in range(len(annotations)):
        for label in range(1, len(annotations.class_names) + 1):
            rows = np.flatnonzero((detections.image_indices == image) & (detections.labels == label))
            rows = sorted(rows.tolist(), key=lambda row: -detections.scores[row])
            span = annotations.objects(image)
            objects = [m for m in range(span.start, span.stop) if annotations.labels[m] == label]
            taken = set()
            for place, row in enumerate(rows):
                if place >= limit:
                    ignored[row] = True
                    continue
                for crowd in (False, True):
                    best, chosen = min(threshold, 1 - 1e-10), -1
                    for m in objects:
                        value = _share(detections.boxes[row].tolist(), annotations.boxes[m].tolist(), crowd)
                        if bool(annotations.ignore[m]) == crowd and m not in taken and value >= best:
                            best, chosen = value, m
                    if chosen >= 0:
                        matched[row], ignored[row] = chosen, crowd
                        taken |= set() if crowd else {chosen}
                        break
    return matched, ignored


def _share(box: Sequence[float], other: Sequence[float], crowd: bool) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    own = (box[2] - box[0]) * (box[3] - box[1])
    whole = own if crowd else own + (other[2] - other[0]) * (other[3] - other[1]) - width * height
    return width * height / whole


@pytest.fixture(scope="session")
def make_annotations() -> Callable[..., Annotations]:
    return _annotations


@pytest.fixture(scope="session")
def make_detections() -> Callable[..., Detections]:
    return _detections


@pytest.fixture(scope="session")
def match_in_loops() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return _match_in_loops
