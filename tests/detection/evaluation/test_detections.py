"""The one form of results, and what its writers refuse; their files are tested beside their modules."""

import errno
import os

import numpy as np
import pytest

from detection.errors import UserError
from detection.evaluation.detections import Detections

ROWS = [(1, 2, 0.75, (10, 20, 40, 60)), (0, 1, 0.5, (0, 0.5, 2, 3))]


def _assert_equal(found: Detections, wanted: Detections) -> None:
    for name in ("image_indices", "labels", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_concatenate_and_empty(make_detections):
    parts = [make_detections(ROWS[:1]), Detections.empty(), make_detections(ROWS[1:])]
    _assert_equal(Detections.concatenate(parts), make_detections(ROWS))
    _assert_equal(Detections.concatenate([]), make_detections([]))
    assert (len(Detections.empty()), Detections.empty().boxes.shape) == (0, (0, 4))


def test_select_by_mask_and_by_order(make_detections):
    detections = make_detections(ROWS)
    _assert_equal(detections.select(detections.labels == 1), make_detections(ROWS[1:]))
    _assert_equal(detections.select(np.array([1, 0])), make_detections(ROWS[::-1]))


def _write_coco(detections, folder, annotations) -> None:
    detections.write_coco(folder / "detections.json", annotations)


def _write_voc(detections, folder, annotations) -> None:
    detections.write_voc(folder, annotations, "test")


@pytest.mark.parametrize("write", [_write_coco, _write_voc])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["scores", "boxes"])
def test_numbers_that_no_reader_takes_are_not_written(tmp_path, make_annotations, make_detections, write, value, field):
    detections = make_detections(ROWS)
    getattr(detections, field)[1:] = value
    with pytest.raises(UserError, match=f"detection 1: score .*{value}.* is not finite; nothing was written"):
        write(detections, tmp_path, make_annotations([], 2, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_former_file(tmp_path, monkeypatch, make_annotations, make_detections):
    path = tmp_path / "detections.json"
    path.write_text("former")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="detections.json: cannot be written .No space left on device"):
        make_detections(ROWS).write_coco(path, make_annotations([], 2, 2))
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("detections.json", "former")]


def test_a_file_in_the_folders_place(tmp_path, make_annotations, make_detections):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make_detections(ROWS).write_voc(tmp_path / "out", make_annotations([], 2, 2), "test")
