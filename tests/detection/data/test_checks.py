"""How faults are told."""

from pathlib import Path

import numpy as np
import pytest

from detection.data.checks import Fault, overlap_sentence, report, require_clean, shared_images
from detection.data.dataset import Annotations, without_objects
from detection.errors import UserError


def test_a_fault_reads_as_file_object_reason() -> None:
    fault = Fault("VOC2007/Annotations/000017.xml", "object 3 (dog)", "xmax 12 <= xmin 12")
    assert str(fault) == "VOC2007/Annotations/000017.xml: object 3 (dog): xmax 12 <= xmin 12"
    assert str(Fault("a.jpg", "", "no such image")) == "a.jpg: no such image"


def test_twenty_faults_are_listed_and_the_rest_counted() -> None:
    require_clean([])
    with pytest.raises(UserError) as error:
        require_clean([Fault(f"{number}.xml", "object 1", "wrong") for number in range(27)])
    lines = str(error.value).splitlines()
    assert len(lines) == 22 and lines[1] == "  0.xml: object 1: wrong" and lines[-1] == "  ... and 7 more"
    assert lines[0].startswith("27 faults") and "--data.on_error drop" in lines[0]


def test_a_report_counts_objects_and_images_and_lists_twenty_faults() -> None:
    faults = [Fault("a.xml", "object 1", "x"), Fault("a.xml", "object 2", "x"), Fault("b.jpg", "", "y")]
    listed = ["  a.xml: object 1: x", "  a.xml: object 2: x", "  b.jpg: y"]
    assert report(faults) == ["left out: 2 objects and 1 image", *listed]
    assert report(faults[:1])[0] == "left out: 1 object and 0 images"
    many = report(faults * 7)
    assert many[1:] == [*listed * 6, *listed[:2], "  ... and 1 more"]
    assert report(()) == []


def _set(**files: Path) -> Annotations:
    """Images by id, all of 4 x 4 pixels."""
    return without_objects(["a"], list(files), [str(path) for path in files.values()], np.full((len(files), 2), 4))


def test_sets_share_an_image_by_its_file_or_by_its_id_in_one_folder(tmp_path: Path) -> None:
    folder, other = tmp_path / "images", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (tmp_path / "link").symlink_to(folder)
    train = _set(one=folder / "1.jpg", two=folder / "2.jpg", three=folder / "3.jpg", four=folder / "4.jpg")
    val = _set(
        renamed=tmp_path / "link" / "2.jpg",  # the same file, over a link to its folder and under another id
        three=folder / "3.png",  # the same id in the same folder
        one=other / "1.jpg",  # the same id and file name, but elsewhere
    )
    assert shared_images(train, val).tolist() == [1, 2]
    assert shared_images(val, train).tolist() == [0, 1]
    assert shared_images(train, train).tolist() == [0, 1, 2, 3]


def test_a_sentence_warns_of_shared_images_and_names_three(tmp_path: Path) -> None:
    train = _set(**{f"i{number}": tmp_path / f"{number}.jpg" for number in range(5)})
    assert overlap_sentence(train, _set(new=tmp_path / "new.jpg")) == ""
    one = overlap_sentence(train, _set(i4=tmp_path / "4.jpg"))
    assert one.startswith("1 image of the training set is in the validation set too (i4):")
    assert overlap_sentence(train, train).startswith("5 images of the training set are in") and "i2, ...)" in (
        overlap_sentence(train, train)
    )
