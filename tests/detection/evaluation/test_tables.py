"""What the table says, read back from its plain text."""

from detection.evaluation.tables import plain_text, voc_table
from detection.evaluation.voc import voc_scores

SQUARE = (0, 0, 10, 10)


def _scores(make_annotations, make_detections, **settings):
    """Class 1: the second of two objects is found, after a false one. Class 2: no objects. Class 3: all found."""
    objects = [(0, 1, SQUARE, False), (1, 1, SQUARE, False), (0, 3, SQUARE, False)]
    found = [(0, 1, 0.9, (50, 50, 60, 60)), (1, 1, 0.8, SQUARE), (0, 2, 0.9, SQUARE), (0, 3, 0.9, SQUARE)]
    return voc_scores(make_detections(found), make_annotations(objects, 2, 3), **settings)


def test_every_number_is_under_its_protocol(make_annotations, make_detections):
    text = plain_text(voc_table(_scores(make_annotations, make_detections), ("cat", "dog", "[bold]")))
    lines = [line.split() for line in text.splitlines()]
    assert text.split("\n")[0].strip() == "PASCAL VOC: AP in %, match at IoU >= 0.5"
    assert [" ".join(line) for line in lines[2:4]] == [
        "VOC area VOC07 11-point",
        "class objects detections AP@0.5 AP@0.5",
    ]
    assert ["cat", "2", "2", "25.0", "27.3"] in lines  # 1/4 and 3/11
    assert ["dog", "0", "1", "-", "-"] in lines
    assert ["[bold]", "1", "1", "100.0", "100.0"] in lines
    assert ["mean", "of", "2", "classes", "3", "4", "62.5", "63.6"] in lines  # 7/11
    assert lines[-1] == "inclusive pixels, difficult objects ignored".split()


def test_other_protocols_are_named(make_annotations, make_detections):
    scores = _scores(make_annotations, make_detections, iou=0.75, pixels="continuous", difficult="count")
    text = plain_text(voc_table(scores, ("cat", "dog", "sheep")))
    assert "IoU >= 0.75" in text and text.count("AP@0.75") == 2
    assert "continuous coordinates, difficult objects counted" in text


def test_plain_text_is_plain(make_annotations, make_detections):
    text = plain_text(voc_table(_scores(make_annotations, make_detections), ("a" * 150, "dog", "sheep")))
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 100
