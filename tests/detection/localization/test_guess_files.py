"""Files of guesses: what stands in them, who reads them back, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detection.data.dataset import Annotations, without_objects
from detection.errors import UserError
from detection.localization.guess_files import read_labels, read_official, write_official
from detection.localization.rule import Guesses

NAMES = ("n01440764 tench, Tinca tinca", "n01443537 goldfish", "n01484850 great white shark")


@pytest.fixture
def annotations() -> Annotations:
    """Three images, not in the order of their names; the classes' ids are not in the order of the labels."""
    ids = ["val_3", "val_1", "val_2"]
    return without_objects(NAMES, ids, ids, np.full((3, 2), 100), category_ids=(30, 10, 20))


@pytest.fixture
def guesses() -> Guesses:
    labels = np.array([[1, 2, 3, 0, 0], [3, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    boxes = np.zeros((3, 5, 4))
    boxes[0, :3] = [[0, 0, 10, 20], [1.25, 2, 3.5, 4], [5, 6, 8, 9]]
    boxes[1, 0] = [99, 98, 500, 375]
    return Guesses(labels, boxes)


def test_the_official_text(tmp_path: Path, annotations: Annotations, guesses: Guesses) -> None:
    """Lines in the order of the names, inclusive pixels from 0, the classes' own ids."""
    write_official(tmp_path / "guesses.txt", guesses, annotations)
    lines = (tmp_path / "guesses.txt").read_text().split("\n")
    assert lines == ["20 99 98 499 374", "", "30 0 0 9 19 10 1.25 2 2.5 3 20 5 6 7 8", ""]


def test_what_was_written_is_read(tmp_path: Path, annotations: Annotations, guesses: Guesses) -> None:
    write_official(tmp_path / "guesses.txt", guesses, annotations)
    found = read_official(tmp_path / "guesses.txt", annotations)
    np.testing.assert_array_equal(found.labels, guesses.labels)
    np.testing.assert_array_equal(found.boxes, guesses.boxes)


def test_fewer_guesses_decimals_and_narrow_boxes(tmp_path: Path, annotations: Annotations) -> None:
    """Three decimals stay; a box of less than a pixel becomes one of a pixel, which every reader takes."""
    boxes = np.array([[[1 / 3, -1e-9, 1234567.6789, 4]], [[5, 5, 5.5, 7]], [[0, 0, 1, 1]]])
    write_official(tmp_path / "guesses.txt", Guesses(np.array([[1], [1], [1]]), boxes), annotations)
    lines = (tmp_path / "guesses.txt").read_text().split("\n")
    assert lines == ["30 5 5 5 6", "30 0 0 0 0", "30 0.333 0 1234566.679 3", ""]
    found = read_official(tmp_path / "guesses.txt", annotations)
    assert found.labels.tolist() == [[1, 0, 0, 0, 0]] * 3
    np.testing.assert_allclose(found.boxes[:, 0], [[0.333, 0, 1234567.679, 4], [5, 5, 6, 7], [0, 0, 1, 1]])
    assert not found.boxes[:, 1:].any()


def test_ids_are_line_numbers_where_the_set_has_none(tmp_path: Path, annotations: Annotations) -> None:
    (tmp_path / "guesses.txt").write_text("1 0 0 1 1\r\n2 0 0 1 1\r\n 3  0 0 1e1 1 ")
    found = read_official(tmp_path / "guesses.txt", replace(annotations, category_ids=()))
    assert found.labels[:, 0].tolist() == [3, 1, 2]
    assert found.boxes[0, 0].tolist() == [0, 0, 11, 2]


def test_images_that_were_left_out_have_a_line_or_none(tmp_path: Path, annotations: Annotations) -> None:
    fewer = replace(annotations, left_out=frozenset({"val_0", "val_15"}))
    for text in (
        "30 0 0 1 1\n10 0 0 1 1\n30 9 9 9 9\n20 0 0 1 1\n30 0 0 1 1\n",
        "10 0 0 1 1\n20 0 0 1 1\n30 0 0 1 1\n",
    ):
        (tmp_path / "guesses.txt").write_text(text)
        assert read_official(tmp_path / "guesses.txt", fewer).labels[:, 0].tolist() == [1, 2, 3]
    with pytest.raises(UserError, match=r"ends after line 4, the set has 3 images \(and 2 that were left out\);"):
        (tmp_path / "short.txt").write_text("\n\n\n\n")
        read_official(tmp_path / "short.txt", fewer)
    found = read_official(tmp_path / "guesses.txt", fewer)
    write_official(tmp_path / "guesses.txt", found, fewer)
    assert (tmp_path / "guesses.txt").read_text() == "\n10 0 0 1 1\n\n20 0 0 1 1\n30 0 0 1 1\n"


def test_boxes_that_no_reader_takes_are_not_written(tmp_path: Path, annotations: Annotations, guesses: Guesses) -> None:
    guesses.boxes[1, 0, 2] = np.nan
    with pytest.raises(UserError, match="image val_1: a box is not finite; nothing was written"):
        write_official(tmp_path / "guesses.txt", guesses, annotations)
    assert list(tmp_path.iterdir()) == []
    guesses.labels[1, 0] = 0  # where there is no guess, nobody reads the box
    write_official(tmp_path / "guesses.txt", guesses, annotations)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "ends after line 0, the set has 3 images; write one line an image, in the order"),
        ("10 0 0 1 1\n\n", "ends after line 2, the set has 3 images"),
        ("\n\n\n\n", "line 4 is one too many, the set has 3 images"),
        ("\n10 0 0 1\n\n", "line 2: 4 words are no multiple of five; write label xmin ymin xmax ymax for each"),
        ("\n\n" + "10 0 0 1 1 " * 6 + "\n", "line 3: 6 guesses; leave at most 5"),
        ("\n\n10 0 0 1 1 11 0 0 1 1\n", "line 3: label 11 is no id of the data set; write ids from 10 to 30"),
        ("10.5 0 0 1 1\n\n\n", "line 1: label 10.5 is no id"),
        ("0 0 0 1 1\n\n\n", "line 1: label 0 is no id"),
        ("99 0 0 1 1\n\n\n", "line 1: label 99 is no id"),
        ("\n10 0 0 x 1\n\n", "line 2: x is no number; write label xmin ymin xmax ymax"),
        ("\nn01440764 0 0 1 1\n\n", "line 2: n01440764 is no number"),
        ("\n10 0 nan 1 1\n\n", "line 2: nan is no number"),
        ("\n10 0 0 inf 1\n\n", "line 2: inf is no number"),
        ("\n10 0 0 1_0 1\n\n", "line 2: 1_0 is no number"),
        ("10 0 0 1 1\n10 5 0 4 1\n\n", "line 2: xmax 4 < xmin 5; write label xmin ymin xmax ymax"),
        ("10 0 0 1 1\n\n10 0 5.5 4 5\n", "line 3: ymax 5 < ymin 5.5"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, annotations: Annotations, text: str, sentence: str) -> None:
    path = tmp_path / "guesses.txt"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_official(path, annotations)
    assert str(error.value).startswith(f"{path}: {sentence}") and "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_official, read_labels])
def test_files_that_are_no_text(tmp_path: Path, annotations: Annotations, read) -> None:
    with pytest.raises(UserError, match="missing.txt: cannot be read .No such file"):
        read(tmp_path / "missing.txt", annotations)
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="picture.jpg: is not text"):
        read(tmp_path / "picture.jpg", annotations)


def test_guesses_of_a_classifier(tmp_path: Path, annotations: Annotations) -> None:
    """Ids and synsets, also mixed; in the order of the names."""
    path = tmp_path / "labels.txt"
    path.write_text("10 20 30 10 20\nn01440764 n01443537 n01484850 30 10\n20 20 20 20 20\n")
    expected = [[3, 3, 3, 3, 3], [2, 3, 1, 2, 3], [1, 2, 3, 1, 2]]
    assert read_labels(path, annotations).tolist() == expected
    path.write_text("7 7 7 7 7\n" + path.read_text())
    with pytest.raises(UserError, match="labels.txt: line 4 is one too many, the set has 3 images"):
        read_labels(path, annotations)
    fewer = replace(annotations, left_out=frozenset({"val_0"}), category_ids=(30, 10, 20))
    path.write_text("10 10 10 10 10\n" + path.read_text().partition("\n")[2])
    assert read_labels(path, fewer).tolist() == expected


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("10 20 30 10", "line 2: 4 labels; write five, the best first"),
        ("10 20 30 10 20 30", "line 2: 6 labels; write five"),
        ("", "line 2: 0 labels"),
        ("10 20 30 n99999999 20", "line 2: n99999999 is no class; write ids from 10 to 30 or as in n01440764"),
        ("10 20 30 10 1", "line 2: 1 is no class"),
    ],
)
def test_wrong_guesses_of_a_classifier(tmp_path: Path, annotations: Annotations, line: str, sentence: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(f"10 20 30 10 20\n{line}\n10 20 30 10 20\n")
    with pytest.raises(UserError) as error:
        read_labels(path, annotations)
    assert str(error.value).startswith(f"{path}: {sentence}") and "\n" not in str(error.value)
