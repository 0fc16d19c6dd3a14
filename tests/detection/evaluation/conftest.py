"""Builds small data sets and detections from lists."""

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


@pytest.fixture(scope="session")
def make_annotations() -> Callable[..., Annotations]:
    return _annotations


@pytest.fixture(scope="session")
def make_detections() -> Callable[..., Detections]:
    return _detections
