"""Whole commands: what they are given, what they leave, how a failure is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detection.benchmark import commands, plain_loop
from detection.benchmark.agreement import count_pairs
from detection.benchmark.case import Case
from detection.benchmark.commands import prepare, read_boxes, run
from detection.data import read_annotations
from detection.inference.predictor import load_detector


def test_the_plain_loop_finds_what_our_predictor_finds(
    small_case: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "CALIBRATED_ON", 2)
    checkpoint = prepare(small_case("fpn"), tmp_path, images=2)
    plain_loop.main(str(checkpoint), str(tmp_path / "peer.json"))
    predictor = load_detector(checkpoint)
    annotations = read_annotations(predictor.config.data, "val")
    predictor.predict(annotations, lambda share: None).write_coco(tmp_path / "ours.json", annotations)
    for mine, other in zip(*(read_boxes(tmp_path / name, 2) for name in ("ours.json", "peer.json")), strict=True):
        assert count_pairs(mine, other, pixels=0.01, score=1e-4) == len(mine.boxes) == len(other.boxes) >= 10


def test_boxes_are_read_image_by_image(tmp_path: Path) -> None:
    row = {"image_id": 2, "category_id": 3, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.5}
    (tmp_path / "found.json").write_text(json.dumps([row]))
    first, second = read_boxes(tmp_path / "found.json", 2)
    assert len(first.boxes) == 0
    assert (second.boxes.tolist(), second.labels.tolist(), second.scores.tolist()) == ([[1, 2, 11, 22]], [3], [0.5])


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(["-c", "1 / 0"])
    run(["-c", "import detection.benchmark"])
    assert torch.is_inference_mode_enabled() is False
