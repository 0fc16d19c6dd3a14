"""Reading VOC layout: conversions, unions, class names, and every kind of fault."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from detection.config import VOC_CLASSES, DataSettings
from detection.data import class_names, read_annotations
from detection.data.coco import read_coco
from detection.data.dataset import read_size
from detection.data.voc import find_classes, read_voc
from detection.errors import UserError

Writer = Callable[..., Path]
Object = Callable[..., str]


def test_devkit_with_a_union_of_years(tmp_path: Path, write_set: Writer, xml_object: Object) -> None:
    write_set(tmp_path / "VOC2007", {"000001": [xml_object("dog", 1, 2, 30, 40, difficult=1)], "000002": []})
    write_set(tmp_path / "VOC2012", {"2008_000001": [xml_object("cat", 2.5, 3, 9.25, 10, difficult=0)]})
    data = read_voc(tmp_path, "2007/train+2012/train")
    assert data.class_names == VOC_CLASSES and data.annotated and data.dropped == ()
    assert data.image_ids.tolist() == ["000001", "000002", "2008_000001"]
    assert data.offsets.tolist() == [0, 1, 1, 2]
    assert data.boxes.tolist() == [[0, 1, 30, 40], [1.5, 2, 9.25, 10]]
    assert data.labels.tolist() == [12, 8] and data.ignore.tolist() == [True, False]
    assert data.areas.tolist() == [30 * 39, 7.75 * 8] and data.sizes.tolist() == [[40, 60]] * 3
    kinds = {
        name: getattr(data, name).dtype.name for name in ("sizes", "offsets", "boxes", "labels", "ignore", "areas")
    }
    assert list(kinds.values()) == ["int32", "int64", "float64", "int64", "bool", "float64"]


def test_only_the_objects_own_box_counts(tmp_path: Path, write_set: Writer) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    box = "<bndbox><ymax>40</ymax><xmax>30</xmax><ymin>20</ymin><xmin>10</xmin></bndbox>"
    write_set(tmp_path, {"a": [f"<object>{part}<name>person</name>{box}</object>"]})
    data = read_voc(tmp_path, "train")
    assert data.boxes.tolist() == [[9, 19, 30, 40]] and data.class_names[data.labels[0] - 1] == "person"


def test_a_missing_size_is_read_from_the_image(tmp_path: Path, write_set: Writer, xml_object: Object) -> None:
    write_set(tmp_path, {"a": [xml_object("x", 1, 1, 60, 40)], "b": []})
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation>{xml_object('x', 1, 1, 60, 40)}</annotation>")
    (tmp_path / "Annotations" / "b.xml").write_text(
        "<annotation><size><width>0</width><height>0</height></size></annotation>"
    )
    assert read_voc(tmp_path, "train").sizes.tolist() == [[40, 60], [40, 60]]


def test_the_size_is_the_images_own_and_the_xml_must_agree(
    tmp_path: Path, write_set: Writer, xml_object: Object
) -> None:
    sizes = {"a": (40, 60), "b": (60, 40), "c": (41, 61)}
    folder = write_set(tmp_path / "set", {name: [xml_object("x", 1, 1, 9, 9)] for name in sizes}, sizes=sizes)
    text = (folder / "Annotations" / "b.xml").read_text()
    (folder / "Annotations" / "b.xml").write_text(text.replace("<width>40", "<width>60").replace("t>60", "t>40"))
    data = read_voc(folder, "train", on_error="drop")
    assert data.image_ids.tolist() == ["a", "c"] and data.sizes.tolist() == [[40, 60], [41, 61]]
    assert len(data.boxes) == 2 and data.offsets.tolist() == [0, 1, 2]
    reason = "size says 60 x 40 pixels, but JPEGImages/b.jpg has 40 x 60"
    assert [str(fault) for fault in data.dropped] == [f"set/Annotations/b.xml: {reason}"]
    assert data.dropped[0].object == ""  # the image is left out, not an object
    with pytest.raises(UserError, match=reason):
        read_voc(folder, "train")


def test_an_image_that_cannot_be_opened_is_a_fault_whatever_pillow_raises(
    tmp_path: Path, write_set: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"good": (8, 8), "empty": (8, 8), "huge": (8, 40)}
    folder = write_set(tmp_path / "set", {name: [] for name in sizes}, sizes=sizes)
    (folder / "JPEGImages" / "empty.jpg").write_bytes(b"")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # twice as many are taken for a decompression bomb
    data = read_voc(folder, "train", ["x"], on_error="drop")
    assert data.image_ids.tolist() == ["good"]
    empty, huge = map(str, data.dropped)
    assert empty == "set/JPEGImages/empty.jpg: unreadable image (not an image)"
    assert huge.startswith("set/JPEGImages/huge.jpg: unreadable image (Image size (320 pixels) exceeds limit")
    for error in (SyntaxError("broken header"), ValueError("negative offset")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Image, "open", fail)
        dropped = read_voc(folder, "train", ["x"], on_error="drop").dropped
        assert [fault.reason for fault in dropped] == [f"unreadable image ({error})"] * 3


def test_class_names_agree_between_training_and_validation(
    tmp_path: Path, write_set: Writer, xml_object: Object
) -> None:
    images = {"1": [xml_object("zebra", 1, 1, 9, 9)], "2": [xml_object("ape", 1, 1, 9, 9)]}
    write_set(tmp_path, images, {"train": ["1"], "val": ["2"]})
    settings = DataSettings(root=str(tmp_path), train="train", val="val")
    for sets, label in (("train", 2), ("val", 1)):
        data = read_annotations(settings, sets)
        assert data.class_names == ("ape", "zebra") and data.labels.tolist() == [label]
    assert class_names(settings) == ("ape", "zebra")
    assert read_voc(tmp_path, "train").class_names == ("zebra",)
    given = DataSettings(root=str(tmp_path), train="train", val="val", classes=("zebra", "ape"))
    assert read_annotations(given, "train").labels.tolist() == [1]


def test_only_names_that_are_found_count_and_those_of_voc_keep_its_order(
    tmp_path: Path, write_set: Writer, xml_object: Object
) -> None:
    objects = [xml_object(name, 1, 1, 9, 9) for name in ("tvmonitor", "person", "pottedplant")]
    write_set(tmp_path, {"1": objects})
    assert find_classes(tmp_path, ["train"]) == ("person", "pottedplant", "tvmonitor")
    assert read_voc(tmp_path, "train").labels.tolist() == [3, 1, 2]
    write_set(tmp_path, {"1": [*objects, xml_object("pen", 1, 1, 9, 9)]})
    assert find_classes(tmp_path, ["train"]) == ("pen", "person", "pottedplant", "tvmonitor")
    write_set(tmp_path / "VOC2007", {"1": objects})
    assert find_classes(tmp_path, ["2007/train"]) == VOC_CLASSES
    write_set(tmp_path, {"1": []})
    with pytest.raises(UserError, match="--data.classes"):
        find_classes(tmp_path, ["train"])


def test_a_set_without_annotations_has_sizes_only(tmp_path: Path, write_set: Writer) -> None:
    folder = write_set(tmp_path / "VOC2012", {"a": [], "b": []}, {"test": ["a", "b"], "train": ["a"]})
    (folder / "Annotations" / "a.xml").unlink()
    (folder / "Annotations" / "b.xml").unlink()
    data = read_voc(tmp_path, "2012/test")
    assert not data.annotated and data.sizes.tolist() == [[40, 60]] * 2 and data.boxes.shape == (0, 4)


def test_names_with_blanks_and_lists_of_a_class(tmp_path: Path, write_set: Writer) -> None:
    names = ["shown", "hard", "absent", "my image 1", "my dog", "my dog -1", "x 2"]
    write_set(tmp_path, {name: [] for name in names})
    lines = "shown  1\nhard\t0\n absent -1\nmy image 1 \nmy dog\nmy dog -1\nx 2\n"
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(lines)
    data = read_voc(tmp_path, "train", ["x"])
    assert data.image_ids.tolist() == ["shown", "hard", "my image 1", "my dog", "my dog -1", "x 2"]


def test_a_set_file_in_another_encoding_is_named(tmp_path: Path, write_set: Writer) -> None:
    write_set(tmp_path, {"a": []})
    file = tmp_path / "ImageSets" / "Main" / "train.txt"
    for encoding in ("latin-1", "utf-16"):
        file.write_bytes("Bär\n".encode(encoding))
        with pytest.raises(UserError, match=r"Main/train\.txt: is not UTF-8 text; save it as UTF-8$"):
            read_voc(tmp_path, "train")
    file.write_bytes(b"\xef\xbb\xbfa\n")  # with the mark that some editors put first
    assert read_voc(tmp_path, "train", ["x"]).image_ids.tolist() == ["a"]


def test_an_image_is_named_once(tmp_path: Path, write_set: Writer) -> None:
    sets = {"train": ["a", "b"], "val": ["c"], "trainval": ["c", "a", "b"], "twice": ["a", "b", "a"]}
    for year in ("2007", "2012"):
        write_set(tmp_path / f"VOC{year}", {name: [] for name in "abc"}, sets)
    for union, image, files in (
        ("2007/train+2007/train", "a", ("train", "train")),
        ("2007/trainval+2007/val", "c", ("val", "trainval")),
        ("2007/val+2012/train+2012/trainval", "a", ("trainval", "train")),
    ):
        with pytest.raises(UserError, match=r"{1}\.txt: names image {0}, which .*{2}\.txt has".format(image, *files)):
            read_voc(tmp_path, union, ["x"])
    assert len(read_voc(tmp_path, "2007/train+2012/train+2007/val")) == 5  # years may use a name again
    with pytest.raises(UserError, match=r"VOC2007/ImageSets/Main/twice\.txt: names image a 2 times"):
        read_voc(tmp_path, "2007/twice")
    assert read_voc(tmp_path, "2007/twice", on_error="drop").image_ids.tolist() == ["a", "b"]


def test_other_suffixes(tmp_path: Path, write_set: Writer) -> None:
    write_set(tmp_path, {"a": [], "b": [], "c": []})
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "JPEGImages" / "a.JPG")
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / "b.png")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\r\nb\r\n\r\n")
    data = read_voc(tmp_path, "train", ["x"])
    assert [Path(path).name for path in data.image_paths] == ["a.JPG", "b.png"] and data.image_ids.tolist() == [
        "a",
        "b",
    ]


FAULTS = [
    (("dog", 12, 5, 12, 9), "object 2 (dog): xmax 12 <= xmin 12"),
    (("dog", 5, 9, 9, 8), "object 2 (dog): ymax 8 <= ymin 9"),
    (("dog", "x", 5, 9, 9), "object 2 (dog): xmin x is not a number"),
    (("dog", "", 5, 9, 9), "object 2 (dog): xmin is missing"),
    (("dog", 1, "nan", 9, 9), "object 2 (dog): ymin is nan"),
    (("dog", 1, 1, "inf", 9), "object 2 (dog): xmax is inf"),
    (("dog", -0.5, 1, 9, 9), "object 2 (dog): xmin -0.5 is more than one pixel left of the image"),
    (("dog", 1, -1, 9, 9), "object 2 (dog): ymin -1 is more than one pixel above the image"),
    (("dog", 1, 1, 62, 9), "object 2 (dog): xmax 62 is more than one pixel right of the image (60 columns)"),
    (("dog", 1, 1, 9, 41.5), "object 2 (dog): ymax 41.5 is more than one pixel below the image (40 rows)"),
    (("", 1, 1, 9, 9), "object 2: name is missing"),
]


@pytest.mark.parametrize(("values", "expected"), FAULTS)
def test_each_fault_of_an_object_is_found(
    values: tuple, expected: str, tmp_path: Path, write_set: Writer, xml_object: Object
) -> None:
    folder = write_set(tmp_path / "set", {"a": [xml_object("dog", 1, 1, 9, 9), xml_object(*values)], "b": []})
    with pytest.raises(UserError) as error:
        read_voc(folder, "train", ["dog"])
    assert str(error.value).splitlines()[1:] == [f"  set/Annotations/a.xml: {expected}"]
    data = read_voc(folder, "train", ["dog"], on_error="drop")
    assert len(data) == 2 and data.boxes.tolist() == [[0, 0, 9, 9]] and len(data.dropped) == 1


def test_overhang_of_one_pixel_is_kept_as_in_the_file(tmp_path: Path, write_set: Writer, xml_object: Object) -> None:
    write_set(tmp_path, {"a": [xml_object("dog", 0, 0, 61, 41), xml_object("dog", 1, 1, 60, 40)]})
    data = read_voc(tmp_path, "train")
    assert data.boxes.tolist() == [[-1, -1, 61, 41], [0, 0, 60, 40]] and data.areas.tolist() == [62 * 42, 60 * 40]
    assert data.cut_boxes().tolist() == [[0, 0, 60, 40]] * 2


def test_chosen_classes_leave_the_others_out_and_vocs_20_are_no_choice(
    tmp_path: Path, write_set: Writer, xml_object: Object
) -> None:
    objects = [xml_object("dog", 1, 1, 9, 9), xml_object("cow", 0, 0, 0, 0), xml_object("cat", 2, 2, 9, 9)]
    folder = write_set(tmp_path / "set", {"a": objects, "b": objects[1:2]})
    data = read_voc(folder, "train", ["cat", "dog"])
    assert data.labels.tolist() == [2, 1] and data.offsets.tolist() == [0, 2, 2] and data.dropped == ()
    with pytest.raises(UserError, match=r"set: train has no object that is called dgo; its names are cat, cow, dog "):
        read_voc(folder, "train", ["dgo"])
    write_set(tmp_path / "VOC2007", {"a": [xml_object("dgo", 1, 1, 9, 9)]})
    for classes in ((), VOC_CLASSES, tuple(reversed(VOC_CLASSES))):
        with pytest.raises(UserError, match=r"object 1 \(dgo\): class dgo is not among the class names"):
            read_voc(tmp_path, "2007/train", classes)


def test_scores_need_no_pictures(tmp_path: Path, write_set: Writer, xml_object: Object) -> None:
    """The size is the XML's; without one that of the picture if it is there, and otherwise not known."""
    names = ("said", "seen", "unknown", "bad")
    write_set(tmp_path, {name: [xml_object("x", 1, 1, 61, 41)] for name in names})
    for name in ("seen", "unknown"):
        xml = xml_object("x", 1, 1, 61, 41 if name == "seen" else 900)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"<annotation>{xml}</annotation>")
    (tmp_path / "Annotations" / "bad.xml").write_text("<annotation>")
    for name in ("said", "unknown", "bad"):
        (tmp_path / "JPEGImages" / f"{name}.jpg").unlink()
    data = read_voc(tmp_path, "train", on_error="drop", pictures=False)
    assert data.image_ids.tolist() == ["said", "seen", "unknown"] and data.left_out == {"bad"}
    assert data.sizes.tolist() == [[40, 60], [40, 60], [0, 0]] and data.boxes[:, 3].tolist() == [41, 41, 900]
    assert data.image_paths[0] == str(tmp_path / "JPEGImages" / "said.jpg")
    with_pictures = read_voc(tmp_path, "train", on_error="drop")
    assert with_pictures.image_ids.tolist() == ["seen"] and with_pictures.left_out == {"said", "unknown", "bad"}
    (tmp_path / "JPEGImages" / "seen.jpg").unlink()
    (tmp_path / "JPEGImages").rmdir()
    settings = DataSettings(root=str(tmp_path), train="train", val="train", on_error="drop")
    assert len(read_annotations(settings, "train", pictures=False)) == 3
    with pytest.raises(UserError, match="no folder JPEGImages"):
        read_annotations(settings, "train")


def test_unusable_images_are_told_together_and_left_out(tmp_path: Path, write_set: Writer, xml_object: Object) -> None:
    names = ["good", "lost", "bare", "torn", "bomb", "codec", "bad"]
    folder = write_set(tmp_path / "set", {name: [xml_object("dog", 1, 1, 9, 9)] for name in names})
    (folder / "JPEGImages" / "lost.jpg").unlink()
    (folder / "Annotations" / "bare.xml").unlink()
    (folder / "Annotations" / "torn.xml").write_text("<annotation><object>")
    bomb = '<!DOCTYPE x [<!ENTITY e "eeee">]><annotation><object><name>&e;</name></object></annotation>'
    (folder / "Annotations" / "bomb.xml").write_text(bomb)
    (folder / "Annotations" / "codec.xml").write_text('<?xml version="1.0" encoding="nonsense"?><annotation/>')
    (folder / "Annotations" / "bad.xml").write_text("<annotation/>")
    (folder / "JPEGImages" / "bad.jpg").write_text("no image")
    with pytest.raises(UserError) as error:
        read_voc(folder, "train")
    lines = str(error.value).splitlines()[1:]
    starts = [
        "JPEGImages/lost.jpg: no such image",
        "Annotations/bare.xml: no such file",
        "Annotations/torn.xml: unreadable",
    ]
    starts += [
        "Annotations/bomb.xml: unreadable",
        "Annotations/codec.xml: unreadable",
        "JPEGImages/bad.jpg: unreadable",
    ]
    assert len(lines) == 6
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(f"  set/{start}")
    data = read_voc(folder, "train", on_error="drop")
    assert data.image_ids.tolist() == ["good"] and len(data.dropped) == 6


def test_everything_left_out_leaves_an_empty_set(tmp_path: Path, write_set: Writer) -> None:
    write_set(tmp_path, {"a": []})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    data = read_voc(tmp_path, "train", ["dog"], on_error="drop")
    assert len(data) == 0 and data.boxes.shape == (0, 4) and data.sizes.shape == (0, 2) and data.offsets.tolist() == [0]


def test_what_is_missing_is_said(tmp_path: Path, write_set: Writer) -> None:
    write_set(tmp_path / "up" / "VOCdevkit" / "VOC2007", {"a": []}, {"train": ["a"], "dog_train": ["a"], "none": []})
    devkit = tmp_path / "up" / "VOCdevkit"
    with pytest.raises(UserError, match="no such folder.*VOC2007/ImageSets/Main/train.txt.*host.robots.ox.ac.uk"):
        read_voc(tmp_path / "nowhere", "2007/train")
    with pytest.raises(UserError, match=r"no set 2007/test .*the sets there are 2007/none, 2007/train;"):
        read_voc(devkit, "2007/train+2007/test")
    with pytest.raises(UserError, match="try --data.root .*VOCdevkit"):
        read_voc(tmp_path / "up", "2007/train")
    with pytest.raises(UserError, match="names no image"):
        read_voc(devkit, "2007/none")
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").write_text("{}")
    with pytest.raises(UserError, match="holds COCO files, not VOC data .*--data.format coco$"):
        read_voc(tmp_path / "coco", "train")
    with pytest.raises(UserError, match="holds VOC data, not COCO files .*--data.format voc$"):
        read_coco(devkit, "train")
    with pytest.raises(UserError, match="no set is there at all"):
        read_annotations(DataSettings(root=str(tmp_path), train="train", val="val"), "train")


def test_importing_the_package_is_light() -> None:
    code = "import sys, detection.data; print([name in sys.modules for name in ('torch', 'albumentations')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"


def test_real_voc_images(shared_data: Path) -> None:
    root = shared_data / "VOCdevkit"
    train, val = read_voc(root, "2007/train"), read_voc(root, "2007/val")
    both = read_voc(root, "2007/train+2007/val")
    assert (len(train), len(val), len(both)) == (150, 80, 230)
    assert both.sizes.tolist() == [list(read_size(path)) for path in both.image_paths]
    assert set(train.labels) == set(val.labels) == set(range(1, 21)) and both.ignore.any()
    # Counted by another way of reading: every object element of every file.
    files = [ElementTree.parse(file).getroot() for file in sorted((root / "VOC2007" / "Annotations").glob("*.xml"))]
    assert len(both.boxes) == sum(len(tree.findall("object")) for tree in files)
    assert both.ignore.sum() == sum(tree.findtext("difficult") == "1" for file in files for tree in file.iter("object"))


def test_real_custom_set_with_two_bad_boxes(shared_data: Path) -> None:
    data = read_voc(shared_data / "BCCD", "train+val+test", on_error="drop")
    counts = dict(zip(data.class_names, np.bincount(data.labels)[1:].tolist(), strict=True))
    bad = [str(fault) for fault in data.dropped]
    assert len(data) == 364 and counts == {"Platelets": 361, "RBC": 4155 - 2, "WBC": 372}
    assert len(bad) == 2 and all("xmax" in fault and "(RBC)" in fault for fault in bad)
    with pytest.raises(UserError, match="2 faults"):
        read_voc(shared_data / "BCCD", "train+val+test")
