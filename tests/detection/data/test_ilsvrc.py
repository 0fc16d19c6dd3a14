"""Reading ImageNet's localization data: the real sample, the devkit's ids and blacklist, and every kind of fault."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.config import DataSettings
from detection.data import class_names, read_annotations
from detection.data.dataset import Annotations, concatenate, keep_images, read_image
from detection.errors import UserError
from detection.localization.single import image_labels

MAPPING = "n01 tench, Tinca tinca\nn02 goldfish\nn03 great white shark, white shark\n"


def _settings(root: Path, **settings: object) -> DataSettings:
    return DataSettings(format="ilsvrc", root=str(root), train="train", val="val", **settings)


def _read(root: Path, sets: str = "val", pictures: bool = True, **settings: object) -> Annotations:
    return read_annotations(_settings(root, **settings), sets, pictures)


def _write(root: Path, rows: Mapping[str, str], spec: str = "val", absent: tuple[str, ...] = ()) -> Path:
    """A set of pictures of 40 rows and 60 columns; `rows` holds the prediction string of each image."""
    root.mkdir(exist_ok=True)
    (root / "LOC_synset_mapping.txt").write_text(MAPPING)
    lines = ["ImageId,PredictionString", *(f"{name},{words}" for name, words in rows.items())]
    (root / f"LOC_{spec}_solution.csv").write_text("\n".join(lines) + "\n")
    for name in rows:
        folder = root / "Data" / "CLS-LOC" / spec / (name.split("_")[0] if spec == "train" else "")
        folder.mkdir(parents=True, exist_ok=True)
        if name not in absent:
            Image.new("RGB", (60, 40)).save(folder / f"{name}.JPEG", "JPEG")
    return root


def test_the_real_sample(shared_data: Path) -> None:
    data = _read(shared_data / "ILSVRC")
    assert len(data) == 40 and len(data.class_names) == 1000 and data.category_ids == tuple(range(1, 1001))
    assert data.class_names[0] == "n01440764 tench, Tinca tinca"
    assert data.image_ids[[0, -1]].tolist() == ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000040"]
    # the rows "n01751748 111 108 441 193" and "n09193705 45 49 499 162 n09193705 2 69 437 207"
    assert data.boxes[:3].tolist() == [[111, 108, 442, 194], [45, 49, 500, 163], [2, 69, 438, 208]]
    assert data.areas[0] == 331 * 86 and data.boxes.dtype == np.float64
    # lines 66 and 971 of the mapping
    assert data.labels[:3].tolist() == [66, 971, 971] and data.class_names[65].startswith("n01751748 ")
    assert np.diff(data.offsets)[-2:].tolist() == [3, 5] and data.offsets[-1] == len(data.boxes) == len(data.labels)
    for path, size in zip(data.image_paths, data.sizes, strict=True):
        assert read_image(path).shape == (*size, 3)
    modes = {Image.open(path).mode for path in data.image_paths}
    assert modes == {"L", "RGB"}  # grey ones are read as any other
    assert data.dropped == () and data.left_out == frozenset()


def test_every_number_of_the_sample_against_a_plain_split(shared_data: Path) -> None:
    data = _read(shared_data / "ILSVRC", pictures=False)
    rows = (shared_data / "ILSVRC" / "LOC_val_solution.csv").read_text().splitlines()[1:]
    words = [word for row in rows for word in row.split(",")[1].split()]
    numbers = [[float(word) for word in words[start + 1 : start + 5]] for start in range(0, len(words), 5)]
    assert (data.boxes - [0, 0, 1, 1]).tolist() == numbers
    assert [data.class_names[label - 1].split()[0] for label in data.labels] == words[::5]
    assert not data.sizes.any()


def test_train_lies_in_folders_and_joins_val(tmp_path: Path) -> None:
    _write(tmp_path, {"n02_7": "n02 0 0 0 0 n02 1 2 3 4", "n01_30": "n01 10 10 59 39", "n03_1": ""}, "train")
    _write(tmp_path, {"ILSVRC2012_val_00000002": "n03 5 5 6 6"})
    data = _read(tmp_path, "train+val")
    assert data.image_ids.tolist() == ["n01_30", "n02_7", "n03_1", "ILSVRC2012_val_00000002"]  # by id within a set
    assert data.image_paths[0] == str(tmp_path / "Data/CLS-LOC/train/n01/n01_30.JPEG")
    assert data.boxes.tolist() == [[10, 10, 60, 40], [0, 0, 1, 1], [1, 2, 4, 5], [5, 5, 7, 7]]
    assert data.offsets.tolist() == [0, 1, 3, 3, 4] and data.labels.tolist() == [1, 2, 2, 3]
    assert data.sizes.tolist() == [[40, 60]] * 4 and data.areas.tolist() == [1500, 1, 9, 4]
    with pytest.raises(UserError, match="joins val with itself"):
        _read(tmp_path, "val+val")


def test_chosen_classes_leave_the_others_boxes_out(tmp_path: Path) -> None:
    _write(tmp_path, {"a": "n03 1 1 2 2", "b": "n01 1 1 2 2", "c": "n02 1 1 2 2"})
    chosen = ("n03 great white shark, white shark", "n02 goldfish")
    data = _read(tmp_path, classes=chosen)
    assert data.class_names == chosen and data.category_ids == (3, 2)
    assert data.labels.tolist() == [1, 2] and np.diff(data.offsets).tolist() == [1, 0, 1]
    assert _read(tmp_path, classes=("n03", "n02")).class_names == chosen
    with pytest.raises(UserError, match="LOC_synset_mapping.txt: no class is 'shark'; give --data.classes synsets"):
        _read(tmp_path, classes=("shark",))
    assert class_names(_settings(tmp_path)) == tuple(MAPPING.splitlines())


@pytest.mark.parametrize(
    "text", ["3 n01\n1 n02\n2 n03\n", "n02\nn03\nn01\n", "n02 1 goldfish\nn01 3 tench\n\nn03 2 great_white_shark\n"]
)
def test_the_devkits_ids(tmp_path: Path, text: str) -> None:
    _write(tmp_path / "set", {"a": "n03 1 1 2 2"})
    (tmp_path / "ids.txt").write_text(text)
    data = _read(tmp_path / "set", ids=str(tmp_path / "ids.txt"))
    assert data.category_ids == (3, 1, 2) and data.labels.tolist() == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01\nn9\n", "ids.txt: line 2: 'n9' holds no synset of LOC_synset_mapping.txt"),
        ("1 n01\n1 n02\n", "ids.txt: line 2: synset n02 or id 1 has a line before"),
        ("n01\nn01\n", "ids.txt: line 2: synset n01 or id 2 has a line before"),
        ("n01\n\nn03\n", "ids.txt: has no line for synset n02"),
    ],
)
def test_faulty_ids(tmp_path: Path, text: str, message: str) -> None:
    _write(tmp_path / "set", {"a": "n03 1 1 2 2"})
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        _read(tmp_path / "set", ids=str(tmp_path / "ids.txt"))
    with pytest.raises(UserError, match="no such file; name the devkit's list of synsets"):
        _read(tmp_path / "set", ids="nowhere.txt")


def test_the_blacklist_leaves_validation_images_out_and_their_faults(tmp_path: Path) -> None:
    rows = {f"ILSVRC2012_val_{number:08d}": "n01 1 1 2 2" for number in (1, 2, 3)}
    _write(tmp_path / "set", rows | {"ILSVRC2012_val_00000004": "n01 broken"})
    _write(tmp_path / "set", {"n01_2": "n01 1 1 2 2"}, "train")
    (tmp_path / "black.txt").write_text("2\n4\n50000\n")
    data = _read(tmp_path / "set", "train+val", blacklist=str(tmp_path / "black.txt"))
    assert data.image_ids.tolist() == ["n01_2", "ILSVRC2012_val_00000001", "ILSVRC2012_val_00000003"]
    assert data.left_out == {"ILSVRC2012_val_00000002", "ILSVRC2012_val_00000004"} and data.dropped == ()
    for line in ("0", "50001", "two", "1 2"):
        (tmp_path / "black.txt").write_text(f"1\n{line}\n")
        with pytest.raises(UserError, match=f"black.txt: line 2: '{line}' is no number of 1 to 50000"):
            _read(tmp_path / "set", blacklist=str(tmp_path / "black.txt"))


BOX = "n01 1 1 2 2"
IMAGE_FAULTS = {
    "b,n9 1 1 2 2": "image b: synset n9 is not in LOC_synset_mapping.txt",
    "b,n01 1 1 2 2 n02 3 3 4 4": "image b: two classes, n01 and n02, where one is allowed",
    "b,n01 1 1 2": "image b: 4 words are no groups of synset xmin ymin xmax ymax",
    "a,n02 3 3 4 4": "names image a, which line 2 has named before",
    "b n01 1 1 2 2": "'b n01 1 1 2 2' is not an image id, a comma and its boxes",
    "c,n01 1 1 2 2": "image c: no such file: {root}/Data/CLS-LOC/val/c.JPEG",
    "d,n01 1 1 2 2": "image d: unreadable image (not an image): {root}/Data/CLS-LOC/val/d.JPEG",
}
BOX_FAULTS = {
    "n01 1 x 2 2": "'1 x 2 2' are not four numbers",
    "n01 1 1 nan 2": "'1 1 nan 2' are not four numbers",
    "n01 3 1 2 2": "xmax 2 < xmin 3",
    "n01 1 3 2 2": "ymax 2 < ymin 3",
    "n01 -2 1 2 2": "xmin -2 is more than one pixel left of the image",
    "n01 1 -1.5 2 2": "ymin -1.5 is more than one pixel above the image",
    "n01 1 1 61 2": "xmax 61 is more than one pixel right of the image (60 columns)",
    "n01 1 1 2 41": "ymax 41 is more than one pixel below the image (40 rows)",
}


@pytest.mark.parametrize("row", IMAGE_FAULTS)
def test_an_unusable_image(tmp_path: Path, row: str) -> None:
    root = _write(tmp_path / "set", {"a": BOX, "b": BOX})
    (root / "Data/CLS-LOC/val/d.JPEG").write_text("no picture")
    (root / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\na,{BOX}\n{row}\n")
    data = _read(root, on_error="drop")
    expected = f"LOC_val_solution.csv: line 3: {IMAGE_FAULTS[row].format(root=root)}"
    assert [str(fault) for fault in data.dropped] == [expected] and data.dropped[0].object == ""
    assert data.image_ids.tolist() == ["a"] and data.boxes.tolist() == [[1, 1, 3, 3]]
    assert data.left_out == ({row[0]} - {"a"} if "," in row else set())
    with pytest.raises(UserError, match="1 fault in the annotations") as error:
        _read(root)
    assert expected in str(error.value)


@pytest.mark.parametrize("words", BOX_FAULTS)
def test_a_broken_box(tmp_path: Path, words: str) -> None:
    root = _write(tmp_path, {"a": f"{BOX} {words} n01 -1 -1 60 40", "b": words})  # the third reaches out by a pixel
    data = _read(root, on_error="drop")
    assert [str(fault) for fault in data.dropped] == [
        f"LOC_val_solution.csv: line 2: image a, box 2: {BOX_FAULTS[words]}",
        f"LOC_val_solution.csv: line 3: image b, box 1: {BOX_FAULTS[words]}",
    ]
    assert data.boxes.tolist() == [[1, 1, 3, 3], [-1, -1, 61, 41]]
    assert data.offsets.tolist() == [0, 2, 2] and data.left_out == frozenset()
    with pytest.raises(UserError, match="2 faults"):
        _read(root)


def test_a_synset_without_a_box_is_a_known_class(tmp_path: Path) -> None:
    rows = {"a_1": "n02", "a_2": "n02 1 1 2 2", "a_3": ""}
    val, train = (_read(_write(tmp_path / spec, rows, spec), spec) for spec in ("val", "train"))
    for data in (val, train):
        assert data.image_classes.tolist() == [2, 2, 0] and data.labels.tolist() == [2]
        assert image_labels(data).tolist() == [2, 2, 0]
    assert image_labels(keep_images(val, np.array([True, False, True]))).tolist() == [2, 0]
    unnamed = replace(val, image_classes=np.zeros(0, np.int64))
    assert image_labels(unnamed).tolist() == [0, 2, 0]
    assert image_labels(concatenate([unnamed, val])).tolist() == [0, 2, 0, 2, 2, 0]
    _write(tmp_path, {"a": "n09"})
    with pytest.raises(UserError, match="line 2: image a: synset n09 is not in LOC_synset_mapping.txt"):
        _read(tmp_path)


def test_faults_are_told_in_the_order_of_the_lines(tmp_path: Path) -> None:
    rows = {"d": "n01 3 1 2 2", "c": BOX, "b": "n9 1 1 2 2", "a": "n01 1 1 2 200"}
    data = _read(_write(tmp_path, rows, absent=("c",)), on_error="drop")
    lines = [fault.file for fault in data.dropped]
    assert lines == [f"LOC_val_solution.csv: line {number}" for number in (2, 3, 4, 5)]
    assert data.image_ids.tolist() == ["a", "d"]


def test_without_pictures_nothing_is_looked_for(tmp_path: Path) -> None:
    root = _write(tmp_path, {"a": "n01 1 1 2000 2"}, absent=("a",))
    data = _read(root, pictures=False)
    assert data.boxes.tolist() == [[1, 1, 2001, 3]] and data.sizes.tolist() == [[0, 0]]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root = _write(tmp_path / "set", {"a": BOX})
    with pytest.raises(UserError, match="no LOC_synset_mapping.txt there; name yours. ImageNet's localization data"):
        _read(tmp_path)
    with pytest.raises(UserError, match="no file LOC_train_solution.csv for the set 'train'; its sets are val"):
        _read(root, "train")
    (root / "LOC_train_solution.csv").write_text("ImageId,PredictionString\n")
    with pytest.raises(UserError, match="no folder .*train; put the images of train there"):
        _read(root, "train")
    with pytest.raises(UserError, match="the set names no image"):
        _read(root, "train", pictures=False)
    (root / "LOC_train_solution.csv").write_text(f"a,{BOX}\n")
    with pytest.raises(UserError, match="line 1: 'a,n01 1 1 2 2' is not the header; write ImageId,PredictionString"):
        _read(root, "train", pictures=False)
    (root / "LOC_synset_mapping.txt").write_text("n01 tench\nn01 goldfish\n")
    with pytest.raises(UserError, match="LOC_synset_mapping.txt: line 2: synset n01 has a line before"):
        _read(root)
