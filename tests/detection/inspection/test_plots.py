"""The plots: what they say is read back from the SVG, whose text is text."""

import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.dataset import Annotations
from detection.evaluation.costs import error_costs
from detection.evaluation.detections import Detections
from detection.evaluation.errors import find_errors
from detection.inspection.plots import write_plots

pytestmark = pytest.mark.usefixtures("true_plots")
STEMS = ["error_costs", "precision_recall", "recall_by_size", "confusion_matrix"]


def _annotations(boxes: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Annotations:
    return Annotations(
        class_names=names,
        image_ids=np.array(["a"]),
        image_paths=np.array(["a.jpg"]),
        sizes=np.array([[200, 200]], np.int32),
        offsets=np.array([0, len(boxes)]),
        boxes=boxes,
        labels=labels,
        ignore=np.zeros(len(boxes), bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )


def _two_of_three() -> tuple[Detections, Annotations]:
    """Of three objects of 40 x 40 pixels two are found, one of them as another class."""
    boxes = np.array([[0, 0, 40, 40], [50, 0, 90, 40], [0, 100, 40, 140]], np.float64)
    annotations = _annotations(boxes, np.array([1, 1, 2]), ("$x_1$ & <b>", "c" * 40))
    found = Detections(np.zeros(2, np.int64), np.array([1, 2]), np.array([0.9, 0.8]), boxes[:2])
    return found, annotations


def _write(folder: Path, detections: Detections, annotations: Annotations) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        errors = find_errors(detections, annotations)
        return write_plots(folder, detections, annotations, errors, error_costs(detections, annotations, errors))


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller PNGs, where only the text matters."""
    monkeypatch.setattr("detection.inspection.plots._DPI", 30)


def _texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(item.itertext()).strip() for item in root.iter("{http://www.w3.org/2000/svg}text")]


def test_what_the_plots_say(coarse, tmp_path):
    assert _write(tmp_path, *_two_of_three()) == STEMS
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{s}.{k}" for s in STEMS for k in ("png", "svg"))
    costs = _texts(tmp_path / "error_costs.svg")
    assert "What each kind of error costs (TIDE, IoU 0.5)" in costs and "classification" in costs
    # Class 1: one of two found, 51/101; mended 1. Class 2: nothing found; the false one is removed, or moved.
    assert "+24.8" in costs
    curves = _texts(tmp_path / "precision_recall.svg")
    assert "COCO precision and recall, mean of 2 classes" in curves
    assert "IoU 0.5: AP 25.2" in curves  # half of 51/101
    recall = _texts(tmp_path / "recall_by_size.svg")
    assert "medium: 33.3 %" in recall and "small: no objects" in recall and "3" in recall
    confusion = _texts(tmp_path / "confusion_matrix.svg")
    assert confusion.count("50") == 2 and confusion.count("100") == 1
    assert confusion.count("n = 2") == 1 and confusion.count("n = 1") == 1 and confusion.count("n = 0") == 1
    assert confusion.count("0") == 2  # detections where nothing is, of each class
    assert any("scores from 0.5" in text for text in confusion)
    assert confusion.count("$x_1$ & <b>") == 2 and confusion.count("c" * 23 + "…") == 2


def test_equal_plots_are_equal_files(tmp_path):
    for folder in ("first", "second"):
        _write(tmp_path / folder, *_two_of_three())
    for stem in STEMS:
        for kind in ("png", "svg"):
            first, second = (tmp_path / folder / f"{stem}.{kind}" for folder in ("first", "second"))
            assert first.read_bytes() == second.read_bytes()
    with Image.open(tmp_path / "first" / "error_costs.png") as image:
        assert image.size == (1200, 675)


def test_many_classes_show_the_most_confused(coarse, tmp_path):
    """Of 30 classes, the last is taken for the first; 20 are shown."""
    boxes = np.tile(np.array([0, 0, 40, 40], np.float64), (30, 1)) + 50 * np.arange(30)[:, None]
    annotations = _annotations(boxes, np.arange(1, 31), tuple(f"class{label}" for label in range(1, 31)))
    found = Detections(np.zeros(1, np.int64), np.array([1]), np.array([0.9]), boxes[29:])
    _write(tmp_path, found, annotations)
    texts = _texts(tmp_path / "confusion_matrix.svg")
    assert "20 of 30 classes, the most confused" in texts
    assert {"class1", "class30"} <= set(texts) and not {"class20", "class29"} & set(texts)


@pytest.mark.parametrize(("objects", "found"), [(0, 0), (0, 2), (3, 0)])
def test_nothing_to_draw(coarse, tmp_path, objects, found):
    detections, annotations = _two_of_three()
    detections = detections.select(np.arange(found))
    annotations = _annotations(annotations.boxes[:objects], annotations.labels[:objects], annotations.class_names)
    assert _write(tmp_path, detections, annotations) == STEMS
