"""The built-in localization set: one class an image, boxes around what is drawn, no fixed box that finds much."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from detection.config import DataSettings, from_dict
from detection.data import class_names, read_annotations, single_shapes
from detection.data.dataset import Annotations, read_image
from detection.data.shapes import Shape, coverage, ensure_shapes, tight_box
from detection.data.single_shapes import CLASSES, draw_single, ensure_single_shapes
from detection.errors import UserError
from detection.finalize import check

SMALL = {"train": 40, "val": 200}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sixth of the set, which takes seconds to draw; its training images are the first ones of the whole set."""
    folder = tmp_path_factory.mktemp("data") / "single"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_shapes, "COUNTS", SMALL)
        ensure_single_shapes(folder)
    return folder


def _read(root: Path, sets: str) -> Annotations:
    return read_annotations(DataSettings(format="single_shapes", root=str(root), train="train", val="val"), sets)


def test_the_sets_are_what_they_claim(root: Path) -> None:
    train, val = _read(root, "train"), _read(root, "val")
    assert single_shapes.COUNTS == {"train": 1200, "val": 400}
    assert (len(train), len(val)) == (40, 200) and train.class_names == val.class_names == CLASSES
    assert len(CLASSES) == 8 and not set(train.image_ids) & set(val.image_ids)
    counts = np.bincount(np.diff(val.offsets))
    assert counts[0] == 0 and len(counts) == 3 and 0.3 < counts[2] / len(val) < 0.4
    assert np.bincount(val.labels[val.offsets[:-1]], minlength=9)[1:].min() > 0.06 * len(val)
    for data in (train, val):
        first = data.labels[data.offsets[:-1]]
        assert (data.labels == first[data.image_of_object]).all()
        longer = (data.boxes[:, 2:] - data.boxes[:, :2]).max(axis=1)
        assert longer.min() >= 24 and longer.max() <= 90 and not data.ignore.any()
        assert data.boxes.min() >= 0 and data.boxes.max() <= 128
    assert {read_image(path).shape for path in val.image_paths} == {(128, 128, 3)}


def _share_wrong(data: Annotations, box: tuple[int, ...]) -> float:
    """Share of the images of which no object has IoU 0.5 with the box, by counting pixels."""
    wrong = 0
    for image in range(len(data)):
        best = 0.0
        for x1, y1, x2, y2 in data.boxes[data.objects(image)]:
            wide, tall = min(x2, box[2]) - max(x1, box[0]), min(y2, box[3]) - max(y1, box[1])
            common = max(0, wide) * max(0, tall)
            best = max(best, common / ((x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1]) - common))
        wrong += best < 0.5
    return wrong / len(data)


def test_no_fixed_box_finds_much(root: Path) -> None:
    val = _read(root, "val")
    boxes = [
        (x - wide // 2, y - tall // 2, x + wide // 2, y + tall // 2)
        for x, y in itertools.product((52, 64, 76), repeat=2)
        for wide, tall in itertools.product((48, 60, 72), repeat=2)
    ]
    assert 0.8 <= min(_share_wrong(val, box) for box in boxes) < 0.95


def test_two_generations_are_equal() -> None:
    for seed in range(5):
        (first, objects), (second, again) = (draw_single(np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(first, second) and objects == again and first.dtype == np.uint8


def test_the_drawing_is_that_of_the_version_the_readme_names(root: Path) -> None:
    """Other boxes need another version, so that sets on disk are replaced."""
    boxes = _read(root, "train").boxes[:3].tolist()
    assert boxes == [[32, 45, 57, 69], [69, 58, 116, 106], [81, 18, 118, 55]]
    assert (root / "README.txt").read_text().startswith("ResiDet single shapes, version 1\n")


def test_objects_lie_hardly_over_each_other() -> None:
    for seed in range(60):
        boxes = [thing.box for thing in draw_single(np.random.default_rng(seed))[1]]
        if len(boxes) == 2:
            (a, b, c, d), (e, f, g, h) = boxes
            common = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
            assert common <= 0.3 * min((c - a) * (d - b), (g - e) * (h - f))


AREAS = {
    "arrow": 1.1 * 0.5 + 0.9 * 1.5 / 2,
    "bar": 1.6,
    "semicircle": np.pi / 2,
    "star": 10 * 0.45 * np.sin(np.pi / 5) / 2,
}
"""Of the shapes that the detection set does not have, in half sides; the star is ten triangles of sides 1 and 0.45."""


@pytest.mark.parametrize("name", AREAS)
def test_a_drawn_shape_has_its_formulas_area_and_box(name: str) -> None:
    cover = coverage(Shape(name, (60.3, 71.8), 50.0, 0.0, (0, 0, 0)))
    assert cover.sum() == pytest.approx(AREAS[name] * 25**2, rel=0.04)
    star = np.sin(0.4 * np.pi)  # half its width
    reach = {
        "arrow": (-1, -0.75, 1, 0.75),
        "bar": (-1, -0.4, 1, 0.4),
        "semicircle": (-1, -0.5, 1, 0.5),
        "star": (-star, -1, star, np.sin(0.3 * np.pi)),
    }[name]
    expected = np.array(reach) * 25 + [60.3, 71.8, 60.3, 71.8]
    slack = 3 if name in ("star", "arrow") else 1  # the last pixels of a point are covered by less than half
    assert np.abs(tight_box(cover) - expected).max() <= slack


def test_the_two_built_in_sets_do_not_replace_each_other(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="something other than the built-in data set"):
        ensure_shapes(root)
    before = (root / "README.txt").stat().st_mtime_ns
    ensure_single_shapes(root)
    assert (root / "README.txt").stat().st_mtime_ns == before
    assert class_names(DataSettings(format="single_shapes", root=str(tmp_path))) == CLASSES


def test_the_place_of_voc_is_refused() -> None:
    with pytest.raises(UserError, match="is the place of PASCAL VOC: name another folder for the built-in shapes"):
        check(from_dict({"data": {"format": "single_shapes"}}))
