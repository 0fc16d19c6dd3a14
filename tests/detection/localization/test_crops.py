"""Crops keep boxes on their pixels, lose no object, and follow from seed and position.

Pictures have a dark ground and one filled rectangle for every box, in a colour of its own, by which it is found again.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from detection.config import AugmentSettings, Config, DataSettings, LocalizationSettings
from detection.data.dataset import Decoded
from detection.data.transforms import Transformed
from detection.localization.crops import CropTransform, warp

SIDE = 32
LOC = LocalizationSettings(crop=SIDE, scales=(40, 60))
PLAIN = AugmentSettings(hflip=0.0)


def settings(augment: AugmentSettings = PLAIN, **loc: object) -> Config:
    return Config(data=DataSettings(augment=augment), loc=dataclasses.replace(LOC, **loc))


def picture(rows: int, columns: int, boxes: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """The first box is red, the second green."""
    image = np.zeros((rows, columns, 3), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, number] = 240
    return image, np.array(boxes, np.float32).reshape(-1, 4)


def run(
    config: Config,
    image: np.ndarray,
    boxes: np.ndarray,
    position: int = 0,
    seed: int = 0,
    proposals: np.ndarray | None = None,
    ignore: tuple[bool, ...] | None = None,
) -> Transformed:
    """Labels are 1, 2, 3, ..., so that each tells which box it belongs to."""
    labels = np.arange(1, len(boxes) + 1)
    flags = np.zeros(len(boxes), bool) if ignore is None else np.array(ignore)
    return CropTransform(config, seed, proposals)(Decoded.whole(image), boxes, labels, flags, position, 0)


def extent(image: np.ndarray, label: int) -> list[int]:
    """The box of the pixels that have more than half of the colour of box `label`."""
    rows, columns = np.nonzero(image[..., label - 1] > 120)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("hflip", [0.0, 1.0])
def test_boxes_lie_on_their_pixels(hflip: float) -> None:
    image, boxes = picture(50, 70, [(10, 10, 30, 40), (40, 5, 64, 45)])
    corners = set()
    for position in range(40):
        done = run(settings(AugmentSettings(hflip=hflip)), image, boxes, position)
        assert done.image.shape == (SIDE, SIDE, 3) and done.image.dtype == np.uint8 and done.boxes.dtype == np.float32
        assert len(done.labels) >= 1 and done.original_size == (SIDE, SIDE)
        for box, label in zip(done.boxes[~done.ignore], done.labels[~done.ignore], strict=True):
            assert np.abs(np.clip(box, 0, SIDE) - extent(done.image, label)).max() <= 1
            wide, high = (boxes[label - 1][2:] - boxes[label - 1][:2]).tolist()
            shape = (box[2] - box[0]) / (box[3] - box[1])
            assert shape == pytest.approx(wide / high, rel=0.03)  # of the whole object, whatever is seen of it
        corners.add(tuple(done.boxes[0].tolist()))
    assert len(corners) > 30  # windows and sizes vary


def test_a_known_crop_and_its_mirror_image() -> None:
    """At one size that is the crop's own, nothing is random but the mirror."""
    image, boxes = picture(32, 32, [(4, 8, 20, 30)])
    config = settings(scales=(SIDE, SIDE))
    plain = run(config, image, boxes)
    assert np.array_equal(plain.image, image) and plain.boxes.tolist() == [[4, 8, 20, 30]]
    mirrored = run(dataclasses.replace(config, data=DataSettings(augment=AugmentSettings(hflip=1.0))), image, boxes)
    assert np.array_equal(mirrored.image, image[:, ::-1]) and mirrored.boxes.tolist() == [[12, 8, 28, 30]]


def test_half_of_the_crops_are_mirrored() -> None:
    image, boxes = picture(32, 32, [(0, 0, 8, 32)])
    config = settings(AugmentSettings(hflip=0.5), scales=(SIDE, SIDE))
    count = sum(run(config, image, boxes, position).boxes[0, 0] > 0 for position in range(400))
    assert 160 < count < 240  # 200 with a standard deviation of 10


def test_sizes_are_drawn_between_the_two_scales() -> None:
    """8 of 40 rows: where all of them are seen, they have become 8 to 16, of 40 to 80."""
    image, boxes = picture(40, 40, [(10, 16, 30, 24)])
    drawn = [run(settings(scales=(40, 80)), image, boxes, position).boxes[0] for position in range(300)]
    heights = {float(box[3] - box[1]) for box in drawn if box[1] > 0 and box[3] < SIDE}
    assert min(heights) == pytest.approx(8) and max(heights) == pytest.approx(16)
    assert len(heights) > 30  # of 41


def test_short_images_are_enlarged() -> None:
    image, boxes = picture(10, 20, [(5, 2, 15, 8)])
    done = run(settings(scales=(16, 20)), image, boxes)
    assert done.image.shape == (SIDE, SIDE, 3)
    assert done.boxes[0, 3] - done.boxes[0, 1] == pytest.approx(6 * 3.2)


def test_no_crop_is_without_an_object() -> None:
    """A tiny object in a corner of a wide image, in 1 window of 100; one that fills an image larger than a crop."""
    small, one = picture(40, 400, [(2, 3, 8, 9)])
    large, all_of_it = picture(40, 400, [(0, 0, 400, 40)])
    for position in range(60):
        done = run(settings(), small, one, position)
        assert done.labels.tolist() == [1] and not done.ignore[0]
        assert np.abs(np.clip(done.boxes[0], 0, SIDE) - extent(done.image, 1)).max() <= 1
        done = run(settings(), large, all_of_it, position)
        assert not done.ignore[0] and np.clip(done.boxes, 0, SIDE).tolist() == [[0, 0, SIDE, SIDE]]
        assert done.boxes[0, 2] - done.boxes[0, 0] == pytest.approx(10 * (done.boxes[0, 3] - done.boxes[0, 1]))


def test_a_quarter_has_to_be_visible() -> None:
    """32 rows, so that only x is random: the box of 24 x 32 counts from 6 columns seen; less of it is ignored."""
    image, boxes = picture(32, 96, [(24, 0, 48, 32), (70, 0, 72, 32)])
    seen = set()
    for position in range(200):
        done = run(settings(scales=(SIDE, SIDE)), image, boxes, position)
        columns = int((done.image[0, :, 0] == 240).sum())
        assert (1 in done.labels) == (columns > 0)
        assert (1 in done.labels[~done.ignore]) == (columns >= 6)
        seen.add(columns)
    assert {0, 5, 6} <= seen


def test_a_crop_shows_an_object_that_is_not_ignored() -> None:
    image, boxes = picture(32, 320, [(4, 0, 30, 32), (290, 0, 316, 32)])
    for position in range(30):
        done = run(settings(scales=(SIDE, SIDE)), image, boxes, position, ignore=(True, False))
        assert done.labels.tolist() == [2] and done.ignore.tolist() == [False]
    assert run(settings(), image, boxes[:1], ignore=(True,)).ignore.tolist() == [True]


@pytest.mark.parametrize("method", ["rpn", "rcnn"])
def test_an_image_without_objects_is_cut_all_the_same(method: str) -> None:
    image, boxes = picture(40, 50, [])
    done = run(settings(method=method), image, boxes)
    assert done.image.shape == (SIDE, SIDE, 3) and done.boxes.shape == (0, 4) and len(done.labels) == 0


@pytest.mark.parametrize("method", ["rpn", "pcr", "rcnn"])
def test_seed_and_position_decide_all(method: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    boxes = np.array([[5, 5, 30, 40], [40, 10, 70, 50]], np.float32)
    proposals = np.random.default_rng(2).uniform([0, 0, 35, 25], [30, 20, 70, 50], (1, 20, 4))
    config = settings(AugmentSettings(hflip=0.5, colour=0.5), method=method)
    labels, flags = np.array([2, 2]), np.zeros(2, bool)
    shared, whole = CropTransform(config, 7, proposals), Decoded.whole(image)
    backwards = {position: shared(whole, boxes, labels, flags, position, 0) for position in reversed(range(15))}
    seen = set()
    for position in range(15):
        again = run(config, image, boxes, position, seed=7, proposals=proposals)
        assert again.image.tobytes() == backwards[position].image.tobytes()
        assert again.boxes.tobytes() == backwards[position].boxes.tobytes()
        assert backwards[position].labels.tolist() == [2] * len(again.labels)
        seen.add(again.image.tobytes())
    assert len(seen) > 12
    assert run(config, image, boxes, 3, seed=8, proposals=proposals).image.tobytes() not in seen


def test_a_proposal_is_warped_with_its_boxes_even_beyond_the_crop() -> None:
    """The proposal (10, 10)-(26, 42) becomes 32 x 32: x doubled, y as it was."""
    image, boxes = picture(60, 80, [(10, 20, 42, 30)])
    proposals = np.array([[[10, 10, 26, 42], [0, 0, 0, 0]]])
    config = settings(method="rcnn", fg_fraction=0.0)  # the proposal's IoU is below 0.3, the object's own is 1
    done = run(config, image, boxes, proposals=proposals)
    assert done.boxes.tolist() == [[0, 10, 64, 20]]
    assert extent(done.image, 1) == [0, 10, 32, 20]
    mirror = dataclasses.replace(config, data=DataSettings(augment=AugmentSettings(hflip=1.0)))
    mirrored = run(mirror, image, boxes, proposals=proposals)
    assert mirrored.boxes.tolist() == [[-32, 10, 32, 20]]
    assert np.array_equal(mirrored.image, done.image[:, ::-1])


def test_proposals_are_drawn_by_their_kind() -> None:
    """The object, one positive proposal, one between (IoU 0.4), one negative, which differ in their corner."""
    image, boxes = picture(100, 100, [(0, 0, 100, 50)])
    proposals = np.array([[[0, 0, 100, 40], [0, 0, 100, 20], [0, 60, 100, 100]]], np.float64)

    def heights(fraction: float) -> list[int]:
        config = settings(method="rcnn", fg_fraction=fraction)
        drawn = [run(config, image, boxes, position, proposals=proposals) for position in range(200)]
        return [
            round(50 * SIDE / float(done.boxes[0, 3] - done.boxes[0, 1]) + float(done.boxes[0, 1])) for done in drawn
        ]

    assert set(heights(1.0)) == {50, 40}
    assert set(heights(0.0)) == {40 - 48}  # 40 high, and the object begins 60 x 32 / 40 above it
    mixed = heights(0.75)
    assert 125 < sum(height > 0 for height in mixed) < 175  # 150 with a standard deviation of 6
    config = settings(method="rcnn", fg_fraction=0.0)
    assert run(config, image, boxes).boxes.tolist() == [[0, 0, SIDE, SIDE]]  # no negative one: the object itself


def test_a_warp_is_the_roi_align_of_test_time() -> None:
    """Up to OpenCV's steps of 1/32 pixel and its roundings: inside the image, all of it, at its border."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (8, 10, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for box in ([3, 5, 40.5, 30.25], [0, 0, 60, 48], [12.3, 7.7, 18.1, 40], [50, 40, 60, 48]):
        regions = torch.tensor([[0, *box]], dtype=torch.float32)
        expected = roi_align(planes, regions, SIDE, sampling_ratio=2, aligned=True)[0].permute(1, 2, 0).numpy()
        assert np.abs(warp(image, np.array(box), SIDE) - expected).max() <= 255 / 32 + 1
