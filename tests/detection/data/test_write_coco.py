"""COCO files that are written, against what the reader makes of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.coco import read_coco
from detection.data.dataset import Annotations, concatenate, without_objects
from detection.data.voc import read_voc
from detection.data.write_coco import write_coco
from detection.errors import UserError

KEPT = ("image_ids", "sizes", "offsets", "boxes", "labels", "ignore", "areas")


def _assert_read_back(annotations: Annotations, file: Path) -> None:
    read = read_coco(file.parent, write_coco(file, annotations))
    assert read.class_names == annotations.class_names
    assert read.own_category_ids() == annotations.own_category_ids() and read.annotated == annotations.annotated
    for name in KEPT:
        np.testing.assert_array_equal(getattr(read, name), getattr(annotations, name), err_msg=name)
    for one, two in zip(read.image_paths, annotations.image_paths, strict=True):
        assert Path(one).resolve() == Path(two).resolve()


def test_voc_comes_back_as_it_was(tiny_data: Path, tmp_path: Path) -> None:
    annotations = read_voc(tiny_data, "train+val")
    _assert_read_back(replace(annotations, ignore=np.arange(len(annotations.boxes)) % 3 == 0), tmp_path / "all.json")
    images = json.loads((tmp_path / "all.json").read_text())["images"]
    assert images[1]["id"] == "000001" and images[1]["file_name"] == "000001.jpg"


def test_a_set_without_annotations_comes_back_without(tiny_data: Path, tmp_path: Path) -> None:
    annotations = read_voc(tiny_data, "unlabelled", ("circle",))
    _assert_read_back(annotations, tmp_path / "unlabelled.json")
    assert "annotations" not in json.loads((tmp_path / "unlabelled.json").read_text())


def test_coco_comes_back_as_it_was(shared_data: Path, tmp_path: Path) -> None:
    for name in ("train2017", "val2017"):
        annotations = read_coco(shared_data / "coco", name)
        _assert_read_back(annotations, tmp_path / f"{name}.json")
        written = json.loads((tmp_path / f"{name}.json").read_text())
        image = written["images"][0]
        assert image["id"] == int(image["file_name"].removesuffix(".jpg"))
        source = json.loads((shared_data / "coco" / "annotations" / f"instances_{name}.json").read_text())
        objects = sorted(source["annotations"], key=lambda item: item["image_id"])
        for key in ("image_id", "category_id", "bbox", "area", "iscrowd"):
            assert [item[key] for item in written["annotations"]] == [item[key] for item in objects]


def test_overhang_comes_back_too(tiny_data: Path, tmp_path: Path) -> None:
    annotations = read_voc(tiny_data, "train")
    _assert_read_back(replace(annotations, boxes=annotations.boxes + [-0.75, 0, 0, 0.5]), tmp_path / "all.json")


def test_paths_that_cannot_be_told_from_a_union_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a+b=c").mkdir()
    annotations = without_objects(["one"], ["1"], [str(tmp_path / "a+b=c" / "x.jpg")], np.full((1, 2), 5))
    Image.new("RGB", (5, 5)).save(tmp_path / "a+b=c" / "x.jpg")
    assert len(read_coco("", write_coco(tmp_path / "d.txt", annotations))) == 1
    for name in ("d=e.json", "d.json+e.json"):
        with pytest.raises(UserError, match="would be taken for other paths because of a = or \\+ in it; rename"):
            write_coco(tmp_path / name, annotations)
        assert not (tmp_path / name).exists()


def test_voc_folders_are_told_apart(shared_data: Path, tmp_path: Path) -> None:
    annotations = read_voc(shared_data / "VOCdevkit", "2007/trainval")
    _assert_read_back(annotations, tmp_path / "trainval.json")
    assert annotations.ignore.sum() == 195


def test_images_are_chosen_and_named_from_the_folder_that_holds_them_all(tmp_path: Path) -> None:
    files = [str(tmp_path / "a" / "x.jpg"), str(tmp_path / "b" / "c" / "y.jpg"), str(tmp_path / "z.jpg")]
    annotations = without_objects(["one"], ["1", "2", "3"], files, np.full((3, 2), 5))
    assert (
        write_coco(tmp_path / "o.json", annotations, np.array([True, True, False]))
        == f"{tmp_path}={tmp_path / 'o.json'}"
    )
    content = json.loads((tmp_path / "o.json").read_text())
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [(1, "a/x.jpg"), (2, "b/c/y.jpg")]


def test_no_image_and_equal_ids_are_refused(tmp_path: Path) -> None:
    annotations = without_objects(["one"], ["1", "2"], ["x.jpg", "y.jpg"], np.full((2, 2), 5))
    with pytest.raises(UserError, match="no image is left"):
        write_coco(tmp_path / "o.json", annotations, np.zeros(2, bool))
    with pytest.raises(UserError, match="two images have the id 1; "):
        write_coco(tmp_path / "o.json", concatenate([annotations, annotations]))
    assert list(tmp_path.iterdir()) == []
