"""COCO's result form: its exact text, that reading gives back what was written, and every mistake in one sentence."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.errors import UserError
from detection.evaluation.detections import Detections

ROWS = [(1, 2, 0.75, (10, 20, 40, 60)), (0, 1, 0.5, (0, 0.5, 2, 3))]
GOOD = {"image_id": "000000", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


def _assert_same(found: Detections, written: Detections) -> None:
    for name in ("image_indices", "labels", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
    np.testing.assert_array_equal(found.boxes.astype(written.boxes.dtype), written.boxes)
    assert (found.boxes.dtype, found.scores.dtype) == (np.float64, np.float64)


def test_form_keeps_text_ids(tmp_path, make_annotations, make_detections):
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
    annotations.image_ids, annotations.category_ids = np.array(ids), (18, 90)
    path = tmp_path / "detections.json"
    detections = make_detections(ROWS[::-1])
    detections.write_coco(path, annotations)
    assert [row["image_id"] for row in json.loads(path.read_text())] == written
    assert [row["category_id"] for row in json.loads(path.read_text())] == [18, 90]
    _assert_same(Detections.read_coco(path, annotations), detections)


def test_an_id_may_be_a_number_or_text(tmp_path, make_annotations):
    annotations = make_annotations([], 3, 1)
    annotations.image_ids = np.array(["17", "5", "2008_000001"])
    ids = [17, "17", "5", 5, "2008_000001"]
    rows = [GOOD | {"image_id": image_id, "score": score} for score, image_id in enumerate(ids)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert Detections.read_coco(tmp_path / "a.json", annotations).image_indices.tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("left_out", [(), ("000041",)])
def test_numbers_for_ids_with_leading_zeros(tmp_path, make_annotations, left_out):
    """40 is "000040", unless two images, or one that was left out, could be meant, or other ids have letters."""
    annotations = make_annotations([], 2, 1)
    annotations.image_ids, annotations.left_out = np.array(["000040", "000007"]), frozenset(left_out)
    rows = [GOOD | {"image_id": image_id, "score": score} for score, image_id in enumerate((40, "000040", 7))]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert Detections.read_coco(tmp_path / "a.json", annotations).image_indices.tolist() == [0, 0, 1]
    for ids, left_out in ((["000040", "0040"], ()), (["000040", "a"], ()), (["000040", "000007"], ("40.0",))):
        annotations.image_ids, annotations.left_out = np.array(ids), frozenset(left_out)
        with pytest.raises(UserError, match="detection 0: image_id 40 is not in the data set"):
            Detections.read_coco(tmp_path / "a.json", annotations)


def test_detections_in_images_left_out_are_passed_over(tmp_path, make_annotations):
    """Others are numbered as in the file."""
    annotations = make_annotations([], 2, 1)
    annotations.image_ids, annotations.left_out = np.array(["1", "3"]), frozenset({"2", "5"})
    ids = [2, 3, "2", 5, 1, 3]
    rows = [GOOD | {"image_id": image_id, "score": score} for score, image_id in enumerate(ids)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    found = Detections.read_coco(path, annotations)
    assert found.image_indices.tolist() == [1, 0, 1] and found.scores.tolist() == [1, 4, 5]
    path.write_text(json.dumps([*rows, rows[4]]))
    with pytest.raises(UserError, match="detections 4 and 6 are the same"):
        Detections.read_coco(path, annotations)
    path.write_text(json.dumps([*rows, GOOD | {"image_id": 3, "bbox": [1, 2, -3, 4]}]))
    with pytest.raises(UserError, match="detection 6: bbox .* negative"):
        Detections.read_coco(path, annotations)
    path.write_text(json.dumps([*rows, GOOD | {"image_id": 4}]))
    with pytest.raises(UserError, match="detection 6: image_id 4 is not in the data set"):
        Detections.read_coco(path, annotations)


def test_sizes_are_written_as_they_were_read(tmp_path, make_annotations):
    """With float64 corners x2 - x1 would be 107.86999999999998."""
    path, bbox = tmp_path / "a.json", [18.99, 3.3, 107.87, 32.0]
    path.write_text(json.dumps([GOOD | {"bbox": bbox}]))
    annotations = make_annotations([], 1, 1)
    Detections.read_coco(path, annotations).write_coco(path, annotations)
    assert '"bbox":[18.99,3.3,107.87,32.0]' in path.read_text()


numbers = st.floats(0, 5000, width=32)
places = st.tuples(st.integers(0, 4), st.integers(1, 3), st.floats(0, 1, width=32), st.tuples(*[numbers] * 4))


@given(rows=st.lists(places, unique=True))
def test_reading_gives_back_every_bit(tmp_path_factory, make_annotations, make_detections, rows):
    detections, annotations = make_detections(rows), make_annotations([], 5, 3)
    detections.scores = np.arange(len(rows), dtype=np.float32) / 3  # sorted corners may make two rows one
    detections.boxes = np.concatenate([np.sort(detections.boxes[:, [0, 2]]), np.sort(detections.boxes[:, [1, 3]])], 1)
    detections.boxes = np.ascontiguousarray(detections.boxes[:, [0, 2, 1, 3]])
    detections.boxes = np.maximum(detections.boxes, np.array([0, 0, 2, 2], np.float32))  # no shares of the sides
    annotations.sizes[:] = 5000
    path = tmp_path_factory.mktemp("coco") / "detections.json"
    detections.write_coco(path, annotations)
    _assert_same(Detections.read_coco(path, annotations), detections)


def test_many_rows_keep_their_order(tmp_path, make_annotations):
    """More rows than are formatted at a time; float64 scores whose difference a float32 could not hold."""
    count = 25_001
    boxes = np.tile(np.array([[1, 2, 3, 4]], np.float32), (count, 1))
    scores = 0.5 + np.arange(count) * 1e-12
    detections = Detections(np.arange(count) % 3, np.arange(count) % 2 + 1, scores, boxes)
    detections.write_coco(tmp_path / "detections.json", make_annotations([], 3, 2))
    _assert_same(Detections.read_coco(tmp_path / "detections.json", make_annotations([], 3, 2)), detections)


def test_a_file_without_detections(tmp_path, make_annotations):
    Detections.empty().write_coco(tmp_path / "a.json", make_annotations([], 1, 1))
    found = Detections.read_coco(tmp_path / "a.json", make_annotations([], 1, 1))
    assert (len(found), found.boxes.shape) == (0, (0, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty; a file without detections holds \[\]"),
        (" \n", "is empty"),
        ("\u00a0", "is not JSON"),
        ("[{", "ends in the middle of the list; write it again, or fetch all of it"),
        (json.dumps([GOOD, GOOD], indent=0)[:-30], "ends in the middle of the list"),
        (json.dumps([GOOD])[:-3], "ends in the middle of the list"),
        (json.dumps([GOOD])[:8], "ends in the middle of the list"),
        ("[{'image_id': 3}, {}]", "is not JSON .*line 1 column 3"),
        (json.dumps([GOOD])[:-1] + ",]", "is not JSON"),
        ("image_id,category_id", "is not JSON"),
        ("\ufeff[]", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"a": 1}', "holds no list"),
        (json.dumps(GOOD), r"holds a detection that is in no list; write \[ before and \] after it"),
        (f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n", "holds JSON line by line; write one list"),
        (json.dumps({"images": [], "annotations": [GOOD]}), "holds the list of detections under 'annotations'; write"),
        (json.dumps({"info": [], "results": [GOOD]}), "holds the list of detections under 'results'; write that list"),
        (json.dumps({"annotations": [{"bbox": [1, 2, 3, 4]}]}), "holds annotations, not detections; name a file of"),
        (json.dumps({"images": [], "categories": []}), "holds annotations, not detections"),
        ('[{"image_id": "\\ud800"}]', "detection 0: has no category_id"),
        (json.dumps([GOOD | {"image_id": "\ud800"}]), "is not sound JSON .*surrogate.*; write it again"),
        ("[3]", "detection 0: is not an object with image_id, category_id, bbox, score"),
    ],
)
def test_what_is_no_list_of_detections(tmp_path, make_annotations, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=f"a.json: {message}"):
        Detections.read_coco(tmp_path / "a.json", make_annotations([], 2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "9"}, "image_id '9' is not in the data set"),
        ({"image_id": 7}, "image_id 7 is not in the data set"),
        ({"image_id": 10**30}, "image_id 10{30} is not in the data set"),
        ({"image_id": 1.5}, "image_id 1.5 is neither a whole number nor text"),
        ({"image_id": True}, "image_id True is neither a whole number nor text"),
        ({"category_id": 7}, r"category_id 7 is not one of 1, 2;"),
        ({"category_id": []}, r"category_id \[\] is not a whole number"),
        ({"bbox": [0, 0, 1]}, r"bbox \[0, 0, 1\] is not four finite numbers; write x, y, width, height"),
        ({"bbox": "abcd"}, "bbox 'abcd' is not four finite numbers"),
        ({"bbox": [0, 0, float("inf"), 1]}, r"bbox \[0, 0, inf, 1\] is not four finite numbers"),
        ({"bbox": [9, 5, 4, -1]}, r"bbox \[9.0, 5.0, 4.0, -1.0\] has a negative width or height; write x, y, width"),
        ({"score": float("nan")}, "score nan is not a finite number"),
        ({"score": -float("inf")}, "score -inf is not a finite number"),
        ({"score": "0.9"}, "score '0.9' is not a finite number"),
        ({"score": None}, "score None is not a finite number"),
        ({"score": 10**400}, "score 10{99} ... is not a finite number"),
        ({"bbox": [1, 2, 10**400, 4]}, r"bbox \[1, 2, 10* ... is not four finite numbers"),
        ({"bbox": [1e308, 1, 1e308, 1]}, r"bbox \[1e\+308, 1.0, 1e\+308, 1.0\] is no place in an image; mend"),
    ],
)
def test_a_wrong_detection_is_named(tmp_path, make_annotations, change, message):
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD | {"score": 0.4}, GOOD | change]))
    with pytest.raises(UserError, match=f"a.json: detection 2: {message}"):
        Detections.read_coco(tmp_path / "a.json", make_annotations([], 2, 2))


def test_missing_keys_are_named(tmp_path, make_annotations):
    (tmp_path / "a.json").write_text(json.dumps([GOOD, {"image_id": "000000", "bbox": [1, 2, 3, 4]}]))
    with pytest.raises(UserError, match="detection 1: has no category_id and no score; write"):
        Detections.read_coco(tmp_path / "a.json", make_annotations([], 2, 2))


def test_many_categories_are_not_all_listed(tmp_path, make_annotations):
    (tmp_path / "a.json").write_text(json.dumps([GOOD | {"category_id": 81}]))
    with pytest.raises(UserError, match=r"not one of 1, 2, .*, 19 \.\.\. 80; name the matching classes"):
        Detections.read_coco(tmp_path / "a.json", make_annotations([], 2, 80))


def test_a_missing_file_and_images_of_the_same_name(tmp_path, make_annotations):
    with pytest.raises(UserError, match="absent.json: cannot be read"):
        Detections.read_coco(tmp_path / "absent.json", make_annotations([], 2, 2))
    annotations = make_annotations([], 2, 2)
    annotations.image_ids[:] = "000000"
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match="a.json: some images of the data set have the same id"):
        Detections.read_coco(tmp_path / "a.json", annotations)


def test_a_detection_that_is_there_twice(tmp_path, make_annotations):
    """Two hundred that differ in one thing each, and one repeated."""
    rows = [GOOD | {"score": n / 200} for n in range(100)] + [GOOD | {"bbox": [n, 2, 3, 4]} for n in range(2, 90)]
    rows += [GOOD | {"category_id": 2}, GOOD | {"image_id": "000001"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    assert len(Detections.read_coco(path, make_annotations([], 2, 2))) == len(rows)
    path.write_text(json.dumps([*rows, rows[7], rows[3]]))
    with pytest.raises(UserError, match=r"detections 3 and 191 are the same; remove one of them"):
        Detections.read_coco(path, make_annotations([], 2, 2))


def _many_boxes(count: int) -> np.ndarray:
    """Corners of boxes inside 100 x 100 pixels, of all sizes and everywhere."""
    rng = np.random.default_rng(3)
    sides = rng.uniform(1, 100, (count, 2))
    starts = rng.random((count, 2)) * (100 - sides)
    return np.concatenate([starts, starts + sides], axis=1)


def _rows_with(bboxes: np.ndarray) -> str:
    return json.dumps([GOOD | {"bbox": bbox} for bbox in bboxes.tolist()])


@pytest.mark.parametrize("count", [10, 300])
def test_corners_are_recognized(tmp_path, make_annotations, count):
    (tmp_path / "a.json").write_text(_rows_with(_many_boxes(count)))
    annotations = make_annotations([], 2, 2)
    with pytest.raises(
        UserError, match=r"is one of \d+ that leave their images: these look like x1, y1, x2, y2; write x, y, width"
    ):
        Detections.read_coco(tmp_path / "a.json", annotations)
    annotations.sizes[:] = 0  # nobody looked
    assert len(Detections.read_coco(tmp_path / "a.json", annotations)) == count
    lost = json.loads((tmp_path / "a.json").read_text())
    lost = [row | {"image_id": "000001"} for row in lost] + lost[:3]
    (tmp_path / "a.json").write_text(json.dumps(lost))
    annotations.sizes[1] = 100
    with pytest.raises(UserError, match="these look like x1, y1, x2, y2; write x, y, width"):
        Detections.read_coco(tmp_path / "a.json", annotations)


@pytest.mark.parametrize("shift", [0, 5, -5])
@pytest.mark.parametrize("count", [1, 3, 300])
def test_sizes_are_not_taken_for_corners(tmp_path, make_annotations, count, shift):
    """Boxes inside their images, and those of detectors that do not clip them."""
    corners = _many_boxes(count) + shift
    (tmp_path / "a.json").write_text(_rows_with(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)))
    found = Detections.read_coco(tmp_path / "a.json", make_annotations([], 2, 2))
    np.testing.assert_allclose(found.boxes, corners, rtol=0, atol=1e-12)


def test_large_boxes_that_stick_out_are_not_taken_for_corners(tmp_path, make_annotations):
    """A detector that sees nothing but the whole image, with a margin; and wild boxes that make no sense as corners."""
    whole = np.array([[-20, -20, 140, 140 - number] for number in range(30)])
    wild = np.array([[80, 80, 60, 60 - number] for number in range(30)])
    for bboxes in (whole, wild):
        (tmp_path / "a.json").write_text(_rows_with(bboxes))
        assert len(Detections.read_coco(tmp_path / "a.json", make_annotations([], 2, 2))) == 30


@pytest.mark.parametrize("corners", [False, True])
def test_shares_of_the_sides_are_recognized(tmp_path, make_annotations, corners):
    boxes = _many_boxes(6) / 100
    shares = boxes if corners else np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    annotations = make_annotations([], 2, 2)
    annotations.sizes[:] = 0
    (tmp_path / "a.json").write_text(_rows_with(shares))
    message = (
        "detection 0: bbox .* and all others are 1 at most: these look like shares of the image's sides; write pixels"
    )
    with pytest.raises(UserError, match=message):
        Detections.read_coco(tmp_path / "a.json", annotations)


@pytest.mark.parametrize(
    "bboxes",
    [
        [[0.1, 0.2, 0.3, 0.4 + number / 100] for number in range(5)],  # few
        [[0.1, 0.2, 0.3, 0.4 + number / 100] for number in range(90)] + [[0.1, 0.1, 5, 5]],  # one has pixels
        [[-3 - number, -4, 1, 1] for number in range(20)],  # at the border, not clipped
        [[0, 0, 1, 1 - number / 100] for number in range(20)],  # clipped to one pixel
        [[0, 0, 0, number / 100] for number in range(20)],  # clipped to nothing
    ],
)
def test_small_boxes_are_not_taken_for_shares(tmp_path, make_annotations, bboxes):
    (tmp_path / "a.json").write_text(_rows_with(np.array(bboxes)))
    assert len(Detections.read_coco(tmp_path / "a.json", make_annotations([], 2, 2))) == len(bboxes)
