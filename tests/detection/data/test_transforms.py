"""Boxes, labels and flags stay in step with the image, at the edges too."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.config import AugmentSettings, DataSettings
from detection.data.dataset import Decoded, ImageSize, resized_size
from detection.data.transforms import TestTransform, TrainTransform, Transformed

PLAIN = AugmentSettings(hflip=0.0)


def _settings(augment: AugmentSettings, min_size: tuple[int, ...] = (64,), max_size: int = 100) -> DataSettings:
    return DataSettings(min_size=min_size, max_size=max_size, test_min_size=48, test_max_size=80, augment=augment)


def _run(
    augment: AugmentSettings, image: np.ndarray, boxes: np.ndarray, position: int = 0, seed: int = 0, **changes: object
) -> Transformed:
    """Labels are 1, 2, 3, ... and flags alternate, so that each tells which box it belongs to."""
    labels = np.arange(1, len(boxes) + 1)
    transform = TrainTransform(_settings(augment, **changes), seed)
    return transform(Decoded.whole(image), boxes, labels, labels % 2 == 0, position)


@st.composite
def _images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A small image and boxes, many of which touch its borders or are as small as a reader that clips can make them."""
    rows, columns = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    boxes = []
    for _ in range(draw(st.integers(0, 6))):
        sides = []
        for length in (columns, rows):
            least = draw(st.sampled_from([2.0**-4, 0.5, 1.0]))
            low = draw(st.sampled_from([0, length - least, (length - 1) / 2]) | st.floats(0, length - least, width=32))
            high = draw(st.sampled_from([low + least, length]) | st.floats(low + least, length))
            sides.append((low, high))
        (x1, x2), (y1, y2) = sides
        boxes.append((x1, y1, x2, y2))
    image = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)
    return image, np.array(boxes, np.float32).reshape(-1, 4)


@given(_images(), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_box_keeps_its_label_and_flag_and_stays_inside(
    drawn: tuple[np.ndarray, np.ndarray], position: int
) -> None:
    image, boxes = drawn
    augment = AugmentSettings(crop=0.5, hflip=0.5, vflip=0.5, colour=0.5, scale_jitter=(0.5, 1.5))
    done = _run(augment, image, boxes, position)
    rows, columns = done.image.shape[:2]
    assert done.image.dtype == np.uint8 and done.boxes.dtype == np.float32
    assert done.labels.tolist() == list(range(1, len(boxes) + 1))  # none was lost
    assert np.array_equal(done.ignore, done.labels % 2 == 0)
    assert (done.boxes[:, :2] >= 0).all() and (done.boxes[:, 2:] <= [columns, rows]).all()
    scale = np.array([columns / done.original_size[1], rows / done.original_size[0]])
    sides = (done.boxes[:, 2:] - done.boxes[:, :2]) / scale
    assert np.allclose(sides, boxes[:, 2:] - boxes[:, :2], atol=1e-3)  # no box was cut


def test_boxes_follow_the_pixels_through_flips_and_crops() -> None:
    """Each box is filled with a colour of its own, and must be found where that colour is afterwards."""
    rng = np.random.default_rng(0)
    for position in range(40):
        image = np.zeros((70, 90, 3), np.uint8)
        boxes = []
        for number in range(3):
            x1, y1 = rng.integers(0, 20, 2) + (30 * number, 15 * number)
            image[y1 : y1 + 10, x1 : x1 + 8] = 80 * (number + 1)
            boxes.append((x1, y1, x1 + 8, y1 + 10))
        image, boxes = image[:65], np.clip(np.array(boxes, np.float32), 0, [90, 65, 90, 65])
        done = _run(AugmentSettings(crop=0.7, vflip=0.5), image, boxes, position, min_size=(1000,), max_size=90)
        scale = done.image.shape[1] / done.original_size[1]
        for box, label in zip(done.boxes, done.labels, strict=True):
            middle = ((box[:2] + box[2:]) / 2).astype(int)
            assert done.image[middle[1], middle[0]].tolist() == [80 * label] * 3
            assert abs(box[2] - box[0] - 8 * scale) < 1.5


@given(_images())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_horizontal_flip_is_the_closed_form(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    image, boxes = drawn
    done = _run(AugmentSettings(hflip=1.0), image, boxes)
    rows, columns = done.image.shape[:2]
    scale = np.array([columns / image.shape[1], rows / image.shape[0]] * 2)
    mirrored = np.stack([image.shape[1] - boxes[:, 2], boxes[:, 1], image.shape[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    assert np.abs(done.boxes - mirrored * scale).max(initial=0) < 1e-3 * scale.max()
    plain = _run(PLAIN, image[:, ::-1].copy(), boxes)
    assert np.array_equal(done.image, plain.image)


def test_both_flips_are_drawn_independently() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0] = 255
    corners = [
        tuple(np.argwhere(done.image[:, :, 0] == 255)[0])
        for position in range(400)
        for done in [
            _run(AugmentSettings(hflip=0.5, vflip=0.5), image, np.zeros((0, 4), np.float32), position, min_size=(8,))
        ]
    ]
    shares = [corners.count(corner) / 400 for corner in ((0, 0), (0, 7), (7, 0), (7, 7))]
    assert min(shares) > 0.18 and max(shares) < 0.32  # 1/4 each, with a standard deviation of 0.022


def test_the_same_seed_and_position_give_the_same_bytes() -> None:
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    boxes = np.array([[5, 5, 20, 30], [40, 10, 70, 50]], np.float32)
    augment = AugmentSettings(crop=0.5, hflip=0.5, vflip=0.5, colour=0.5, scale_jitter=(0.7, 1.3))
    shared, whole = TrainTransform(_settings(augment, (40, 64)), 7), Decoded.whole(image)
    labels = np.array([1, 2])
    backwards = {position: shared(whole, boxes, labels, labels > 1, position) for position in reversed(range(20))}
    seen = set()
    for position in range(20):
        again = _run(augment, image, boxes, position, seed=7, min_size=(40, 64))
        assert again.image.tobytes() == backwards[position].image.tobytes()
        assert again.boxes.tobytes() == backwards[position].boxes.tobytes()
        seen.add(again.image.tobytes())
    assert len(seen) > 15
    assert _run(augment, image, boxes, 3, seed=8).image.tobytes() not in seen


def test_sizes_are_drawn_from_the_settings() -> None:
    image, boxes = np.zeros((50, 100, 3), np.uint8), np.array([[0, 0, 100, 50]], np.float32)
    drawn = {
        _run(PLAIN, image, boxes, position, min_size=(20, 30, 80), max_size=90).image.shape[0] for position in range(40)
    }
    assert drawn == {20, 30, 45}  # the last one limited by the longer side
    jitter = dataclasses.replace(PLAIN, scale_jitter=(0.5, 1.5))
    sides = [_run(jitter, image, boxes, position, min_size=(40,), max_size=80) for position in range(60)]
    heights = np.array([done.image.shape[0] for done in sides])
    assert heights.min() >= 20 and heights.max() <= 60 and heights.std() > 5
    assert all(done.boxes[0].tolist() == [0, 0, done.image.shape[1], done.image.shape[0]] for done in sides)


def test_the_largest_size_that_can_be_drawn_is_enough() -> None:
    wide = {"augment": AugmentSettings(scale_jitter=(0.5, 1.5)), "min_size": (480, 600), "max_size": 1000}
    assert TrainTransform(DataSettings(**wide, reduced_decoding=True), 0).enough((1200, 1600)) == (900, 1200)
    assert TrainTransform(DataSettings(**wide, reduced_decoding=True), 0).enough((2000, 1000)) == (1500, 750)
    assert TrainTransform(DataSettings(**wide), 0).enough((1200, 1600)) == (1200, 1600)
    cropped = DataSettings(**{**wide, "augment": AugmentSettings(crop=0.1)}, reduced_decoding=True)
    assert TrainTransform(cropped, 0).enough((1200, 1600)) == (1200, 1600)


def test_a_crop_without_objects_keeps_half_of_each_side() -> None:
    image = np.zeros((41, 60, 3), np.uint8)
    sizes = {_run(AugmentSettings(crop=1.0), image, np.zeros((0, 4), np.float32), p).original_size for p in range(100)}
    assert len(sizes) > 50 and min(rows for rows, _ in sizes) >= 20 and min(columns for _, columns in sizes) >= 30


def test_at_test_time_images_are_only_resized() -> None:
    image = np.random.default_rng(1).integers(0, 256, (50, 100, 3), np.uint8)
    boxes, labels = np.array([[10, 20, 60, 40]], np.float32), np.array([3])
    done = TestTransform(ImageSize(48, 80, padding=32))(Decoded.whole(image), boxes, labels, np.array([True]))
    assert done.image.shape[:2] == resized_size((50, 100), 48, 80) == (40, 80)
    assert done.boxes == pytest.approx(boxes * 0.8) and done.original_size == (50, 100)
    assert done.labels.tolist() == [3] and done.ignore.tolist() == [True]
