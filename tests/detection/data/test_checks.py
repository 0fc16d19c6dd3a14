"""How faults are told."""

import pytest

from detection.data.checks import Fault, report, require_clean
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
