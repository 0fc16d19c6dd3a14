"""Kinds of error, their costs and the other diagnostics: by hand, by a slow loop, and by hotcoco."""

import json
import math

import numpy as np
import pytest

from detection.evaluation import overlaps
from detection.evaluation.costs import error_costs
from detection.evaluation.diagnostics import COCO_SIZES, confusion_matrix, diagnose, precision_recall, recall_by_size
from detection.evaluation.errors import KINDS, find_errors
from detection.evaluation.matching import COCO_IOUS

SQUARE, ELSEWHERE = (0, 0, 10, 10), (50, 50, 60, 60)
TIDE = {
    "localization": "Loc",
    "classification": "Cls",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
    "false positives": "FP",
    "false negatives": "FN",
}


def _random(rng, make_annotations, make_detections, crowds=0.0, objects=60, found=250):
    """Scores without ties: TIDE and COCO break them differently."""
    rows, near = [], []
    for _ in range(objects):
        x, y, w, h = rng.integers([0, 0, 8, 8], [200, 200, 90, 90]) / 4
        place = int(rng.integers(6)), int(rng.integers(1, 5))
        rows.append((*place, (x, y, x + w, y + h), bool(rng.random() < crowds)))
    for _ in range(found):
        image, label, box, _ = rows[rng.integers(len(rows))]
        label = int(rng.integers(1, 6)) if rng.random() < 0.3 else label
        box = tuple(np.add(box, rng.integers(-20, 21, 4) / 4 * [1, 1, 0, 0]))
        near.append((image, label, rng.random(), (*box[:2], max(box[2], box[0] + 1), max(box[3], box[1] + 1))))
    return make_detections(near), make_annotations(rows, 7, 5)


def _engine(detections, annotations):
    from hotcoco import COCO, COCOeval

    def sized(boxes):
        boxes = boxes.astype(np.float64)
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)

    images = [{"id": number, "width": 100, "height": 100} for number in range(1, len(annotations) + 1)]
    categories = [{"id": label, "name": name} for label, name in enumerate(annotations.class_names, 1)]
    places = annotations.image_of_object + 1, annotations.labels, sized(annotations.boxes)
    wanted = COCO.from_arrays(
        images, categories, *places, area=annotations.areas.astype(np.float64), iscrowd=annotations.ignore
    )
    columns = (detections.image_indices + 1, sized(detections.boxes), detections.scores, detections.labels)
    found = wanted.load_res(np.column_stack([column.astype(np.float64) for column in columns]))
    evaluation = COCOeval(wanted, found, "bbox")
    evaluation.evaluate()
    return evaluation


def test_one_of_each_kind(make_annotations, make_detections):
    objects = [(0, 1, SQUARE, False), (0, 2, ELSEWHERE, False), (0, 1, (80, 80, 90, 90), True)]
    objects += [(1, 1, SQUARE, False), (1, 2, ELSEWHERE, False), (2, 2, SQUARE, False)]
    found = [
        (0, 1, 0.9, SQUARE),  # true
        (0, 1, 0.8, (0, 0, 10, 9)),  # duplicate
        (0, 1, 0.7, ELSEWHERE),  # classification
        (0, 1, 0.6, (50, 50, 60, 54)),  # both: IoU .4 with the object of class 2
        (0, 1, 0.5, (80, 80, 90, 85)),  # ignored: in the crowd
        (0, 2, 0.5, (0, 30, 10, 40)),  # background
        (1, 1, 0.4, (0, 0, 10, 4)),  # localization: IoU .4
        (1, 1, 0.3, (0, 0, 1, 9.5)),  # IoU .095
        (1, 1, 0.3, (0, 0, 1, 10)),  # IoU .1
        (1, 1, 0.3, (0, 0, 10, 5)),  # IoU .5 with an object that nobody had: true
    ]
    errors = find_errors(make_detections(found), make_annotations(objects, 3, 2))
    names = [KINDS[kind] for kind in errors.kinds]
    assert names[:6] == ["true", "duplicate", "classification", "both", "ignored", "background"]
    assert names[6:] == ["localization", "background", "localization", "true"]
    assert errors.objects.tolist() == [0, 0, 1, 1, 2, -1, 3, -1, 3, 3]
    np.testing.assert_allclose(errors.overlaps, [1, 0.9, 1, 0.4, 1, 0, 0.4, 0, 0.1, 0.5])
    assert errors.found_by.tolist() == [0, -1, -1, 9, -1, -1]
    assert errors.missed.tolist() == [False, False, False, False, True, True]


def test_more_than_100_are_ignored(make_annotations, make_detections):
    found = [(0, 1, 0.9, ELSEWHERE)] * 103 + [(0, 1, 0.1, SQUARE)]
    errors = find_errors(make_detections(found), make_annotations([(0, 1, SQUARE, False)], 1, 1))
    assert np.bincount(errors.kinds, minlength=len(KINDS)).tolist() == [0, 0, 0, 0, 0, 100, 4]
    assert errors.missed.tolist() == [True]


def _iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _slow(detections, annotations, match_in_loops):
    """TIDE's definitions in loops."""
    matched, ignored = match_in_loops(detections, annotations, 0.5)
    kinds, objects, reachable = [], [], set()
    for row in range(len(detections)):
        if ignored[row] or matched[row] >= 0:
            kinds.append("ignored" if ignored[row] else "true")
            objects.append(matched[row])
            continue
        best = {True: (0.0, -1), False: (0.0, -1)}
        span = annotations.objects(detections.image_indices[row])
        for m in range(span.start, span.stop):
            overlap = _iou(detections.boxes[row].tolist(), annotations.boxes[m].tolist())
            same = bool(annotations.labels[m] == detections.labels[row])
            if not annotations.ignore[m] and overlap > best[same][0]:
                best[same] = overlap, m
        (own, own_object), (other, other_object) = best[True], best[False]
        if 0.1 <= own < 0.5:
            case = "localization", own_object
        elif other >= 0.5:
            case = "classification", other_object
        elif own >= 0.5:
            case = "duplicate", own_object
        elif max(own, other) < 0.1:
            case = "background", -1
        else:
            case = "both", own_object if own >= other else other_object
        kinds.append(case[0])
        objects.append(case[1])
        reachable |= {case[1]} if case[0] in ("localization", "classification") else set()
    found = set(matched.tolist())
    missed = [
        not annotations.ignore[m] and m not in found and m not in reachable for m in range(len(annotations.boxes))
    ]
    return kinds, objects, missed


def test_equals_the_loop(monkeypatch, make_annotations, make_detections, match_in_loops):
    rng = np.random.default_rng(1)
    for trial in range(6):
        monkeypatch.setattr(overlaps, "PAIRS_AT_ONCE", (7, 500_000)[trial % 2])
        detections, annotations = _random(rng, make_annotations, make_detections, crowds=0.15)
        kinds, objects, missed = _slow(detections, annotations, match_in_loops)
        errors = find_errors(detections, annotations)
        assert [KINDS[kind] for kind in errors.kinds] == kinds
        assert errors.objects.tolist() == objects
        assert errors.missed.tolist() == missed


@pytest.mark.parametrize(("objects", "found", "trials"), [(60, 250, 6), (8, 12, 25)])
def test_equals_hotcocos_tide(make_annotations, make_detections, objects, found, trials):
    """With few objects there are classes of which every one is missed.

    Without crowds: to hotcoco a detection that lies in a crowd of its class in part is a localization error. Here
    crowds are no objects, as in TIDE's own code, which however gives detections that lie in them a kind, too.
    """
    rng = np.random.default_rng(2)
    for _ in range(trials):
        detections, annotations = _random(rng, make_annotations, make_detections, objects=objects, found=found)
        wanted = _engine(detections, annotations).tide_errors()
        costs = error_costs(detections, annotations, find_errors(detections, annotations))
        assert list(costs) == list(TIDE)
        for kind, name in TIDE.items():
            assert costs[kind].ap50 == pytest.approx(wanted["delta_ap"][name], abs=1e-12), kind
            assert costs[kind].count == wanted["counts"].get(name, costs[kind].count), kind


def test_costs_worked_out_by_hand(make_annotations, make_detections):
    """A false detection before a true one, and an object missed: precision 1/2 at the 51 recalls up to 1/2."""
    annotations = make_annotations([(0, 1, SQUARE, False), (1, 1, SQUARE, False)], 2, 1)
    found = make_detections([(0, 1, 0.9, ELSEWHERE), (0, 1, 0.8, SQUARE)])
    costs = error_costs(found, annotations, find_errors(found, annotations))
    before = 51 / 101 / 2
    assert costs["background"].ap50 == costs["false positives"].ap50 == pytest.approx(51 / 101 - before)
    assert costs["missed"].ap50 == costs["false negatives"].ap50 == pytest.approx(1 / 2 - before)
    assert {kind: cost.count for kind, cost in costs.items() if cost.count} == {
        "background": 1,
        "missed": 1,
        "false positives": 1,
        "false negatives": 1,
    }


def test_costs_beside_a_crowd(make_annotations, make_detections):
    """Worked out by hand: of two objects of class 1 one is found, by the fourth detection that counts."""
    crowd = (40, 40, 80, 80)
    objects = [(0, 1, SQUARE, False), (0, 1, (0, 50, 10, 60), False), (0, 1, crowd, True), (0, 2, ELSEWHERE, True)]
    found = [
        (0, 1, 0.9, (40, 40, 60, 80)),  # wholly inside the crowd: ignored
        (0, 1, 0.8, (30, 40, 50, 80)),  # half inside: ignored
        (0, 1, 0.7, (20, 40, 50, 80)),  # a third inside, and nothing else there: background, as crowds are no objects
        (0, 2, 0.7, (40, 40, 60, 80)),  # inside a crowd of another class; class 2 has no object: background
        (0, 1, 0.6, (0, 50, 10, 54)),  # IoU 0.4 with the second object: localization
        (0, 1, 0.5, (0, 0, 10, 30)),  # IoU 1/3 with the first: localization
        (0, 1, 0.4, SQUARE),  # true
    ]
    detections, annotations = make_detections(found), make_annotations(objects, 1, 2)
    errors = find_errors(detections, annotations)
    names = [KINDS[kind] for kind in errors.kinds]
    assert names == ["ignored"] * 2 + ["background"] * 2 + ["localization"] * 2 + ["true"]
    assert errors.objects.tolist() == [2, 2, -1, -1, 1, 0, 0]
    assert errors.missed.tolist() == [False] * 4  # the second object is in reach
    costs = error_costs(detections, annotations, errors)
    before = 51 / 101 / 4  # precision 1/4 up to recall 1/2; class 2 has no objects and no part in the mean
    assert costs["background"].ap50 == pytest.approx(51 / 101 / 3 - before)  # without the one of class 1
    # One localization error becomes true, the other goes, as its object is found: false, true, true.
    assert costs["localization"].ap50 == pytest.approx(2 / 3 - before)
    assert costs["false positives"].ap50 == pytest.approx(51 / 101 - before)
    assert costs["false negatives"].ap50 == pytest.approx(1 / 4 - before)
    assert costs["missed"].ap50 == 0
    counts = {"localization": 2, "background": 2, "false positives": 4, "false negatives": 1}
    assert {kind: cost.count for kind, cost in costs.items() if cost.count} == counts


def test_nothing_found_and_nothing_there(make_annotations, make_detections):
    annotations, none = make_annotations([(0, 1, SQUARE, False)], 1, 2), make_detections([])
    costs = error_costs(none, annotations, find_errors(none, annotations))
    assert costs["missed"].count == 1 and all(cost.ap50 == 0 for cost in costs.values())
    empty, found = make_annotations([], 1, 2), make_detections([(0, 1, 0.5, SQUARE)])
    costs = error_costs(found, empty, find_errors(found, empty))
    assert costs["background"].count == 1 and all(math.isnan(cost.ap50) for cost in costs.values())


def test_confusion_equals_hotcocos(make_annotations, make_detections):
    rng = np.random.default_rng(4)
    for threshold in (0.0, 0.3, 0.5):
        detections, annotations = _random(rng, make_annotations, make_detections)
        wanted = _engine(detections, annotations).confusion_matrix(iou_thr=0.5, max_det=100, min_score=threshold)
        np.testing.assert_array_equal(confusion_matrix(detections, annotations, threshold), wanted["matrix"])


def test_confusion_leaves_crowds_out(make_annotations, make_detections):
    """hotcoco counts the detection of the crowd as one of nothing."""
    annotations = make_annotations([(0, 1, SQUARE, True), (0, 1, ELSEWHERE, False)], 1, 2)
    found = make_detections(
        [(0, 1, 0.9, SQUARE), (0, 2, 0.8, ELSEWHERE), (0, 2, 0.7, (80, 0, 90, 10)), (0, 1, 0.4, ELSEWHERE)]
    )
    assert confusion_matrix(found, annotations).tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_a_crowd_excuses_detections_of_its_own_class_alone(make_annotations, make_detections):
    """As in find_errors: a detection of class 2 inside a crowd of class 1 has found nothing."""
    annotations = make_annotations([(0, 1, (0, 0, 90, 90), True)], 1, 2)
    found = make_detections([(0, 1, 0.9, SQUARE), (0, 2, 0.8, ELSEWHERE)])
    assert confusion_matrix(found, annotations).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert [KINDS[kind] for kind in find_errors(found, annotations).kinds] == ["ignored", "background"]


def test_curves_equal_hotcocos(make_annotations, make_detections):
    detections, annotations = _random(np.random.default_rng(5), make_annotations, make_detections, crowds=0.1)
    evaluation = _engine(detections, annotations)
    evaluation.accumulate()
    wanted = evaluation.eval["precision"][[0, 5], :, :, 0, 2].transpose(0, 2, 1)
    curves = precision_recall(detections, annotations)
    np.testing.assert_allclose(np.nan_to_num(curves.precision, nan=-1), wanted, rtol=0, atol=1e-12)
    assert np.isnan(curves.precision[:, 4]).all()
    np.testing.assert_allclose(curves.mean, wanted[:, :4].mean(axis=1), atol=1e-12)


def test_recall_of_every_size(make_annotations, make_detections):
    """Sizes 8, 10 and 40, and a crowd. The third has IoU 0.8: found at 7 of the 10 thresholds."""
    objects = [(0, 1, (0, 0, 8, 8), False), (0, 1, (20, 0, 30, 10), False), (0, 1, (0, 40, 40, 80), False)]
    annotations = make_annotations([*objects, (0, 1, (60, 60, 70, 70), True)], 1, 1)
    found = make_detections([(0, 1, 0.9, (20, 0, 30, 10)), (0, 1, 0.8, (0, 40, 40, 72)), (0, 1, 0.7, (60, 60, 70, 70))])
    recall = recall_by_size(found, annotations, COCO_IOUS, edges=(0, 10, 32, 96))
    assert recall.objects.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(recall.recall[:, 0], [0, 1, 1])
    np.testing.assert_allclose(recall.recall.mean(axis=1), [0, 1, 0.7])
    assert np.isnan(recall_by_size(found, annotations, [0.5], edges=(96, np.inf)).recall).all()


def test_recall_over_all_sizes_is_cocos(make_annotations, make_detections):
    """With one class, where a mean over classes is one over objects."""
    rng = np.random.default_rng(6)
    detections, annotations = _random(rng, make_annotations, make_detections, crowds=0.1)
    detections.labels[:], annotations.labels[:] = 1, 1
    evaluation = _engine(detections, annotations)
    evaluation.accumulate()
    recall = recall_by_size(detections, annotations, COCO_IOUS, edges=(0, np.inf)).recall
    np.testing.assert_allclose(recall[0], evaluation.eval["recall"][:, 0, 0, 2], atol=1e-12)


def test_sizes_are_merged(make_annotations, make_detections):
    detections, annotations = _random(np.random.default_rng(7), make_annotations, make_detections, crowds=0.1)
    annotations.areas = annotations.areas * 30
    merged = recall_by_size(detections, annotations, COCO_IOUS).merged(COCO_SIZES)
    wanted = recall_by_size(detections, annotations, COCO_IOUS, COCO_SIZES)
    assert wanted.objects.min() > 0 and merged.edges.tolist() == list(COCO_SIZES)
    np.testing.assert_array_equal(merged.objects, wanted.objects)
    np.testing.assert_array_equal(merged.found, wanted.found)


def test_diagnostics_are_for_json(make_annotations, make_detections):
    """One of two objects found after a false detection: precision 1/2 at the 51 recalls up to 1/2."""
    annotations = make_annotations([(0, 1, SQUARE, False), (1, 1, SQUARE, False)], 2, 2)
    found = make_detections([(0, 1, 0.9, ELSEWHERE), (0, 1, 0.8, SQUARE), (1, 1, 0.3, ELSEWHERE)])
    record = diagnose(found, annotations, score_threshold=0.5).record(("cat", "dog"))
    record = json.loads(json.dumps(record, allow_nan=False))
    confusion, recall, precision = (record[name] for name in record)
    assert list(record) == ["confusion matrix", "recall by object size", "precision at recall"]
    assert confusion == {
        "IoU": 0.5,
        "score threshold": 0.5,
        "rows: annotated as": ["cat", "dog", "nothing there"],
        "columns: detected as": ["cat", "dog", "not found"],
        "counts": [[1, 0, 1], [0, 0, 0], [1, 0, 0]],
    }
    assert recall["IoUs"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert recall["square root of area from"][:2] == [0, 16] and recall["below"][-2:] == [384, None]
    assert recall["objects"] == [2] + [0] * 9 and recall["found at each IoU"][0] == [1] * 10
    assert recall["recall at each IoU"][:2] == [[0.5] * 10, [None] * 10]
    assert precision["recalls"][:3] == [0, 0.01, 0.02] and len(precision["recalls"]) == 101
    assert precision["classes"]["dog"] == {"IoU 0.5": [None] * 101, "IoU 0.75": [None] * 101}
    assert (
        precision["mean"]
        == precision["classes"]["cat"]
        == dict.fromkeys(("IoU 0.5", "IoU 0.75"), [0.5] * 51 + [0] * 50)
    )
