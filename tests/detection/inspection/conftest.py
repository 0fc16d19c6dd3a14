"""A small data set with pictures on the disk, and what two made-up detectors say about it."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from detection.config import MetricSettings
from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.scores import score
from detection.inspection.report import Reported

CLASSES = ("<script>alert(1)</script>", "a \"quoted\" & 'b'", "汽车 סוס\u2028", "never seen")
IDS = ("<img src=x onerror=alert(1)>", 'a"b&amp;c', "日本", "</script>", *(f"image {number}" for number in range(8)))
SIZES = ((120, 160), (160, 120), (100, 300))


@dataclass(frozen=True)
class Scene:
    annotations: Annotations
    first: Reported
    versus: Reported


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the plots of a report, which take seconds."""
    monkeypatch.setattr("detection.inspection.report.write_plots", lambda *args, **kwargs: [])


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """12 pictures with 0 to 5 objects of 3 of 4 classes, some ignored; two detectors, whose boxes are off at random."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    sizes = np.array([SIZES[number % 3] for number in range(12)], np.int32)
    for number, (rows, columns) in enumerate(sizes):
        noise = rng.integers(0, 256, (rows // 10, columns // 10, 3), np.uint8)
        Image.fromarray(noise).resize((columns, rows)).save(folder / f"{number}.jpg")
    counts = np.array([0, 5, 2, 3, 1, 4, 2, 0, 5, 3, 2, 4])
    images = np.repeat(np.arange(12), counts)
    boxes = _random_boxes(rng, sizes[images])
    annotations = Annotations(
        class_names=CLASSES,
        image_ids=np.array(IDS),
        image_paths=np.array([str(folder / f"{number}.jpg") for number in range(12)]),
        sizes=sizes,
        offsets=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        boxes=boxes,
        labels=rng.integers(1, 4, len(boxes)),
        ignore=rng.random(len(boxes)) < 0.15,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )
    detectors = (reported(name, annotations, _guesses(rng, annotations)) for name in ("</script>&", "B"))
    return Scene(annotations, *detectors)


def reported(name: str, annotations: Annotations, detections: Detections) -> Reported:
    return Reported(name, detections, score(detections, annotations, MetricSettings()), None)


def _random_boxes(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    limits = sizes[:, ::-1].astype(np.float64)
    extents = rng.uniform(15, 0.9 * limits)
    corners = rng.uniform(0, limits - extents)
    return np.concatenate([corners, corners + extents], axis=1)


def _guesses(rng: np.random.Generator, annotations: Annotations) -> Detections:
    """Two boxes around each object, nearly or roughly right, and four at random in each picture."""
    objects = np.repeat(np.arange(len(annotations.boxes)), 2)
    extents = np.tile(annotations.boxes[objects, 2:] - annotations.boxes[objects, :2], 2)
    spread = rng.choice([0.03, 0.2], (len(objects), 1))
    near = annotations.boxes[objects] + spread * extents * rng.uniform(-1, 1, extents.shape)
    elsewhere = np.repeat(np.arange(len(annotations)), 4)
    far = _random_boxes(rng, annotations.sizes[elsewhere])
    labels = np.where(rng.random(len(objects)) < 0.8, annotations.labels[objects], 1)
    return Detections(
        image_indices=np.concatenate([annotations.image_of_object[objects], elsewhere]),
        labels=np.concatenate([labels, rng.integers(1, 4, len(elsewhere))]),
        scores=np.concatenate([rng.uniform(0.2, 1, len(objects)), rng.uniform(0, 0.7, len(elsewhere))]).round(2),
        boxes=np.concatenate([near, far]).astype(np.float32),
    )
