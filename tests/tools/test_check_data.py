"""The data check as a user runs it: what it finds in sound and in broken data, its files and exit statuses."""

import json
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from detection.data.coco import read_coco
from detection.data.voc import read_voc

TOOL = Path(__file__).parents[2] / "tools" / "check_data.py"
RECIPE = str(TOOL.parents[1] / "configs" / "voc0712_resnet101_fpn.yaml")


class Ended(NamedTuple):
    """How the tool ended, and what it wrote with --json."""

    status: int
    out: str
    err: str
    record: dict[str, Any]


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """Runs the tool on a data set in this process."""

    def run(root: Path, train: str, val: str, *words: object) -> Ended:
        file = tmp_path / "record.json"
        argv = ["--data.root", root, "--data.train", train, "--data.val", val, "--json", file, *words]
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, argv)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOL), run_name="__main__")
        record = json.loads(file.read_text()) if file.exists() else {}
        return Ended(end.value.code, *capsys.readouterr(), record)

    return run


def _faults(record: dict[str, Any], role: str) -> dict[str, str]:
    return {f"{fault['file']} {fault['object']}".strip(): fault["reason"] for fault in record[role]["faults"]}


def _notes(record: dict[str, Any], role: str) -> dict[str, list[str]]:
    return {note["what"].partition(" (")[0]: note["where"] for note in record[role]["notes"]}


def test_the_two_bad_boxes_of_bccd_are_found_and_left_out(check, shared_data: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean.json"
    ended = check(shared_data / "BCCD", "train", "val+test", "--write_clean", clean)
    assert ended.status == 1
    assert ended.out.rstrip().endswith("2 faults and no notes in 364 images with 4,886 objects")
    assert _faults(ended.record, "train") == {
        "BCCD/Annotations/BloodImage_00343.xml object 4 (RBC)": "xmax 181 <= xmin 181, ymax 329 <= ymin 329"
    }
    assert _faults(ended.record, "val") == {
        "BCCD/Annotations/BloodImage_00338.xml object 13 (RBC)": "xmax 504 <= xmin 504, ymax 337 <= ymin 337"
    }
    counts = {
        name: sum(ended.record[role]["classes"][name]["objects"] for role in ("train", "val"))
        for name in ("RBC", "WBC", "Platelets")
    }
    assert counts == {"RBC": 4155 - 2, "WBC": 372, "Platelets": 361}
    read, clean_set = read_voc(shared_data / "BCCD", "train", on_error="drop"), f"{shared_data}/BCCD/JPEGImages={clean}"
    np.testing.assert_array_equal(read_coco(tmp_path, clean_set).boxes, read.boxes)


def test_other_samples_have_no_fault(check, shared_data: Path) -> None:
    voc = check(shared_data / "VOCdevkit", "2007/train", "2007/val", "--config", RECIPE)
    assert voc.status == 0 and voc.record["faults"] == 0
    assert (voc.record["train"]["images"], voc.record["val"]["images"]) == (150, 80)
    assert voc.record["train"]["resized_to"] == [640, 1333] and voc.record["val"]["resized_to"] == [800, 1333]
    coco = check(shared_data / "coco", "train2017", "val2017", "--data.format", "coco")
    assert coco.status == 0 and coco.record["faults"] == 0
    assert [coco.record[role]["objects"] for role in ("train", "val")] == [368, 550]
    assert [coco.record[role]["ignored_objects"] for role in ("train", "val")] == [6, 11]
    unused = [len(_notes(coco.record, role)["classes without objects"]) for role in ("train", "val")]
    assert unused == [80 - 61, 80 - 63]


@pytest.fixture
def broken(tiny_data: Path, tmp_path: Path) -> Path:
    """A COCO data set with one fault or oddity of each kind; see the tests for what is what."""
    root = tmp_path / "set"
    shutil.copytree(tiny_data / "JPEGImages", root / "images")
    images = root / "images"
    (images / "000001.jpg").write_bytes((images / "000001.jpg").read_bytes()[:-600])
    Image.open(images / "000002.jpg").convert("L").save(images / "000002.jpg")
    Image.fromarray(np.zeros((128, 160), np.uint16)).save(images / "000004.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / "000005.jpg").save(images / "000005.jpg", exif=exif)
    shutil.copy(images / "000006.jpg", images / "000007.jpg")
    shutil.copy(images / "000006.jpg", images / "000009.jpg")
    sizes = {0: (128, 128), 1: (160, 128), 2: (128, 160), 3: (100, 128), 4: (160, 128), 5: (128, 160)}
    sizes |= {6: (128, 128), 7: (128, 128), 8: (128, 160), 9: (128, 128)}
    box, thin = [10.25, 10.5, 40.125, 50.75], [5, 5, 0.5, 60]
    objects = [(0, box), (0, box), (2, box), (2, thin), (3, box), (5, box), (6, [10, 10, 0, 20]), (7, box), (8, box)]
    for name, chosen in (("train", range(8)), ("val", (0, 8, 9))):
        listed = [
            {"id": i, "file_name": f"{i:06d}.{'png' if i == 4 else 'jpg'}", "width": sizes[i][0], "height": sizes[i][1]}
            for i in chosen
        ]
        rows = [(i, values) for i, values in objects if i in chosen]
        annotations = [
            {"id": n, "image_id": i, "category_id": 7, "bbox": values, "area": values[2] * values[3], "iscrowd": 0}
            for n, (i, values) in enumerate(rows)
        ]
        categories = [{"id": 7, "name": "thing"}, {"id": 9, "name": "[bold]other"}]
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


SETS = ("images=train.json", "images=val.json", "--data.format", "coco")


def test_every_kind_of_fault_is_found(check, broken: Path, tmp_path: Path) -> None:
    ended = check(broken, *SETS)
    assert ended.status == 1 and ended.record["faults"] == 5
    faults = _faults(ended.record, "train")
    assert faults.pop("images/000001.jpg").startswith("unreadable image (image file is truncated")
    assert faults.pop("images/000003.jpg") == "the annotations say 100 x 128 pixels, but the image has 128 x 128"
    assert faults.pop("images/000004.png") == "more than 8 bits per channel; save the image with 8"
    assert faults.pop("images/000000.jpg") == "is in the validation set images=val.json too"
    assert list(faults.values()) == ["bbox [10, 10, 0, 20] has width 0"]
    assert ended.record["val"]["faults"] == []
    assert "train: images/000003.jpg: the annotations say 100 x 128 pixels" in ended.out


def test_every_kind_of_note_is_told(check, broken: Path) -> None:
    ended = check(broken, *SETS)
    train, val = _notes(ended.record, "train"), _notes(ended.record, "val")
    assert train == {
        "grey pictures": ["images/000002.jpg"],
        "pictures with EXIF rotation": ["images/000005.jpg"],
        "pictures that copy another": ["images/000007.jpg = images/000006.jpg"],
        "images without objects": ["images/000001.jpg", "images/000004.png", "images/000006.jpg"],
        "classes without objects": ["[bold]other"],
        "repeated boxes": ["0: thing at 10.25, 10.5, 50.375, 61.25"],
        "tiny boxes": ["2: thing at 5, 5, 5.5, 65"],
    }
    assert val.pop("pictures that copy one of the training set") == ["images/000009.jpg = images/000006.jpg"]
    assert set(val) == {"images without objects", "classes without objects", "repeated boxes"}
    assert "[bold]other" in ended.out


def test_the_clean_file_has_no_fault(check, broken: Path, tmp_path: Path) -> None:
    clean, val = tmp_path / "clean.json", tmp_path / "val.json"
    ended = check(broken, *SETS, "--write_clean", clean)
    assert f"--data.format coco --data.train {broken / 'images'}={clean}" in ended.out
    assert check(broken, *SETS, "--write_clean", val, "--clean_set", "val").status == 1
    again = check(broken, f"images={clean}", f"images={val}", "--data.format", "coco")
    assert again.status == 0 and again.record["faults"] == 0
    assert (again.record["train"]["images"], again.record["val"]["images"]) == (4, 3)
    read = read_coco(broken, f"images={clean}")
    assert read.image_ids.tolist() == ["2", "5", "6", "7"] and read.own_category_ids() == (7, 9)
    original = read_coco(broken, "images=train.json", on_error="drop")
    kept = np.isin(original.image_of_object, [2, 5, 6, 7])
    np.testing.assert_array_equal(read.boxes, original.boxes[kept])


def test_a_set_without_annotations_is_checked_too(check, tiny_data: Path) -> None:
    ended = check(tiny_data, "train", "unlabelled")
    assert ended.status == 0 and ended.record["val"]["annotated"] is False and ended.record["val"]["notes"] == []
    assert "val: not annotated, pictures alone are checked" in ended.out


def test_mistakes_end_with_status_2_and_one_sentence(check, tiny_data: Path, tmp_path: Path) -> None:
    missing = check(tiny_data, "nothing", "val")
    assert missing.status == 2 and "no set nothing" in missing.err
    assert check(tiny_data, "train", "val", "--clean_set", "test").status == 2
    pyramid = check(tiny_data, "train", "val", "--model.head", "fpn")
    assert pyramid.status == 2 and "fpn takes 5" in pyramid.err
    told = check(tiny_data, "train", "val", "--write_clean", tmp_path / "a.json+b.json")
    assert told.status == 2 and "because of a = or + in it; rename" in told.err


def test_one_set_for_both_is_one_fault(check, tiny_data: Path, tmp_path: Path) -> None:
    ended = check(tiny_data, "train", "train", "--write_clean", tmp_path / "a+b.json")
    same = "data.train train and data.val train name the same set; name another by --data.val"
    assert ended.status == 1 and ended.record["faults"] == 1 and f"  train: {same}\n" in ended.out
    assert _faults(ended.record, "train") == {"": same}
    spec = ended.out.partition("--data.train ")[2].splitlines()[0]
    assert len(read_coco(tmp_path, spec)) == ended.record["train"]["images"]


def test_help_is_immediate() -> None:
    """It does not import numpy, of which that would be a sign; the limit in seconds is generous to busy machines."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, "-X", "importtime", TOOL, "--help"], capture_output=True, text=True)
    assert time.perf_counter() - start < 5
    assert ended.returncode == 0 and "--write_clean FILE" in ended.stdout
    assert not {"numpy", "torch", "cv2"} & {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
