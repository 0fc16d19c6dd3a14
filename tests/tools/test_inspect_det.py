"""The report from the command line: of a file of detections, of two, of a detector."""

from pathlib import Path

import numpy as np
import pytest

from detection.data.dataset import Annotations
from detection.data.voc import read_voc
from detection.evaluation.detections import Detections


@pytest.fixture
def tiny_set(tiny_data: Path) -> Annotations:
    return read_voc(tiny_data, "val")


@pytest.fixture
def found(tiny_set: Annotations, tmp_path: Path) -> Path:
    """Every ordinary object found, none twice."""
    rows = np.flatnonzero(~tiny_set.ignore)
    scores = np.linspace(0.9, 0.5, len(rows))
    detections = Detections(tiny_set.image_of_object[rows], tiny_set.labels[rows], scores, tiny_set.boxes[rows])
    detections.write_coco(tmp_path / "found.json", tiny_set)
    return tmp_path / "found.json"


def test_a_file_becomes_a_folder_with_a_page(tool, tiny_data, found, tmp_path, true_plots) -> None:
    words = ("--data.root", tiny_data, "--data.train", "train", "--data.val", "val", "--metric.bootstrap", 20)
    ended = tool("inspect_det", *words, "--detections", found, "--output", tmp_path / "report")
    assert (ended.status, ended.err) == (0, "")
    assert f"open {tmp_path / 'report' / 'index.html'} in a browser" in ended.out
    assert len(list((tmp_path / "report" / "pictures").iterdir())) == 5
    assert '"found.json"' in (tmp_path / "report" / "data.js").read_text()
    assert "</svg>" in (tmp_path / "report" / "plots" / "recall_by_size.svg").read_text()


def test_two_files_side_by_side_and_the_worst_pictures_only(tool, tiny_data, found, tmp_path) -> None:
    (tmp_path / "nothing.json").write_text("[]")
    words = ("--data.root", tiny_data, "--data.train", "train", "--data.val", "val", "--metric.bootstrap", 0)
    more = ("--detections", tmp_path / "nothing.json", "--versus", found, "--images", 2)
    ended = tool("inspect_det", *words, *more, "--output", tmp_path / "report")
    assert ended.status == 0
    assert len(list((tmp_path / "report" / "pictures").iterdir())) == 2
    data = (tmp_path / "report" / "data.js").read_text()
    assert '"nothing.json"' in data and '"found.json"' in data


def test_a_detector_predicts_first(tool, tiny_run, output) -> None:
    ended = tool("inspect_det", "--checkpoint", tiny_run / "best.pt", "--metric.bootstrap", 0, "--output", output)
    assert ended.status == 0 and (output / "index.html").is_file()


def test_mistakes(refusal, tiny_data, tiny_run, found, tmp_path) -> None:
    assert "give either --detections PATH or --checkpoint FILE" in refusal("inspect_det")
    both = ("--detections", found, "--checkpoint", tiny_run)
    assert "give either" in refusal("inspect_det", *both)
    root = ("--data.root", tiny_data, "--data.train", "train", "--data.val", "val")
    assert "--images -1" in refusal("inspect_det", *root, "--detections", found, "--images", -1)
    assert "has no use for the setting" in refusal("inspect_det", "--detections", found, "--train.lr", 1)
    unlabelled = ("--data.root", tiny_data, "--data.val", "unlabelled", "--data.classes", "[circle]")
    (tmp_path / "nothing.json").write_text("[]")
    refused = refusal("inspect_det", *unlabelled, "--detections", tmp_path / "nothing.json")
    assert "--data.val unlabelled: has no annotations to compare with" in refused
