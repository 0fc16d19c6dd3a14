"""Both protocols together: which numbers are shown, under which names, and that they are the protocols' own."""

import json

import pytest

from detection.config import MetricSettings, VOCMetricSettings
from detection.errors import UserError
from detection.evaluation.coco import SUMMARY, coco_scores
from detection.evaluation.names import headline_names
from detection.evaluation.scores import score
from detection.evaluation.tables import plain_text
from detection.evaluation.voc import voc_scores

SQUARE = (0, 0, 10, 10)
NAMES = ("cat", "dog", "sheep")


def _case(make_annotations, make_detections):
    """Class 1: the second of two objects is found, after a false one. Class 2: no objects. Class 3: all found."""
    objects = [(0, 1, SQUARE, False), (1, 1, SQUARE, False), (0, 3, SQUARE, False), (1, 3, SQUARE, True)]
    found = [(0, 1, 0.9, (50, 50, 60, 60)), (1, 1, 0.8, SQUARE), (0, 2, 0.9, SQUARE), (0, 3, 0.9, SQUARE)]
    return make_detections(found), make_annotations(objects, 2, 3)


def test_headline_is_both_protocols(make_annotations, make_detections):
    case = _case(make_annotations, make_detections)
    headline = score(*case, MetricSettings()).headline()
    assert headline == {
        "COCO AP": coco_scores(*case).summary["COCO AP"],
        "COCO AP50": coco_scores(*case).summary["COCO AP50"],
        "COCO AP75": coco_scores(*case).summary["COCO AP75"],
        "VOC area mAP@0.5": voc_scores(*case).mean_area,
        "VOC07 11-point mAP@0.5": voc_scores(*case).mean_11point,
    }
    assert headline["VOC area mAP@0.5"] == pytest.approx((1 / 4 + 1) / 2, abs=1e-15)
    assert headline["COCO AP50"] == pytest.approx((0.5 * 51 / 101 + 1) / 2, abs=1e-12)


@pytest.mark.parametrize("ap", ["area", "11point", "both"])
@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({}, "@0.5"),
        ({"iou": 0.75}, "@0.75"),
        ({"pixels": "continuous"}, "@0.5 (continuous coordinates)"),
        ({"difficult": "drop"}, "@0.5 (difficult left out)"),
        ({"pixels": "continuous", "difficult": "count"}, "@0.5 (continuous coordinates, difficult counted)"),
    ],
)
def test_names_carry_the_protocol(make_annotations, make_detections, ap, choices, words):
    settings = MetricSettings(voc=VOCMetricSettings(ap=ap, **choices))
    case = _case(make_annotations, make_detections)
    scores = score(*case, settings)
    kinds = {"area": ["VOC area"], "11point": ["VOC07 11-point"], "both": ["VOC area", "VOC07 11-point"]}[ap]
    means = [f"{kind} mAP{words}" for kind in kinds]
    assert list(scores.headline()) == list(headline_names(settings)) == ["COCO AP", "COCO AP50", "COCO AP75", *means]
    own = voc_scores(*case, **choices)
    assert scores.headline()[means[-1]] == (own.mean_area if ap == "area" else own.mean_11point)
    per_class = [f"{number} {name}" for name in NAMES for number in ("COCO AP", "COCO AP50")]
    per_class += [f"{kind} AP{words} {name}" for name in NAMES for kind in kinds]
    assert set(scores.record(NAMES)) == {*SUMMARY, *means, *per_class}


def test_record_is_for_json(make_annotations, make_detections):
    scores = score(*_case(make_annotations, make_detections), MetricSettings())
    record = json.loads(json.dumps(scores.record(NAMES), allow_nan=False))
    assert record["VOC area AP@0.5 cat"] == 0.25
    assert record["VOC07 11-point AP@0.5 cat"] == scores.voc.ap_11point[0] == pytest.approx(3 / 11, abs=1e-15)
    assert record["COCO AP50 cat"] == scores.coco.ap50[0] == pytest.approx(0.5 * 51 / 101, abs=1e-12)
    assert record["COCO AP dog"] is record["VOC area AP@0.5 dog"] is record["COCO APl"] is None


def test_tables_show_what_was_chosen(make_annotations, make_detections):
    case = _case(make_annotations, make_detections)
    texts = [plain_text(table) for table in score(*case, MetricSettings()).tables(NAMES)]
    assert "COCO AR100" in texts[0] and "VOC area" in texts[1] and "11-point" in texts[1]
    texts = [plain_text(t) for t in score(*case, MetricSettings(voc=VOCMetricSettings(ap="area"))).tables(NAMES)]
    assert "VOC area" in texts[1] and "11-point" not in texts[1]


def test_engines_give_the_same_and_are_named(make_annotations, make_detections):
    case = _case(make_annotations, make_detections)
    fast, slow = (score(*case, MetricSettings(coco_engine=engine)) for engine in ("hotcoco", "pycocotools"))
    assert fast.headline() == pytest.approx(slow.headline(), abs=1e-12)
    assert (fast.coco.engine, slow.coco.engine) == ("hotcoco", "pycocotools")
    assert "computed by pycocotools" in plain_text(slow.tables(NAMES)[0])


def test_unannotated_set_is_refused(make_annotations, make_detections):
    annotations = make_annotations([], 1, 1)
    annotations.annotated = False
    with pytest.raises(UserError, match="no annotations"):
        score(make_detections([]), annotations, MetricSettings())
