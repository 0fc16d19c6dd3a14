"""The vectorized VOC protocol against published vectors, cases worked out by hand and the devkit's loop."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detection.errors import UserError
from detection.evaluation import overlaps
from detection.evaluation.voc import voc_scores

SQUARE = (0, 0, 10, 10)
UPPER_HALF = (0, 0, 10, 5)
ELSEWHERE = (50, 50, 60, 60)


def _read_toy(folder: Path, numbers: int) -> list[tuple[int, list[float]]]:
    """(image, the last `numbers` values of the line) of all lines, x, y, w, h turned into our boxes."""
    rows = []
    for image, path in enumerate(sorted(folder.glob("*.txt"))):
        for line in path.read_text().splitlines():
            *score, x, y, w, h = map(float, line.split()[-numbers:])
            rows.append((image, [*score, x, y, x + w + 1, y + h + 1]))
    return rows


@pytest.mark.parametrize(
    ("iou", "eleven", "area"),
    [
        (0.1, 0.3333333333, 0.3371980676),
        (0.3, 0.2683982683, 0.2456866804),
        (0.5, 0.0303030303, 0.0222222222),
        (0.75, 0.0, 0.0),
    ],
)
def test_published_vectors(shared_data, make_annotations, make_detections, iou, eleven, area):
    folder = shared_data / "eval_vectors" / "voc_toy"
    objects = [(image, 1, tuple(box), False) for image, box in _read_toy(folder / "gts", 4)]
    found = [(image, 1, row[0], tuple(row[1:])) for image, row in _read_toy(folder / "dets", 5)]
    scores = voc_scores(make_detections(found), make_annotations(objects, 7, 1), iou=iou)
    assert scores.mean_11point == pytest.approx(eleven, abs=1e-10)
    assert scores.mean_area == pytest.approx(area, abs=1e-10)
    assert (scores.objects[0], scores.detections[0]) == (15, 24)


def test_false_then_true_detection(make_annotations, make_detections):
    annotations = make_annotations([(0, 1, SQUARE, False), (1, 1, SQUARE, False)], 2, 1)
    scores = voc_scores(make_detections([(0, 1, 0.8, SQUARE), (1, 1, 0.9, ELSEWHERE)]), annotations)
    np.testing.assert_array_equal(scores.recall[0], [0, 0.5])
    np.testing.assert_array_equal(scores.precision[0], [0, 0.5])
    assert scores.ap_area[0] == 0.25
    assert scores.ap_11point[0] == pytest.approx(6 * 0.5 / 11, abs=1e-15)  # recalls 0, .1, ... .5
    assert (scores.mean_area, scores.mean_11point) == (0.25, scores.ap_11point[0])


def test_duplicate_is_false_and_ties_go_by_order(make_annotations, make_detections):
    annotations = make_annotations([(0, 1, SQUARE, False)], 1, 1)
    scores = voc_scores(
        make_detections([(0, 1, 0.5, ELSEWHERE), (0, 1, 0.5, SQUARE), (0, 1, 0.5, SQUARE)]), annotations
    )
    np.testing.assert_array_equal(scores.recall[0], [0, 1, 1])
    np.testing.assert_allclose(scores.precision[0], [0, 1 / 2, 1 / 3])
    assert scores.ap_area[0] == 0.5


def test_no_second_choice_when_the_best_object_is_taken(make_annotations, make_detections):
    """The second detection overlaps the taken object by 9/11 and the free one by 7/13: false all the same."""
    annotations = make_annotations([(0, 1, SQUARE, False), (0, 1, (0, 4, 10, 14), False)], 1, 1)
    scores = voc_scores(make_detections([(0, 1, 0.9, SQUARE), (0, 1, 0.8, (0, 1, 10, 11))]), annotations)
    np.testing.assert_array_equal(scores.recall[0], [0.5, 0.5])


def test_first_of_equal_overlaps(make_annotations, make_detections):
    """Of 300 equal objects the first is difficult: a detection of them all is a detection of that one."""
    annotations = make_annotations([(0, 1, SQUARE, number == 0) for number in range(300)], 1, 1)
    scores = voc_scores(make_detections([(0, 1, 0.9, SQUARE), (0, 1, 0.8, SQUARE)]), annotations)
    assert scores.objects[0] == 299 and len(scores.recall[0]) == 0


def test_match_at_exactly_the_threshold_and_pixel_conventions(make_annotations, make_detections):
    """10x5 in 10x10 pixels is 1/2; as file coordinates 9x4 in 9x9 it is 4/9."""
    annotations = make_annotations([(0, 1, SQUARE, False)], 1, 1)
    found = make_detections([(0, 1, 0.9, UPPER_HALF)])
    assert voc_scores(found, annotations).ap_area[0] == 1
    assert voc_scores(found, annotations, iou=0.5001).ap_area[0] == 0
    assert voc_scores(found, annotations, pixels="continuous").ap_area[0] == 0
    assert voc_scores(found, annotations, pixels="continuous", iou=4 / 9).ap_area[0] == 1


@pytest.mark.parametrize(
    ("mode", "objects", "recall", "precision"),
    [("ignore", 1, [1], [1]), ("drop", 1, [0, 0, 1], [0, 0, 1 / 3]), ("count", 2, [0.5, 0.5, 1], [1, 1 / 2, 2 / 3])],
)
def test_difficult_objects(make_annotations, make_detections, mode, objects, recall, precision):
    annotations = make_annotations([(0, 1, SQUARE, True), (0, 1, ELSEWHERE, False)], 1, 1)
    found = make_detections([(0, 1, 0.9, SQUARE), (0, 1, 0.8, SQUARE), (0, 1, 0.7, ELSEWHERE)])
    scores = voc_scores(found, annotations, difficult=mode)
    assert scores.objects[0] == objects
    np.testing.assert_allclose(scores.recall[0], recall)
    np.testing.assert_allclose(scores.precision[0], precision)


@pytest.mark.parametrize(("found", "of", "steps"), [(3, 10, 3), (3, 5, 6), (7, 10, 7), (4, 10, 5), (9, 10, 10)])
def test_recall_steps_are_float64(make_annotations, make_detections, found, of, steps):
    """Recalls of exactly .3, .6 and .7 miss their step (0.1 * 3 > 0.3 in float64); .4 and .9 reach theirs."""
    annotations = make_annotations([(image, 1, SQUARE, False) for image in range(of)], of, 1)
    scores = voc_scores(make_detections([(image, 1, 0.9, SQUARE) for image in range(found)]), annotations)
    assert scores.ap_11point[0] == pytest.approx(steps / 11, abs=1e-15)


def test_classes_without_objects_leave_the_mean(make_annotations, make_detections):
    """Class 1 is found, 2 is missed, 3 has a difficult object only, 4 has none."""
    objects = [(0, 1, SQUARE, False), (0, 2, SQUARE, False), (0, 3, SQUARE, True)]
    found = make_detections([(0, label, 0.9, SQUARE) for label in (1, 3, 4)])
    scores = voc_scores(found, make_annotations(objects, 2, 4))
    np.testing.assert_array_equal(scores.ap_area, [1, 0, math.nan, math.nan])
    np.testing.assert_array_equal(scores.ap_11point, [1, 0, math.nan, math.nan])
    np.testing.assert_array_equal(scores.detections, [1, 0, 1, 1])
    assert scores.mean_area == scores.mean_11point == 0.5


def test_nothing_annotated_and_nothing_found(make_annotations, make_detections):
    scores = voc_scores(make_detections([]), make_annotations([], 0, 2))
    assert math.isnan(scores.mean_area) and math.isnan(scores.mean_11point)
    scores = voc_scores(make_detections([(0, 1, 0.5, SQUARE)]), make_annotations([], 1, 2))
    assert scores.objects.tolist() == [0, 0] and scores.detections.tolist() == [1, 0]


def test_unannotated_set_is_refused(make_annotations, make_detections):
    annotations = make_annotations([], 1, 1)
    annotations.annotated = False
    with pytest.raises(UserError, match="no annotations"):
        voc_scores(make_detections([]), annotations)


@pytest.mark.parametrize("pixels", ["inclusive", "continuous"])
@pytest.mark.parametrize("difficult", ["ignore", "drop", "count"])
def test_equals_the_devkits_loop(monkeypatch, make_annotations, make_detections, pixels, difficult):
    rng = np.random.default_rng(7)
    for trial in range(25):
        monkeypatch.setattr(overlaps, "PAIRS_AT_ONCE", (3, 1_000_000)[trial % 2])
        objects = [(*_random_place(rng), _random_box(rng), bool(rng.random() < 0.25)) for _ in range(rng.integers(60))]
        found = []
        for _ in range(rng.integers(150)):
            near = objects and rng.random() < 0.7
            image, label, box, _ = objects[rng.integers(len(objects))] if near else (*_random_place(rng), None, None)
            box = _random_box(rng) if box is None else tuple(np.add(box, rng.integers(-4, 5, 4) / 4 * [1, 1, 0, 0]))
            found.append((image, label, rng.integers(1, 6) / 8, box))
        annotations, detections = make_annotations(objects, 8, 5), make_detections(found)
        iou = (0.3, 0.5, 0.75)[trial % 3]
        scores = voc_scores(detections, annotations, iou=iou, pixels=pixels, difficult=difficult)
        for label in range(1, 6):
            slow = _devkit(detections, annotations, label, iou, int(pixels == "inclusive"), difficult)
            values = (scores.ap_11point[label - 1], scores.ap_area[label - 1], scores.objects[label - 1])
            np.testing.assert_allclose(values, slow, rtol=0, atol=1e-12)


def _random_place(rng: np.random.Generator) -> tuple[int, int]:
    """Image 0..5 of 8 and label 1..4 of 5: some images and one class stay empty."""
    return int(rng.integers(6)), int(rng.integers(1, 5))


def _random_box(rng: np.random.Generator) -> tuple[float, ...]:
    """Quarters of pixels are exact in float32, so that equal overlaps are equal in any order of arithmetic."""
    x, y, w, h = rng.integers([0, 0, 4, 4], [40, 40, 48, 48]) / 4
    return x, y, x + w, y + h


def _devkit(detections, annotations, label, iou, plus, difficult) -> tuple[float, float, int]:
    """VOCevaldet.m and VOCap.m in words of Python, on coordinates as in the files; `plus` is their +1."""
    objects = []
    for row in np.flatnonzero(annotations.labels == label):
        is_difficult = bool(annotations.ignore[row])
        if not (is_difficult and difficult == "drop"):
            excused = is_difficult and difficult == "ignore"
            image = next(i for i in range(len(annotations)) if row < annotations.offsets[i + 1])
            objects.append(
                {"image": image, "box": _file_box(annotations.boxes[row]), "excused": excused, "taken": False}
            )
    positives = sum(not item["excused"] for item in objects)
    rows = [row for row in range(len(detections)) if detections.labels[row] == label]
    rows.sort(key=lambda row: -detections.scores[row])
    true, false, curve = 0, 0, []
    for row in rows:
        best, chosen = -math.inf, None
        for item in objects:
            if item["image"] == detections.image_indices[row]:
                overlap = _overlap(_file_box(detections.boxes[row]), item["box"], plus)
                if overlap is not None and overlap > best:
                    best, chosen = overlap, item
        if best < iou:
            false += 1
        elif chosen["excused"]:
            continue
        elif chosen["taken"]:
            false += 1
        else:
            chosen["taken"] = True
            true += 1
        curve.append((true / positives if positives else 0, true / (true + false)))
    if positives == 0:
        return math.nan, math.nan, 0
    eleven = sum(max([p for r, p in curve if r >= t], default=0) for t in np.arange(0, 1.1, 0.1)) / 11
    return eleven, _devkit_area(curve), positives


def _file_box(box) -> tuple[float, ...]:
    return float(box[0]) + 1, float(box[1]) + 1, float(box[2]), float(box[3])


def _overlap(a, b, plus) -> float | None:
    width = min(a[2], b[2]) - max(a[0], b[0]) + plus
    height = min(a[3], b[3]) - max(a[1], b[1]) + plus
    if width <= 0 or height <= 0:
        return None
    areas = [(box[2] - box[0] + plus) * (box[3] - box[1] + plus) for box in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)


def _devkit_area(curve) -> float:
    recall = [0, *(r for r, _ in curve), 1]
    precision = [0, *(p for _, p in curve), 0]
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    return sum((recall[i + 1] - recall[i]) * precision[i + 1] for i in range(len(recall) - 1))


def test_torch_stays_out():
    program = "import sys, detection.evaluation.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False).returncode == 0
