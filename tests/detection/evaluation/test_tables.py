"""What the tables say, read back from their plain text."""

import io
import math

import numpy as np
from rich.console import Console

from detection.config import MetricSettings, VOCMetricSettings
from detection.evaluation.bootstrap import Interval, Intervals
from detection.evaluation.coco import SUMMARY, COCOScores
from detection.evaluation.costs import ErrorCost
from detection.evaluation.scores import score
from detection.evaluation.tables import class_table, coco_table, error_table, interval_table, plain_text

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
    assert "COCO AP 30.1 29.0 to 31.5" in lines and "VOC area mAP@0.5 - - to -" in lines
    assert lines[-1] == "by a bootstrap over the images"
    both = Intervals(
        one, {name: Interval(0.3, 0.2, 0.4) for name in one}, {name: Interval(0.001, -0.02, 0.02) for name in one}
    )
    lines = _lines(plain_text(interval_table(both, "a[1].json", "a[1].json")))
    assert "COCO AP a[1].json 30.1 29.0 to 31.5" in lines
    start = lines.index("COCO AP a[1].json 30.1 29.0 to 31.5")
    assert lines[start + 1 : start + 3] == ["a[1].json 30.0 20.0 to 40.0", "difference +0.1 -2.0 to +2.0"]
    assert lines[-1] == "a difference whose interval holds 0 may be chance"


def test_errors_say_what_they_are():
    costs = {"localization": ErrorCost(7, 0.0123), "missed": ErrorCost(2, -0.001), "background": ErrorCost(0, math.nan)}
    lines = _lines(plain_text(error_table(costs)))
    assert "localization right class, IoU between 0.1 and 0.5 7 +1.2" in lines
    assert "missed object not found, nor mistaken as above 2 -0.1" in lines
    assert "background nothing is there 0 -" in lines


def test_80_columns_do(make_annotations, make_detections):
    """A terminal of the usual width cuts nothing off, and folds no class name of VOC or COCO."""
    scores = _scores(make_annotations, make_detections)
    console = Console(width=80, file=io.StringIO())
    for table in scores.tables(("baseball glove", "refrigerator", "diningtable")):
        console.print(table)
    text = console.file.getvalue()
    assert "…" not in text and "baseball glove " in text and " COCO ARl " in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_plain_text_is_plain(make_annotations, make_detections):
    text = _class_text(_scores(make_annotations, make_detections), ("a" * 150, "dog", "sheep"))
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 100
    assert "".join(text.split()).count("a" * 20) > 1  # folded, not cut
