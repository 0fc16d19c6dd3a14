"""The built-in data set: what is annotated is what is drawn."""

from pathlib import Path

import numpy as np
import pytest

from detection.config import DataSettings
from detection.data import read_annotations, shapes
from detection.data.dataset import Annotations, read_image
from detection.data.shapes import CLASSES, Shape, coverage, draw_scene, ensure_shapes, tight_box
from detection.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    ensure_shapes(folder)
    return folder


def _read(root: Path, sets: str) -> Annotations:
    return read_annotations(DataSettings(format="shapes", root=str(root), train="train", val="val"), sets)


def test_the_sets_are_what_they_claim(root: Path) -> None:
    train, val = _read(root, "train"), _read(root, "val")
    assert (len(train), len(val)) == (600, 150) and train.class_names == val.class_names == CLASSES
    assert not set(train.image_ids) & set(val.image_ids)
    for data in (train, val):
        counts = np.diff(data.offsets)
        assert counts.min() == 1 and counts.max() == 4
        assert 0.05 <= data.ignore.mean() <= 0.10
        shares = np.bincount(data.labels, minlength=5)[1:] / len(data.labels)
        assert np.abs(shares - 0.25).max() < 0.06
    assert {read_image(path).shape for path in val.image_paths} == {(128, 128, 3)}


def test_two_generations_are_equal(root: Path, tmp_path: Path) -> None:
    ensure_shapes(tmp_path / "again")
    first, second = (
        {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (root, tmp_path / "again")
    )
    assert len(first) == 2 * 750 + 3 and first == second


def _inside(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The shapes by formula, around the origin within -1..1, y downwards."""
    if name == "circle":
        return x**2 + y**2 <= 1
    if name == "square":
        return np.maximum(abs(x), abs(y)) <= 0.9
    if name == "cross":
        return (np.minimum(abs(x), abs(y)) <= 1 / 3) & (np.maximum(abs(x), abs(y)) <= 1)
    return (y <= 0.8) & (abs(x) <= (y + 1) / 1.8)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("angle", [0.0, 0.3, -0.2])
def test_a_drawn_shape_covers_what_its_formula_says(name: str, angle: float) -> None:
    shape = Shape(name, (60.3, 71.8), 37.0, angle, (0, 0, 0))
    grid = (np.arange(128 * 8) + 0.5) / 8
    x, y = np.meshgrid((grid - 60.3) / 18.5, (grid - 71.8) / 18.5)
    turned = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    slow = _inside(name, *turned).reshape(128, 8, 128, 8).mean(axis=(1, 3))
    cover = coverage(shape)
    assert abs(cover.sum() - slow.sum()) / slow.sum() < 0.03 and np.abs(cover - slow).mean() < 2e-3
    rows, columns = np.nonzero(slow >= 0.5)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.subtract(tight_box(cover), expected)).max() <= 1


def test_the_box_is_tight_around_the_drawn_pixels() -> None:
    cover = np.zeros((128, 128), np.float32)
    cover[10:20, 30:45] = 0.7
    cover[9, 30:45] = 0.4
    assert tight_box(cover) == (30, 10, 45, 20)


def test_boxes_of_a_scene_enclose_what_stands_out_from_the_ground() -> None:
    for seed in range(30):
        image, objects = draw_scene(np.random.default_rng(seed))
        free = np.ones((128, 128), bool)
        for thing in objects:
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
            free[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1] = False
        ground = image[free].astype(float)
        assert ground.std(axis=0).max() < 40  # one noisy colour: nothing was drawn outside the boxes


def test_nothing_foreign_is_overwritten_and_old_versions_are_replaced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shapes, "COUNTS", {"train": 2, "val": 1})
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="something other than the built-in data set"):
        ensure_shapes(foreign)
    assert (foreign / "thesis.txt").read_text() == "mine"
    (foreign / "README.txt").write_bytes("R\xe9sum\xe9".encode("latin-1"))
    with pytest.raises(UserError, match="something other than the built-in data set"):
        ensure_shapes(foreign)

    ensure_shapes(tmp_path / "old")
    (tmp_path / "old" / "README.txt").write_text("ResiDet shapes, version 0\n")
    (tmp_path / "old" / "Annotations" / "000001.xml").write_text("stale")
    ensure_shapes(tmp_path / "old")
    assert (tmp_path / "old" / "README.txt").read_text().startswith("ResiDet shapes, version 1\n")
    assert "stale" not in (tmp_path / "old" / "Annotations" / "000001.xml").read_text()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["foreign", "old"]


def test_a_finished_set_is_left_alone_and_a_broken_off_one_leaves_no_trace(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shapes, "COUNTS", {"train": 1, "val": 1})
    (tmp_path / "set").mkdir()  # an empty folder is taken
    ensure_shapes(tmp_path / "set")
    before = (tmp_path / "set").stat().st_mtime_ns
    ensure_shapes(tmp_path / "set")
    assert (tmp_path / "set").stat().st_mtime_ns == before

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(shapes, "_write_image", fail)
    with pytest.raises(UserError, match="no space left on device"):
        ensure_shapes(tmp_path / "other")
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
