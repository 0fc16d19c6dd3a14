"""COCO's assignment against a slow loop, and against what hotcoco and pycocotools note for every image."""

import contextlib
import io

import numpy as np
import pytest

from detection.errors import UserError
from detection.evaluation import overlaps
from detection.evaluation.matching import COCO_IOUS, coco_matches

SQUARE = (0, 0, 10, 10)


def _random(rng, make_annotations, make_detections, objects=60, found=200):
    """Crowds, equal scores, equal overlaps, empty images and classes; boxes in quarters of pixels, exact in float32."""
    rows = [(*_place(rng), _box(rng), bool(rng.random() < 0.2)) for _ in range(objects)]
    near = []
    for _ in range(found):
        if rng.random() < 0.7:
            image, label, box, _ = rows[rng.integers(len(rows))]
            box = tuple(np.add(box, rng.integers(-4, 5, 4) / 4 * [1, 1, 0, 0]))
        else:
            (image, label), box = _place(rng), _box(rng)
        near.append((image, label, rng.integers(1, 8) / 8, box))
    return make_detections(near), make_annotations(rows, 8, 4)


def _place(rng) -> tuple[int, int]:
    return int(rng.integers(6)), int(rng.integers(1, 4))


def _box(rng) -> tuple[float, ...]:
    x, y, w, h = rng.integers([0, 0, 8, 8], [60, 60, 90, 90]) / 4
    return x, y, x + w, y + h


@pytest.mark.parametrize("limit", [3, 100])
def test_equals_the_loop(monkeypatch, make_annotations, make_detections, match_in_loops, limit):
    rng = np.random.default_rng(3)
    for trial in range(10):
        monkeypatch.setattr(overlaps, "PAIRS_AT_ONCE", (7, 500_000)[trial % 2])
        detections, annotations = _random(rng, make_annotations, make_detections)
        ious = np.array([0.3, 0.5, 0.75, 1.0])
        matches = coco_matches(detections, annotations, ious, limit)
        for index, threshold in enumerate(ious):
            matched, ignored = match_in_loops(detections, annotations, threshold, limit)
            np.testing.assert_array_equal(matches.objects[index], matched)
            np.testing.assert_array_equal(matches.ignored[index], ignored)
            np.testing.assert_array_equal(matches.true[index], (matched >= 0) & ~ignored)


def _tables(detections, annotations):
    """Both sides as COCO's lists of dictionaries; ids from 1."""
    sides = []
    for boxes, images, labels, more in (
        (annotations.boxes, annotations.image_of_object, annotations.labels, annotations.ignore),
        (detections.boxes, detections.image_indices, detections.labels, detections.scores),
    ):
        boxes = boxes.astype(np.float64)
        sizes = boxes[:, 2:] - boxes[:, :2]
        rows = []
        for index in range(len(boxes)):
            row = {"id": index + 1, "image_id": int(images[index]) + 1, "category_id": int(labels[index])}
            row |= {"bbox": [*boxes[index, :2].tolist(), *sizes[index].tolist()], "area": float(sizes[index].prod())}
            row |= {"iscrowd": int(more[index])} if len(sides) == 0 else {"iscrowd": 0, "score": float(more[index])}
            rows.append(row)
        images_of_set = [{"id": number, "width": 100, "height": 100} for number in range(1, len(annotations) + 1)]
        categories = [{"id": label, "name": name} for label, name in enumerate(annotations.class_names, 1)]
        sides.append({"images": images_of_set, "categories": categories, "annotations": rows})
    return sides


def _noted(evaluation, detections):
    """(10, D) matched object or -1 and (10, D) ignored, as an engine notes it for area "all" and 100 detections."""
    objects, ignored = np.full((10, len(detections)), -1), np.ones((10, len(detections)), bool)
    for record in filter(None, evaluation.evalImgs):
        if tuple(np.asarray(record["aRng"], float)) == (0.0, 1e10):
            rows = np.asarray(record["dtIds"], int) - 1
            objects[:, rows] = np.asarray(record["dtMatches"]).reshape(10, -1).astype(int) - 1
            ignored[:, rows] = np.asarray(record["dtIgnore"]).reshape(10, -1).astype(bool)
    return objects, ignored


@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
def test_equals_the_engines(make_annotations, make_detections, engine):
    rng = np.random.default_rng(11)
    for _ in range(4):
        detections, annotations = _random(rng, make_annotations, make_detections, found=400)
        many = np.concatenate([np.arange(400), np.full(120, rng.integers(400))])  # more than 100 of an image and class
        detections = detections.select(rng.permutation(many))
        objects, ignored = _by_engine(engine, detections, annotations)
        matches = coco_matches(detections, annotations)
        np.testing.assert_array_equal(matches.objects, objects)
        np.testing.assert_array_equal(matches.ignored, ignored)
        assert ignored.all(axis=0).sum() >= 20


def _by_engine(engine, detections, annotations):
    wanted, found = _tables(detections, annotations)
    if engine == "hotcoco":
        from hotcoco import COCO, COCOeval

        evaluation = COCOeval(COCO(wanted), COCO(found), "bbox")
        evaluation.evaluate()
        return _noted(evaluation, detections)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        sides = [COCO(), COCO()]
        for side, table in zip(sides, (wanted, found), strict=True):
            side.dataset = table
            side.createIndex()
        evaluation = COCOeval(*sides, "bbox")
        evaluation.evaluate()
    return _noted(evaluation, detections)


def test_ordinary_objects_go_before_crowds(make_annotations, make_detections):
    """The detection lies wholly inside the crowd, and overlaps the ordinary object by exactly 1/2."""
    annotations = make_annotations([(0, 1, (0, 0, 50, 50), True), (0, 1, SQUARE, False)], 1, 1)
    found = make_detections([(0, 1, 0.9, (0, 0, 10, 5)), (0, 1, 0.8, (0, 0, 10, 5)), (0, 1, 0.7, (0, 0, 10, 5))])
    matches = coco_matches(found, annotations, np.array([0.5]))
    assert matches.objects[0].tolist() == [1, 0, 0]
    assert matches.ignored[0].tolist() == [False, True, True]


def test_of_equal_overlaps_the_last(make_annotations, make_detections):
    annotations = make_annotations([(0, 1, SQUARE, False)] * 3, 1, 1)
    matches = coco_matches(make_detections([(0, 1, 0.5, SQUARE)] * 4), annotations, np.array([0.5, 1.0]))
    assert matches.objects.tolist() == [[2, 1, 0, -1]] * 2


def test_nothing_to_match(make_annotations, make_detections):
    some = make_detections([(0, 1, 0.5, SQUARE)] * 3)
    assert coco_matches(some, make_annotations([], 1, 1)).objects.tolist() == [[-1] * 3] * 10
    assert coco_matches(make_detections([]), make_annotations([(0, 1, SQUARE, False)], 1, 1)).objects.shape == (10, 0)
    limited = coco_matches(some, make_annotations([], 1, 1), COCO_IOUS[:1], max_detections=2)
    assert limited.ignored.tolist() == [[False, False, True]]


def test_unannotated_set_is_refused(make_annotations, make_detections):
    annotations = make_annotations([], 1, 1)
    annotations.annotated = False
    with pytest.raises(UserError, match="no annotations"):
        coco_matches(make_detections([]), annotations)
