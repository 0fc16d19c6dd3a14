"""Forms of boxes in files."""

import numpy as np

from detection.data.box_forms import boxes_from_coco, boxes_to_coco, boxes_to_voc, voc_to_boxes


def test_voc_is_inverted_and_sizes_are_the_devkits() -> None:
    values = np.random.default_rng(0).integers(1, 500, (50, 4)).astype(np.float32)
    boxes = voc_to_boxes(values)
    assert np.array_equal(boxes_to_voc(boxes), values)
    assert np.array_equal(boxes[:, 2] - boxes[:, 0], values[:, 2] - values[:, 0] + 1)
    assert voc_to_boxes(np.array([[1.0, 1.0, 500.0, 375.0]])).tolist() == [[0, 0, 500, 375]]


def test_coco_comes_back_to_the_last_digit() -> None:
    """Two decimals, as COCO has them, and few enough of them that float64 holds each sum to nine."""
    values = np.random.default_rng(0).integers(1, 60000, (5000, 4)) / 100
    boxes = boxes_from_coco(values)
    assert boxes_from_coco(np.array([[1.0, 2, 10, 20]])).tolist() == [[1, 2, 11, 22]]
    assert (boxes[:, 2:] - boxes[:, :2] != values[:, 2:]).any()
    assert np.array_equal(boxes_to_coco(boxes), values)
    assert boxes_to_coco(boxes.astype(np.float32)).dtype == np.float64
