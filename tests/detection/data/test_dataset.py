"""Flat annotations and the reading and resizing of images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from detection.config import DataSettings
from detection.data.checks import Fault
from detection.data.dataset import (
    Annotations,
    concatenate,
    for_training,
    read_image,
    read_size,
    resize,
    resized_size,
)
from detection.errors import UserError


def _annotations(counts: list[int], seed: int = 0, **changes: object) -> Annotations:
    rng = np.random.default_rng(seed)
    objects = sum(counts)
    boxes = np.sort(rng.uniform(0, 50, (objects, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    values = {
        "class_names": ("a", "b", "c"),
        "image_ids": np.array([f"{seed}_{number}" for number in range(len(counts))]),
        "image_paths": np.array([f"{seed}_{number}.jpg" for number in range(len(counts))]),
        "sizes": np.full((len(counts), 2), 50, np.int32),
        "offsets": np.cumsum([0, *counts], dtype=np.int64),
        "boxes": boxes,
        "labels": rng.integers(1, 4, objects),
        "ignore": rng.random(objects) < 0.4,
        "areas": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    }
    return Annotations(**{**values, **changes})


def test_image_of_object_is_the_image_whose_rows_they_are() -> None:
    data = _annotations([2, 0, 3])
    assert data.image_of_object.tolist() == [0, 0, 2, 2, 2]
    assert [data.objects(index) for index in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 5)]


def test_concatenate_keeps_each_image_with_its_objects() -> None:
    fault = Fault("x.xml", "object 1", "wrong")
    parts = [
        _annotations([2, 0, 3], 1, left_out=frozenset("xy")),
        _annotations([], 2),
        _annotations([0, 1], 3, dropped=(fault,), left_out=frozenset("yz")),
    ]
    joined = concatenate(parts)
    expected = [(part.image_ids[i], part.boxes[part.objects(i)].tolist()) for part in parts for i in range(len(part))]
    assert [(joined.image_ids[i], joined.boxes[joined.objects(i)].tolist()) for i in range(len(joined))] == expected
    assert joined.left_out == {"x", "y", "z"}
    assert joined.dropped == (fault,) and len(joined) == 5 and joined.offsets.tolist() == [0, 2, 2, 5, 5, 6]


def test_concatenate_refuses_what_does_not_fit_together() -> None:
    with pytest.raises(UserError, match="--data.classes"):
        concatenate([_annotations([1]), _annotations([1], class_names=("a", "b"))])
    with pytest.raises(UserError, match="without annotation files"):
        concatenate([_annotations([1]), _annotations([0], annotated=False)])


def test_training_sees_boxes_within_their_images() -> None:
    """And none of which nothing is left, as there may be when nobody has checked them."""
    boxes = np.array([[-1, -0.5, 9, 50.5], [1, 2, 3, 4], [50, 1, 51, 9], [40, 2, 50.25, 4]])
    data = _annotations([2, 2], boxes=boxes, ignore=np.zeros(4, bool), areas=np.array([1.0, 2, 3, 4]))
    for empty in ("keep", "drop"):
        cut = for_training(data, DataSettings(empty=empty))
        assert cut.boxes.tolist() == [[0, 0, 9, 50], [1, 2, 3, 4], [40, 2, 50, 4]]
        assert cut.offsets.tolist() == [0, 2, 3] and cut.areas.tolist() == [1, 2, 4]
    assert np.array_equal(data.boxes, boxes)
    assert for_training(cut, DataSettings()) is cut


def test_difficult_objects_are_left_used_or_dropped() -> None:
    data = _annotations([4, 0, 9, 1])
    assert data.ignore.any() and not data.ignore.all()
    assert for_training(data, DataSettings(difficult="ignore")) is data
    used = for_training(data, DataSettings(difficult="use"))
    assert not used.ignore.any() and data.ignore.any() and np.array_equal(used.boxes, data.boxes)
    dropped = for_training(data, DataSettings(difficult="drop"))
    for index in range(len(data)):
        rows = [row for row in range(data.offsets[index], data.offsets[index + 1]) if not data.ignore[row]]
        for name in ("boxes", "labels", "areas"):
            assert np.array_equal(getattr(dropped, name)[dropped.objects(index)], getattr(data, name)[rows])
    assert not dropped.ignore.any()


@pytest.mark.parametrize(
    ("difficult", "left"),
    [("ignore", [1, 4]), ("use", [1, 3, 4]), ("drop", [1, 4])],
)
def test_images_without_a_target_are_left_out(difficult: str, left: list[int]) -> None:
    """Five images: without objects, with one, without, with two ignored ones, with an ignored and an ordinary one."""
    ignore = np.array([False, True, True, True, False])
    data = _annotations([0, 1, 0, 2, 2], ignore=ignore, category_ids=(3, 5, 90))
    settings = DataSettings(difficult=difficult, empty="drop")
    kept = for_training(data, settings)
    assert kept.image_ids.tolist() == [f"0_{index}" for index in left] and len(kept.sizes) == len(left)
    for index, before in enumerate(left):
        rows = np.arange(data.offsets[before], data.offsets[before + 1])
        rows = rows[~ignore[rows]] if difficult == "drop" else rows
        assert np.array_equal(kept.boxes[kept.objects(index)], data.boxes[rows])
        assert kept.image_paths[index] == data.image_paths[before]
    assert len(kept.boxes) == kept.offsets[-1] and kept.offsets[0] == 0
    assert kept.category_ids == (3, 5, 90)
    again = for_training(kept, settings)
    assert all(np.array_equal(getattr(again, name), getattr(kept, name)) for name in ("offsets", "boxes", "ignore"))


def test_a_set_with_nothing_to_learn_from_is_refused() -> None:
    for data, reason in ((_annotations([]), "no usable image"), (_annotations([0, 0]), "none of its 2 images")):
        with pytest.raises(UserError, match=f"2007/trainval cannot be trained on: .*{reason}"):
            for_training(data, DataSettings(empty="drop"))
    assert len(for_training(_annotations([0, 0]), DataSettings())) == 2


def test_reading_gives_rgb_as_stored_whatever_the_mode(tmp_path: Path) -> None:
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[0, 0], pixels[2, 4] = (255, 0, 0), (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:, :, 2]).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert read_image(tmp_path / "grey.png")[2, 4].tolist() == [3, 3, 3]
    assert read_image(tmp_path / "a.png").flags.writeable


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (20, 30, 3)
    assert read_size(tmp_path / "a.jpg") == (20, 30)


def test_what_does_not_decode_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    encoded = cv2.imencode(".jpg", noise)[1].tobytes()
    (tmp_path / "half.jpg").write_bytes(encoded[: len(encoded) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    Image.fromarray(np.full((4, 4), 60000, np.uint16)).save(tmp_path / "deep.png")
    for name, reason in (("half", "truncated"), ("text", "not an image"), ("missing", "no such image")):
        with pytest.raises(UserError, match=f"{name}.jpg.*{reason}"):
            read_image(tmp_path / f"{name}.jpg")
    with pytest.raises(UserError, match="deep.png: more than 8 bits"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (600, 800)),
        ((500, 375), (800, 600)),
        ((200, 500), (400, 1000)),
        ((333, 500), (600, 901)),
        ((600, 700), (600, 700)),
    ],
)
def test_resized_size_follows_the_published_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(size, 600, 1000) == expected


@pytest.mark.parametrize("size", [(24, 31), (5, 7), (12, 16)])
def test_resize_is_plain_bilinear_interpolation(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    resized = resize(image, size)
    assert resized.dtype == np.uint8 and np.abs(resized - expected).max() <= 1.0
