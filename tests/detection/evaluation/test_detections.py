"""Result files: their exact form, and that reading gives back what was written."""

import errno
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.errors import UserError
from detection.evaluation.detections import Detections

ROWS = [(1, 2, 0.75, (10, 20, 40, 60)), (0, 1, 0.5, (0, 0.5, 2, 3))]


def _assert_equal(found: Detections, wanted: Detections) -> None:
    for name in ("image_indices", "labels", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_coco_form_keeps_text_ids(tmp_path, make_annotations, make_detections):
    make_detections(ROWS).write_coco(tmp_path / "new" / "detections.json", make_annotations([], 2, 2))
    assert json.loads((tmp_path / "new" / "detections.json").read_text()) == [
        {"image_id": "000001", "category_id": 2, "bbox": [10, 20, 30, 40], "score": 0.75},
        {"image_id": "000000", "category_id": 1, "bbox": [0, 0.5, 2, 2.5], "score": 0.5},
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["detections.json"]


@pytest.mark.parametrize(
    ("ids", "written"),
    [
        (["7", "391895"], [7, 391895]),
        (["0", "10"], [0, 10]),
        (["7", "08"], ["7", "08"]),
        (["1", "2008_2"], ["1", "2008_2"]),
    ],
)
def test_ids_are_numbers_when_all_are(tmp_path, make_annotations, make_detections, ids, written):
    annotations = make_annotations([], 2, 2)
    annotations.image_ids = np.array(ids)
    path = tmp_path / "detections.json"
    detections = make_detections(ROWS[::-1])
    detections.write_coco(path, annotations, category_ids=(18, 90))
    assert [row["image_id"] for row in json.loads(path.read_text())] == written
    assert [row["category_id"] for row in json.loads(path.read_text())] == [18, 90]
    _assert_equal(Detections.read_coco(path, annotations, category_ids=(18, 90)), detections)


numbers = st.floats(0, 5000, width=32)


@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.floats(0, 1, width=32), st.tuples(*[numbers] * 4)))
)
def test_reading_gives_back_every_bit(tmp_path_factory, make_annotations, make_detections, rows):
    detections, annotations = make_detections(rows), make_annotations([], 5, 3)
    detections.boxes = np.concatenate(
        [np.sort(detections.boxes[:, [0, 2]]), np.sort(detections.boxes[:, [1, 3]])], axis=1
    )
    detections.boxes = np.ascontiguousarray(detections.boxes[:, [0, 2, 1, 3]])
    path = tmp_path_factory.mktemp("coco") / "detections.json"
    detections.write_coco(path, annotations)
    found = Detections.read_coco(path, annotations)
    _assert_equal(found, detections)
    assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float64)


def test_many_rows_keep_their_order(tmp_path, make_annotations):
    """More rows than are formatted at a time; float64 scores whose difference a float32 could not hold."""
    count = 25_001
    boxes = np.tile(np.array([[1, 2, 3, 4]], np.float32), (count, 1))
    scores = 0.5 + np.arange(count) * 1e-12
    detections = Detections(np.arange(count) % 3, np.arange(count) % 2 + 1, scores, boxes)
    detections.write_coco(tmp_path / "detections.json", make_annotations([], 3, 2))
    _assert_equal(Detections.read_coco(tmp_path / "detections.json", make_annotations([], 3, 2)), detections)


def test_voc_form(tmp_path, make_annotations, make_detections):
    rows = [*ROWS, (0, 2, 0.1, (0, 0, 500, 375))]
    paths = make_detections(rows).write_voc(tmp_path, make_annotations([], 2, 3), "test")
    assert [path.name for path in paths] == [f"comp4_det_test_class{label}.txt" for label in (1, 2, 3)]
    assert paths[0].read_text() == "000000 0.5 1.000 1.500 2.000 3.000\n"
    lines = paths[1].read_text().splitlines()
    assert lines[0] == "000001 0.75 11.000 21.000 40.000 60.000"
    assert np.float32(lines[1].split()[1]) == np.float32(0.1)
    assert lines[1].split()[2:] == ["1.000", "1.000", "500.000", "375.000"]
    assert paths[2].read_text() == ""


def test_a_class_name_that_would_be_a_folder_is_refused(tmp_path, make_annotations, make_detections):
    annotations = make_annotations([], 2, 2)
    annotations.class_names = ("car", "truck/bus")
    with pytest.raises(UserError, match="class truck/bus: no VOC result file can be named after it; rename it"):
        make_detections(ROWS).write_voc(tmp_path, annotations, "test")
    assert list(tmp_path.iterdir()) == []


def test_concatenate_and_empty(make_detections):
    parts = [make_detections(ROWS[:1]), Detections.empty(), make_detections(ROWS[1:])]
    _assert_equal(Detections.concatenate(parts), make_detections(ROWS))
    _assert_equal(Detections.concatenate([]), make_detections([]))
    assert (len(Detections.empty()), Detections.empty().boxes.shape) == (0, (0, 4))


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is not JSON"),
        ('{"a": 1}', "holds no list"),
        ("[3]", "detection 0: is not an object with image_id, category_id, bbox, score"),
        (
            '[{"image_id": "9", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
            "image_id '9' is not in the data set",
        ),
        ('[{"image_id": "000000", "category_id": 7, "bbox": [0, 0, 1, 1], "score": 1}]', r"7 is not one of \[1, 2\]"),
        ('[{"image_id": "000000", "category_id": [], "bbox": [0, 0, 1, 1], "score": 1}]', r"\[\] is not one of"),
        ('[{"image_id": "000000", "category_id": 1, "bbox": [0, 0, 1], "score": 1}]', r"bbox \[0, 0, 1\]"),
        (
            '[{"image_id": "000000", "category_id": 1, "bbox": [0, 0, 1, 1], "score": NaN}]',
            "score nan are not four and one finite numbers",
        ),
        ('[{"image_id": "000000", "category_id": 1, "bbox": "abcd", "score": 1}]', "bbox 'abcd'"),
        (
            '[{"image_id": "000000", "category_id": 1, "bbox": [9, 9, 0, 0], "score": 1},'
            ' {"image_id": "000000", "category_id": 1, "bbox": [9, 5, 4, -1], "score": 1}]',
            r"detection 1: bbox \[9, 5, 4, -1\] has a negative width or height; bbox is x, y, width, height",
        ),
    ],
)
def test_bad_files_are_explained(tmp_path, make_annotations, text, message):
    path = tmp_path / "detections.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        Detections.read_coco(path, make_annotations([], 2, 2))


def test_missing_file(tmp_path, make_annotations):
    with pytest.raises(UserError, match="absent.json: cannot be read"):
        Detections.read_coco(tmp_path / "absent.json", make_annotations([], 2, 2))
