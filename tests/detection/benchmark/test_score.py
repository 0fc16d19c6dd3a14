"""The 12 numbers of both sides are the same; growth is told an image."""

from collections.abc import Callable
from pathlib import Path

import pytest

from detection.benchmark.agreement import Disagreement
from detection.benchmark.case import Case
from detection.benchmark.growth import growth_stage, settings_for
from detection.benchmark.score import check_scores, score_stage, scores_by_ours, scores_by_peer
from detection.benchmark.synthetic import DETECTIONS_AN_IMAGE, OBJECTS_AN_IMAGE, write_coco
from detection.data import read_annotations
from detection.evaluation.result_files import read_detections


def test_the_set_can_be_read_and_its_detections_find_something(tmp_path: Path) -> None:
    detections = write_coco(tmp_path / "set", images=30)
    annotations = read_annotations(settings_for(tmp_path / "set"), "val")
    assert (len(annotations), len(annotations.boxes)) == (30, 30 * OBJECTS_AN_IMAGE)
    assert len(read_detections(detections, annotations)) == 30 * DETECTIONS_AN_IMAGE
    assert 0.2 < scores_by_peer(tmp_path / "set")["COCO AP"] < 0.95


def test_both_sides_score_the_same(small_case: Callable[[str], Case]) -> None:
    measured = score_stage(small_case("fpn"), images=20)
    assert measured.checks[0].stage == "scores" and len(measured.rows[0].timing.seconds["peer"]) == 2


def test_another_score_is_noticed(tmp_path: Path) -> None:
    write_coco(tmp_path / "set", images=20)
    ours, theirs = scores_by_ours(tmp_path / "set"), scores_by_peer(tmp_path / "set")
    with pytest.raises(Disagreement, match="^scores: the sides differ by 1e-09"):
        check_scores({**ours, "COCO AR1": ours["COCO AR1"] + 1e-9}, theirs)


def test_scores_of_nothing_are_nothing_to_compare() -> None:
    nothing = {"COCO AP": 0.0, "COCO APs": float("nan")}
    with pytest.raises(Disagreement, match="nothing to compare"):
        check_scores(nothing, nothing)


def test_growth_is_of_the_seconds_an_image(small_case: Callable[[str], Case]) -> None:
    rows = growth_stage(small_case("fpn"), few=10, many=30).rows
    assert [row.what for row in rows] == [f"{step}, an image" for step in ("reading", "checking", "scoring", "all")]
    parts, whole = rows[:3], rows[3]
    for side in ("10 images", "30 images"):
        sums = [sum(values) for values in zip(*(row.timing.seconds[side] for row in parts), strict=True)]
        assert sums == pytest.approx(whole.timing.seconds[side])
