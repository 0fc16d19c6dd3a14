"""What the tables say, read back from their plain text."""

import io
import math

import numpy as np
from rich.console import Console

from detection.config import MetricSettings, VOCMetricSettings
from detection.evaluation.bootstrap import Interval, Intervals
from detection.evaluation.coco import SUMMARY, COCOScores
from detection.evaluation.costs import ErrorCost
from detection.evaluation.diagnostics import FINE_SIZES, Diagnostics, PrecisionRecall, SizeRecall
from detection.evaluation.matching import COCO_IOUS, COCO_RECALLS
from detection.evaluation.names import headline_names
from detection.evaluation.scores import score
from detection.evaluation.tables import (
    class_table,
    coco_table,
    confusion_table,
    diagnostic_tables,
    error_table,
    interval_table,
    plain_text,
)

SQUARE = (0, 0, 10, 10)


def _scores(make_annotations, make_detections, **settings):
    """Class 1: the second of two objects is found, after a false one. Class 2: no objects. Class 3: all found."""
    objects = [(0, 1, SQUARE, False), (1, 1, SQUARE, False), (0, 3, SQUARE, False)]
    found = [(0, 1, 0.9, (50, 50, 60, 60)), (1, 1, 0.8, SQUARE), (0, 2, 0.9, SQUARE), (0, 3, 0.9, SQUARE)]
    settings = MetricSettings(voc=VOCMetricSettings(**settings))
    return score(make_detections(found), make_annotations(objects, 2, 3), settings)


def _class_text(scores, names, ap="both") -> str:
    return plain_text(class_table(scores.coco, scores.voc, ap, names))


def _lines(text: str) -> list[str]:
    """Its lines with single blanks."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_every_class_under_both_protocols(make_annotations, make_detections):
    lines = _lines(_class_text(_scores(make_annotations, make_detections), ("cat", "dog", "[bold]")))
    assert lines[1:4] == [
        "VOC07",
        "COCO AP COCO VOC area 11-point",
        "class objects detected @0.5:0.95 AP@0.5 AP@0.5 AP@0.5",
    ]
    assert "cat 2 2 25.2 25.2 25.0 27.3" in lines  # 51/202, 1/4 and 3/11
    assert "dog 0 1 - - - -" in lines
    assert "[bold] 1 1 100.0 100.0 100.0 100.0" in lines
    assert "mean 3 4 62.6 62.6 62.5 63.6" in lines
    assert " ".join(lines[-3:]) == (
        "COCO: 100 detections per image and class, by hotcoco "
        "VOC: match at IoU >= 0.5, inclusive pixels, difficult objects ignored"
    )


def test_other_protocols_are_named(make_annotations, make_detections):
    scores = _scores(make_annotations, make_detections, iou=0.75, pixels="continuous", difficult="count")
    text = _class_text(scores, ("cat", "dog", "sheep"), "11point")
    assert "match at IoU >= 0.75, continuous coordinates, difficult objects counted" in " ".join(text.split())
    assert text.count("AP@0.75") == 1 and "VOC area" not in text


def test_the_12_numbers_and_what_they_are():
    summary = {name: (index + 0.5) / 100 for index, name in enumerate(SUMMARY)} | {"COCO ARl": math.nan}
    lines = _lines(plain_text(coco_table(COCOScores(summary, np.zeros(1), np.zeros(1), "hotcoco"))))
    assert "COCO AP precision 0.5 to 0.95 all <= 100 0.5" in lines
    assert "COCO AP75 precision 0.75 all <= 100 2.5" in lines
    assert "COCO APs precision 0.5 to 0.95 below 32 x 32 <= 100 3.5" in lines
    assert "COCO AR1 best recall 0.5 to 0.95 all <= 1 6.5" in lines
    assert "COCO ARl best recall 0.5 to 0.95 above 96 x 96 <= 100 -" in lines
    assert len([line for line in lines if line.startswith("COCO A")]) == 12
    assert lines[-1].endswith("computed by hotcoco")


def test_intervals_of_one_and_of_two():
    one = {"COCO AP": Interval(0.301, 0.29, 0.3149), "VOC area mAP@0.5": Interval(math.nan, math.nan, math.nan)}
    lines = _lines(plain_text(interval_table(Intervals(one, {}, {}))))
    assert "COCO AP 30.1 29.0 to 31.5" in lines and "VOC area mAP@0.5 - -" in lines
    assert lines[-1] == "by a bootstrap over the images"
    both = Intervals(
        one, {name: Interval(0.3, 0.2, 0.4) for name in one}, {name: Interval(0.001, -0.02, 0.02) for name in one}
    )
    lines = _lines(plain_text(interval_table(both, "a[1].json", "a[1].json")))
    assert "COCO AP a[1].json 30.1 29.0 to 31.5" in lines
    start = lines.index("COCO AP a[1].json 30.1 29.0 to 31.5")
    assert lines[start + 1 : start + 3] == ["a[1].json 30.0 20.0 to 40.0", "difference +0.1 -2.0 to +2.0"]
    assert lines[-1] == "a difference whose interval holds 0 may be chance"


def test_without_resamples_there_is_no_column_of_intervals():
    one, other, less = ({"COCO AP": Interval(value, math.nan, math.nan)} for value in (0.3, 0.35, -0.05))
    lines = _lines(plain_text(interval_table(Intervals(one, {}, {}))))
    assert lines[-3] == "number value" and lines[-1] == "COCO AP 30.0"
    lines = _lines(plain_text(interval_table(Intervals(one, other, less), "mine", "yours")))
    assert [lines[-5], *lines[-3:]] == ["number of value", "COCO AP mine 30.0", "yours 35.0", "difference -5.0"]


def test_errors_say_what_they_are():
    costs = {"localization": ErrorCost(7, 0.0123), "missed": ErrorCost(2, -0.001), "background": ErrorCost(0, math.nan)}
    costs |= {"both": ErrorCost(12_345, -1e-9)}
    lines = _lines(plain_text(error_table(costs)))
    assert "localization right class, IoU between 0.1 and 0.5 7 +1.2" in lines
    assert "missed object not found, nor mistaken as above 2 -0.1" in lines
    assert "background nothing is there 0 -" in lines
    assert "class and box wrong class, IoU between 0.1 and 0.5 12,345 +0.0" in lines
    assert lines[-1] == "kinds after TIDE (arXiv 2008.08115); detections on ignored objects left out"


def _diagnostics() -> Diagnostics:
    """Classes cat and [b]: 1,200 cats found, 300 taken for [b], 500 not found; 50 of 100 [b] found; 4 are nothing."""
    confusion = np.array([[1200, 300, 500], [0, 50, 50], [3, 1, 0]])
    objects, found = np.array([1, 0, 2, 0, 0, 0, 0, 0, 0, 1500]), np.zeros((10, 10), int)
    found[[0, 2]] = [[1] * 10, [1] * 5 + [0] * 5]
    found[9, 0] = 750
    recall = SizeRecall(COCO_IOUS, np.array(FINE_SIZES), objects, found)
    precision = np.stack([np.linspace(1, 0, 101), np.full(101, 0.25)])[:, None].repeat(2, axis=1)
    precision[:, 1] = np.nan
    curves = PrecisionRecall(np.array([0.5, 0.75]), COCO_RECALLS, precision)
    return Diagnostics(confusion, 0.3, 0.5, recall, curves)


def test_diagnostics_as_tables():
    texts = [_lines(plain_text(table)) for table in diagnostic_tables(_diagnostics(), ("cat", "[b]"))]
    precision, recall, confusion = texts
    assert "recall at IoU 0.5 at IoU 0.75" in precision
    assert {"0 100.0 25.0", "10 90.0 25.0", "100 0.0 25.0", "AP 50.0 25.0"} <= set(precision)
    assert len([line for line in precision if line[0].isdigit()]) == 11
    assert {"0 to 16 1 100.0 100.0", "16 to 32 0 - -", "32 to 48 2 50.0 25.0", "384 up 1,500 50.0 5.0"} <= set(recall)
    assert {"small (0 to 32) 1 100.0 100.0", "medium (32 to 96) 2 50.0 25.0"} <= set(recall)
    assert "large (96 up) 1,500 50.0 5.0" in recall and "all 1,503 50.0 5.1" in recall
    assert confusion[0] == "Confusions at IoU 0.5, scores from 0.3"
    assert confusion[3:8] == [
        "cat [b] 300 15.0",
        "any class the same 1,250 59.5",
        "any class another class 300 14.3",
        "any class not found 550 26.2",
        "nothing there any class 4 0.3",
    ]


def test_the_most_frequent_confusions_come_first():
    matrix = np.arange(36).reshape(6, 6)
    lines = _lines(plain_text(confusion_table(matrix, tuple("abcde"), 0.5, 0.5)))[3:]
    assert [line.split()[:3] for line in lines[:3]] == [["e", "d", "27"], ["e", "c", "26"], ["e", "b", "25"]]
    assert lines[10].startswith("any class the same")
    lines = _lines(plain_text(confusion_table(np.zeros((3, 3), int), ("a", "b"), 0.5, 0.5)))
    assert "any class the same 0 -" in lines and "nothing there any class 0 -" in lines


def test_80_columns_do(make_annotations, make_detections):
    """A terminal of the usual width cuts nothing off, and folds no class name of VOC or COCO."""
    scores = _scores(make_annotations, make_detections)
    console = Console(width=80, file=io.StringIO())
    names = ("baseball glove", "refrigerator", "diningtable")
    both = {name: Interval(0.5, 0.4, 0.6) for name in headline_names(MetricSettings())}
    errors = error_table({"false negatives": ErrorCost(1_234_567, 0.12)})
    confusion = confusion_table(np.full((4, 4), 1_234_567), names, 0.5, 0.5)
    more = (*diagnostic_tables(_diagnostics(), names[:2]), confusion, errors)
    for table in (*scores.tables(names), interval_table(Intervals(both, both, both), "voc07_101", "voc07_50"), *more):
        console.print(table)
    text = console.file.getvalue()
    assert "baseball glove" in text and "  1,234,567  25.0" in text
    assert "…" not in text and "baseball glove " in text and " COCO ARl " in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_plain_text_is_plain(make_annotations, make_detections):
    text = _class_text(_scores(make_annotations, make_detections), ("a" * 150, "dog", "sheep"))
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 100
    assert "".join(text.split()).count("a" * 20) > 1  # folded, not cut
