"""Scoring files of guesses: what is printed, what is written, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from detection.config import DataSettings
from detection.data import read_annotations
from detection.localization.guess_files import write_official
from detection.localization.rule import Guesses

OBJECTS = """<annotation><size><width>100</width><height>80</height><depth>3</depth></size>
<object><name>{}</name><difficult>0</difficult><bndbox>
<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>
"""


@pytest.fixture
def one_class_set(tmp_path: Path) -> tuple[object, ...]:
    """Words that name a set in VOC layout without pictures: two cats and a dog, 20 x 10 pixels at the top left."""
    root = tmp_path / "pets"
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main" / "val.txt").write_text("a\nb\nc\n")
    for name, kind in (("a", "cat"), ("b", "dog"), ("c", "cat")):
        (root / "Annotations" / f"{name}.xml").write_text(OBJECTS.format(kind, 1, 1, 20, 10))
    return ("--data.root", root, "--data.train", "val", "--data.val", "val")


def scored(tool, tmp_path: Path, text: str, *words: object) -> tuple[dict, str]:
    """The errors of guesses, and what was printed."""
    (tmp_path / "guesses.txt").write_text(text)
    ended = tool("score_loc", *words, "--guesses", tmp_path / "guesses.txt", "--json", tmp_path / "scores.json")
    assert (ended.status, ended.err) == (0, "")
    return json.loads((tmp_path / "scores.json").read_text()), ended.out


def test_three_images_by_hand(tool, tmp_path, one_class_set) -> None:
    """a: right, at IoU exactly 0.5. b: the right label second, its box right. c: the wrong label with the right box."""
    text = "1 0 0 9 9\n1 0 0 19 9 2 0 0 19 9\n2 0 0 19 9\n"
    record, out = scored(tool, tmp_path, text, *one_class_set)
    expected = {"LOC error, class among the guesses": 0, "LOC error, class among the guesses, IoU 0.7": 1 / 2}
    expected |= {f"LOC error, top-{count}": 1 / 3 for count in range(2, 6)} | {"LOC error, top-1": 2 / 3}
    expected |= {f"classification error, top-{count}": 1 / 3 for count in range(2, 6)}
    expected |= {"classification error, top-1": 2 / 3}
    assert record["errors"] == pytest.approx(expected)
    assert (record["images"], record["images whose class is among the guesses"]) == (3, 2)
    lines = {" ".join(line.split()) for line in out.split("\n")}
    assert {"top-1 66.67 66.67", "top-5 33.33 33.33", "class among the guesses 0.00"} <= lines
    assert "class among the guesses, IoU 0.7 50.00" in lines
    assert "label ids: 1 to 2, in the order of the class names" in lines


def test_no_guess_of_the_class_at_all(tool, tmp_path, one_class_set) -> None:
    record, out = scored(tool, tmp_path, "\n\n\n", *one_class_set)
    assert record["errors"]["LOC error, class among the guesses"] is None and record["errors"]["LOC error, top-5"] == 1
    assert "class among the guesses - " in " ".join(out.split())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("1 0 0 9 9\n", "ends after line 1, the set has 3 images"), ("\n3 0 0 9 9\n\n", "line 2: label 3 is no id")],
)
def test_mistakes_in_the_file(refusal, tmp_path, one_class_set, text, sentence) -> None:
    (tmp_path / "guesses.txt").write_text(text)
    message = refusal("score_loc", *one_class_set, "--guesses", tmp_path / "guesses.txt")
    assert f"{tmp_path / 'guesses.txt'}: {sentence}" in message


def test_mistakes_in_the_words(refusal, tool, tiny_data, tmp_path) -> None:
    assert "missing --guesses" in refusal("score_loc")
    assert "--loc.crop: this tool has no use" in refusal("score_loc", "--guesses", "x", "--loc.crop", 128)
    words = ("--data.root", tiny_data, "--data.val", "unlabelled", "--data.classes", "[circle,square]")
    assert "--data.val unlabelled: has no boxes to score against" in refusal("score_loc", *words, "--guesses", "x")
    ended = tool("score_loc", "--help")
    assert ended.status == 0 and "--data.ids" in ended.out


def test_images_of_two_classes_are_refused(refusal, tiny_data) -> None:
    words = ("--data.root", tiny_data, "--data.train", "train", "--data.val", "val", "--guesses", "x")
    assert "two classes" in refusal("score_loc", *words)


def test_ids_and_blacklist_of_the_devkit(tool, refusal, tmp_path) -> None:
    """The second of three images is blacklisted: its line is passed over, and need not be there."""
    root = tmp_path / "ILSVRC"
    root.mkdir()
    (root / "LOC_synset_mapping.txt").write_text("n00000001 tench\nn00000002 cock\n")
    rows = [f"ILSVRC2012_val_0000000{number},n0000000{kind} 10 20 29 29 " for number, kind in ((3, 1), (1, 2), (2, 1))]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows, ""]))
    (tmp_path / "ids.txt").write_text("n00000002\nn00000001\n")
    (tmp_path / "blacklist.txt").write_text("2\n")
    words = ("--data.format", "ilsvrc", "--data.root", root, "--data.train", "val", "--data.val", "val")
    right, wrong = "10 20 29 29", "0 0 5 5"
    of_devkit, by_line = f"1 {right}\n2 {wrong}\n2 {right}\n", f"2 {right}\n1 {wrong}\n1 {right}\n"

    record, out = scored(tool, tmp_path, by_line, *words)
    errors = record["errors"]
    assert errors["LOC error, top-5"] == errors["LOC error, class among the guesses"] == pytest.approx(1 / 3)
    assert "label ids: line numbers in LOC_synset_mapping.txt" in out
    words += ("--data.ids", tmp_path / "ids.txt")
    record, out = scored(tool, tmp_path, of_devkit, *words)
    assert record["errors"]["LOC error, top-5"] == pytest.approx(1 / 3)
    assert record["errors"]["classification error, top-1"] == 0
    assert f"label ids: those of {tmp_path / 'ids.txt'} (the devkit's)" in out.replace("\n", "")
    words += ("--data.blacklist", tmp_path / "blacklist.txt")
    for text in (of_devkit, of_devkit.replace(f"2 {wrong}\n", "")):
        record, out = scored(tool, tmp_path, text, *words)
        assert (record["errors"]["LOC error, top-5"], record["images"]) == (0, 2)
        assert "images that were left out, whose lines are passed over: 1" in out


def test_the_annotations_of_the_sample_images_have_no_error(tool, tmp_path, shared_data) -> None:
    """As guesses of ILSVRC's form, whose first lines are worked out by hand from LOC_val_solution.csv."""
    root = shared_data / "ILSVRC"
    settings = DataSettings(format="ilsvrc", root=str(root), train="val", val="val")
    annotations = read_annotations(settings, "val", pictures=False)
    first = annotations.offsets[:-1]
    guesses = Guesses(annotations.labels[first, None], annotations.boxes[first, None])
    write_official(tmp_path / "truth.txt", guesses, annotations)
    text = (tmp_path / "truth.txt").read_text()
    synsets = [line.split()[0] for line in (root / "LOC_synset_mapping.txt").read_text().splitlines()]
    assert text.split("\n")[:2] == [
        f"{synsets.index('n01751748') + 1} 111 108 441 193",
        f"{synsets.index('n09193705') + 1} 45 49 499 162",
    ]
    words = ("--data.format", "ilsvrc", "--data.root", root, "--data.train", "val", "--data.val", "val")
    record, out = scored(tool, tmp_path, text, *words)
    assert set(record["errors"].values()) == {0} and record["images"] == np.count_nonzero(np.diff(annotations.offsets))
    assert "label ids: line numbers in LOC_synset_mapping.txt" in out
