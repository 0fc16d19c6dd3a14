"""Scoring files of detections: what is printed, what is written, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detection.data.dataset import Annotations
from detection.data.voc import read_voc
from detection.evaluation.detections import Detections

TOOLS = Path(__file__).parents[2] / "tools"
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]


@pytest.fixture
def tiny_set(tiny_data: Path) -> Annotations:
    return read_voc(tiny_data, "val", on_error="drop")


@pytest.fixture
def truth(tiny_set: Annotations) -> Detections:
    """Detections without a mistake."""
    rows = np.flatnonzero(~tiny_set.ignore)
    scores = np.linspace(0.9, 0.5, len(rows))
    return Detections(tiny_set.image_of_object[rows], tiny_set.labels[rows], scores, tiny_set.boxes[rows])


def words(root: Path, *more: object) -> tuple[object, ...]:
    return ("--data.root", root, "--data.train", "train", "--data.val", "val", *more)


def numbers(path: Path) -> dict:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_perfect_detections_score_one_under_both_protocols(tool, tiny_data, tiny_set, truth, tmp_path) -> None:
    truth.write_coco(tmp_path / "found.json", tiny_set)
    truth.write_voc(tmp_path / "main", tiny_set, "val")
    for path in (tmp_path / "found.json", tmp_path / "main"):
        ended = tool("score_det", *words(tiny_data, "--detections", path, "--json", tmp_path / "scores.json"))
        assert (ended.status, ended.err) == (0, "")
        record = numbers(tmp_path / "scores.json")
        (result,) = record["results"]
        for name in ("COCO AP", "COCO AP50", "COCO AR100", "VOC area mAP@0.5", "VOC07 11-point mAP@0.5"):
            assert result["scores"][name] == pytest.approx(1, abs=1e-12)
        for name, interval in record["intervals"].items():
            assert (interval["value"], interval["low"], interval["high"]) == pytest.approx((1, 1, 1), abs=1e-9), name
        assert result["errors at IoU 0.5"]["background"]["count"] == 0
        for words_shown in ("COCO AP75", "VOC07 11-point", "95 % interval", "localization"):
            assert words_shown in ended.out


def test_half_of_the_objects_found_and_the_difference(tool, tiny_data, tiny_set, truth, tmp_path, true_plots) -> None:
    half = truth.select(np.arange(len(truth)) % 2 == 0)
    truth.write_coco(tmp_path / "all.json", tiny_set)
    half.write_coco(tmp_path / "half.json", tiny_set)
    both = words(tiny_data, "--detections", tmp_path / "half.json", "--versus", tmp_path / "all.json")
    ended = tool("score_det", *both, "--json", tmp_path / "scores.json", "--metric.bootstrap", 50, "--output", tmp_path)
    assert ended.status == 0
    record = numbers(tmp_path / "scores.json")
    missed = record["results"][0]["errors at IoU 0.5"]["missed"]["count"]
    assert missed == len(truth) - len(half)
    (first, second), differences = (one["scores"] for one in record["results"]), record["difference"]
    for name, interval in differences.items():
        assert interval["value"] == pytest.approx(first[name] - second[name], abs=1e-9) and interval["high"] < 0
    for folder in ("plots", "plots_versus"):
        paths = list((tmp_path / folder).iterdir())
        assert {path.suffix for path in paths} == {".png", ".svg"} and all(path.stat().st_size for path in paths)
    assert [one["name"] for one in record["results"]] == ["half.json", "all.json"]
    assert ended.out.count("COCO: 12 numbers") == 2


def test_the_protocol_is_named_and_chosen(tool, tiny_data, tiny_set, truth, tmp_path) -> None:
    truth.write_coco(tmp_path / "found.json", tiny_set)
    chosen = ("--metric.voc.ap", "area", "--metric.voc.pixels", "continuous", "--metric.voc.difficult", "count")
    more = ("--detections", tmp_path / "found.json", "--json", tmp_path / "scores.json", "--metric.bootstrap", 0)
    ended = tool("score_det", *words(tiny_data, *more, *chosen, "--metric.voc.iou", 0.75))
    record = numbers(tmp_path / "scores.json")
    names = record["results"][0]["scores"]
    assert "VOC area mAP@0.75 (continuous coordinates, difficult counted)" in names
    assert not any("11-point" in name for name in names) and "11-point" not in ended.out
    assert record["protocol"]["PASCAL VOC"]["pixels"] == "continuous" and "intervals" not in record


def test_sets_without_annotations_are_packed_not_scored(tool, refusal, tiny_data, tmp_path) -> None:
    images = read_voc(tiny_data, "unlabelled", classes=("circle", "square"))
    found = Detections(np.array([1]), np.array([2]), np.array([0.5]), np.array([[1.0, 2.0, 30.0, 40.0]]))
    found.write_coco(tmp_path / "found.json", images)
    given = ("--data.root", tiny_data, "--data.val", "unlabelled", "--data.classes", "[circle,square]")
    given += ("--detections", tmp_path / "found.json")
    assert "--data.val unlabelled: has no annotations to score against" in refusal("score_det", *given)
    ended = tool("score_det", *given, "--archive", tmp_path / "packed")
    assert ended.status == 0 and "for the evaluation server: " in ended.out
    (archive,) = (tmp_path / "packed").iterdir()
    assert archive.name == "results_comp4_unlabelled.tar.gz"


def test_coco_files_keep_their_own_ids_and_no_picture_is_needed(tool, tmp_path) -> None:
    images = [{"id": 3, "file_name": "a.jpg", "height": 100, "width": 100}]
    objects = [
        {"id": 1, "image_id": 3, "category_id": 90, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 7, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
    ]
    (tmp_path / "set.json").write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": objects}))
    found = [{"image_id": 3, "category_id": 90, "bbox": [10, 10, 50, 50], "score": 0.5}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    given = ("--data.format", "coco", "--data.root", tmp_path, "--data.val", "images=set.json")
    more = ("--detections", tmp_path / "found.json", "--json", tmp_path / "scores.json")
    assert tool("score_det", *given, *more).status == 0
    result = numbers(tmp_path / "scores.json")["results"][0]
    assert [result["classes"][name]["COCO AP"] for name in ("dog", "cat")] == pytest.approx([1, 0])
    assert result["scores"]["COCO AP"] == pytest.approx(0.5) and result["scores"]["COCO APl"] is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"image_id": "000008", "category_id": 1, "bbox": [1, 1, 5, 5], "score": NaN}]', "score"),
        ('[{"image_id": "nowhere", "category_id": 1, "bbox": [1, 1, 5, 5], "score": 1}]', "nowhere"),
        ('[{"image_id": "000008", "category_id": 77, "bbox": [1, 1, 5, 5], "score": 1}]', "77"),
        ('[{"image_id": "000008", "category_id": 1, "bbox": [1, 1, 5], "score": 1}]', "bbox"),
        ('[{"image_id": "000008", "category_id": 1, "bb', "found.json"),
    ],
)
def test_wrong_files_are_refused_with_their_place(refusal, tiny_data, tmp_path, content, sentence) -> None:
    (tmp_path / "found.json").write_text(content)
    message = refusal("score_det", *words(tiny_data, "--detections", tmp_path / "found.json"))
    assert str(tmp_path / "found.json") in message and sentence in message


def test_settings_that_have_no_effect_are_refused(refusal, tiny_data) -> None:
    assert "--train.lr: this tool has no use" in refusal("score_det", "--detections", "x", "--train.lr", 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_goes_nowhere_ends_with_a_status_of_its_own(tiny_data, tiny_set, truth, tmp_path) -> None:
    """128 + SIGPIPE where the reader of a pipe has gone; 2 and a sentence where the disk is full."""
    truth.write_coco(tmp_path / "found.json", tiny_set)
    argv = [sys.executable, str(TOOLS / "score_det.py"), *words(tiny_data, "--detections", tmp_path / "found.json")]
    argv = [*map(str, argv), "--metric.bootstrap", "0"]
    environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    reader, writer = os.pipe()
    os.close(reader)
    gone = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (141, b"")
    with open("/dev/full", "w") as full:
        refused = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert refused.returncode == 2 and b"output cannot be written (No space left on device)" in refused.stderr
