"""The numbers of a set, against what was put into it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from detection.config import Config, DataSettings, ModelSettings, ProposalSettings
from detection.data.dataset import Annotations, resized_size
from detection.data.survey import resized_boxes, survey

RPN = ProposalSettings(anchor_sizes=(128.0,), anchor_ratios=(1.0,), fg_iou=0.7, bg_iou=0.3)
CONFIG = Config(model=ModelSettings(rpn=RPN))


def _annotations(*images: list[tuple], sizes: list[tuple[int, int]] | None = None) -> Annotations:
    """From objects (x1, y1, x2, y2, label, ignore) of each image; the images are 600 x 600."""
    rows = [row for image in images for row in image]
    boxes = np.array([row[:4] for row in rows], np.float64).reshape(-1, 4)
    return Annotations(
        class_names=("a", "b", "c"),
        image_ids=np.array([f"i{number}" for number in range(len(images))], dtype=str),
        image_paths=np.array([f"i{number}.jpg" for number in range(len(images))], dtype=str),
        sizes=np.array(sizes or [(600, 600)] * len(images), np.int32).reshape(-1, 2),
        offsets=np.cumsum([0, *map(len, images)], dtype=np.int64),
        boxes=boxes,
        labels=np.array([row[4] for row in rows], np.int64),
        ignore=np.array([row[5] for row in rows], bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )


def test_images_objects_classes_and_ranges_are_counted() -> None:
    small, medium, large = (0, 0, 31, 33, 1, False), (0, 0, 32, 32, 1, True), (0, 0, 96, 96, 3, False)
    found = survey(_annotations([small, medium], [], [large, small]), CONFIG, (600, 1000))
    assert (found.images, found.empty, found.objects, found.ignored) == (3, 1, 4, 1)
    assert found.per_class.tolist() == [3, 0, 1] and found.images_per_class.tolist() == [2, 0, 1]
    assert found.per_range.tolist() == [2, 1, 1]  # 32 x 32 is medium and 96 x 96 large


def test_sides_and_shapes_are_those_of_the_resized_image() -> None:
    # The limit of the longer side makes 500 x 1000 of 300 x 600 pixels, a factor of 5/3.
    objects = [(0, 0, 60, 15, 1, False), (0, 0, 30, 30, 1, False), (0, 0, 30, 120, 1, False)]
    found = survey(_annotations(objects, sizes=[(300, 600)]), CONFIG, (600, 1000))
    sides = np.array([30, 30, 60]) * 5 / 3
    assert found.sides[[0, 3, 6]] == pytest.approx(sides.tolist())
    assert found.ratios[[0, 3, 6]] == pytest.approx([0.25, 1, 4])


def test_overhanging_boxes_are_measured_as_training_sees_them() -> None:
    """Cut to 29.5 x 59 and 0.25 x 20 pixels; the second one is tiny only then. COCO's ranges go by the areas given."""
    objects = [(-1, -0.75, 29.5, 59, 1, False), (-0.75, 0, 0.25, 20, 1, False)]
    found = survey(_annotations(objects), CONFIG, (600, 1000))
    assert found.sides[[0, 6]] == pytest.approx([math.sqrt(0.25 * 20), math.sqrt(29.5 * 59)])
    assert found.tiny.tolist() == [1] and found.per_range.tolist() == [1, 1, 0]
    cut = [(0, 0, 29.5, 59, 1, False), (0, 0, 0.25, 20, 1, False)]
    assert found.anchors["all"].mean == survey(_annotations(cut), CONFIG, (600, 1000)).anchors["all"].mean > 0


def test_boxes_are_resized_as_by_the_one_rule() -> None:
    rng = np.random.default_rng(0)
    shapes = [tuple(map(int, rng.integers(50, 900, 2))) for _ in range(20)]
    annotations = _annotations(*[[(1, 2, 30, 40, 1, False)]] * 20, sizes=shapes)
    boxes, sizes = resized_boxes(annotations, (600, 1000))
    for box, size, shape in zip(boxes, sizes, shapes, strict=True):
        rows, columns = resized_size(shape, 600, 1000)
        assert size.tolist() == [rows, columns]
        np.testing.assert_allclose(box, np.array([1, 2, 30, 40]) * np.tile([columns / shape[1], rows / shape[0]], 2))


def test_tiny_boxes_and_repetitions_are_found() -> None:
    box = (10, 10, 60, 60, 1, False)
    image = [box, (5, 5, 5.5, 90, 2, False), (5, 5, 8, 90, 2, False), (10, 10, 60, 60, 2, False), box, box]
    found = survey(_annotations(image, [box]), CONFIG, (600, 1000))
    assert found.tiny.tolist() == [1, 2]  # half a pixel wide; 3 pixels wide, and still so when resized
    assert found.repeated.tolist() == [4, 5]  # neither the other class nor the other image
    assert survey(_annotations(image, [box]), CONFIG, (1200, 2000)).tiny.tolist() == [1]  # 3 pixels become 6


def test_anchors_are_asked_of_targets_alone() -> None:
    exact, half, crowd = (96, 96, 224, 224, 1, False), (96, 96, 224, 160, 1, False), (96, 96, 224, 224, 1, True)
    annotations = _annotations([exact, half, crowd, (0, 0, 10, 10, 2, False)])
    fit = survey(annotations, CONFIG, (600, 1000)).anchors
    # An anchor at (64, 64) is the first inside the image: 0..128. It covers the box of 10 x 10.
    assert fit["all"].mean == pytest.approx((1 + 0.5 + 100 / 16384) / 3)
    counts = {name: (part.objects, part.below_fg, part.below_bg, part.untouched) for name, part in fit.items()}
    assert counts == {"small": (1, 1, 1, 0), "medium": (1, 1, 0, 0), "large": (1, 0, 0, 0), "all": (3, 2, 1, 0)}
    used = survey(annotations, replace(CONFIG, data=DataSettings(difficult="use")), (600, 1000))
    assert used.anchors["all"].objects == 4


def test_a_set_without_objects_has_no_quantiles() -> None:
    found = survey(_annotations([], []), CONFIG, (600, 1000))
    assert np.isnan(found.sides).all() and math.isnan(found.anchors["all"].mean)
    record = found.as_record(("a", "b", "c"))
    assert record["resized_side_quantiles"]["0.5"] is None and record["anchors"]["all"]["mean"] is None
    assert record["images_without_objects"] == 2 and record["classes"]["b"] == {"objects": 0, "images": 0}
    assert survey(_annotations(), CONFIG, (600, 1000)).images == 0
