"""Sets of one class an image: which are taken, what is left out and what is said."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.config import Config, DataSettings
from detection.data import read_annotations
from detection.errors import UserError
from detection.localization.single import image_labels, read_sets, single_class, with_targets


def _write(root: Path, sets: dict[str, dict[str, Sequence[str]]]) -> Path:
    """A set in VOC layout: the class names of the objects of each image."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    corners = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>12</ymax></bndbox>"
    for spec, images in sets.items():
        (root / "ImageSets" / "Main" / f"{spec}.txt").write_text("\n".join(images) + "\n")
        for name, classes in images.items():
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.png"), np.zeros((20, 30, 3), np.uint8))
            objects = "".join(f"<object><name>{label}</name>{corners}</object>" for label in classes)
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


def _config(root: Path, **settings: object) -> Config:
    return Config(data=DataSettings(root=str(root), train="train", val="val", **settings))


SETS = {
    "train": {"a": ["cat", "cat"], "b": [], "c": ["dog"]},
    "val": {"d": ["dog"], "e": [], "f": ["bird", "bird", "bird"]},
}
MIXED = {
    "train": {"a": ["cat"], "b": ["dog", "dog", "cat", "dog"], "c": ["dog", "bird", "cat"], "d": ["bird"]},
    "val": {"e": ["dog"]},
}


def test_the_label_of_each_image(tmp_path: Path) -> None:
    data = _config(_write(tmp_path, SETS)).data
    val = read_annotations(data, "val")
    assert val.class_names == ("bird", "cat", "dog")
    assert image_labels(val).tolist() == [3, 0, 1] and image_labels(val).dtype == np.int64
    assert single_class(val, data, "val") is val


def test_images_without_a_box_are_not_trained_on_but_kept_to_score(tmp_path: Path) -> None:
    config = _config(_write(tmp_path, SETS))
    read, val = read_sets(config)
    train = with_targets(read, config.data)
    assert read.image_ids.tolist() == ["a", "b", "c"]
    assert train.image_ids.tolist() == ["a", "c"] and image_labels(train).tolist() == [2, 3]
    assert val.image_ids.tolist() == ["d", "e", "f"] and train.class_names == val.class_names


def test_an_image_of_two_classes_is_refused(tmp_path: Path) -> None:
    message = "train: image b: two classes, dog and cat, where localization takes one; choose classes with"
    with pytest.raises(UserError, match=message):
        read_sets(_config(_write(tmp_path, MIXED)))


def test_an_image_of_two_classes_is_left_out(tmp_path: Path) -> None:
    train, val = read_sets(_config(_write(tmp_path, MIXED), on_error="drop"))
    assert train.image_ids.tolist() == ["a", "d"] and image_labels(train).tolist() == [2, 1]
    assert [str(fault) for fault in train.dropped] == [
        "train: image b: two classes, dog and cat",
        "train: image c: two classes, dog and bird",
    ]
    assert train.left_out == {"b", "c"} and len(val) == 1


def test_chosen_classes_make_other_objects_harmless(tmp_path: Path) -> None:
    config = _config(_write(tmp_path, MIXED), classes=("dog",))
    train = with_targets(read_sets(config)[0], config.data)
    assert train.image_ids.tolist() == ["b", "c"] and image_labels(train).tolist() == [1, 1]
    assert np.diff(train.offsets).tolist() == [3, 1]


def test_a_training_set_without_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train has no box to learn from; name another set by --data.train"):
        read_sets(_config(_write(tmp_path, {"train": {"a": []}, "val": {"b": ["dog"]}})))


def test_the_real_sample_holds_one_class_an_image(shared_data: Path) -> None:
    root = str(shared_data / "ILSVRC")
    train, val = read_sets(Config(data=DataSettings(format="ilsvrc", root=root, train="val", val="val")))
    assert len(train) == len(val) == 40 and image_labels(val)[:2].tolist() == [66, 971]
