"""Reduced decoding: what samples are with it and without."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.config import AugmentSettings, DataSettings
from detection.data import jpeg
from detection.data.dataset import Annotations, ImageSize, Sample, read_image, resize
from detection.data.loader import (
    DetectionDataset,
    ScoringDataset,
    scoring_loader,
    training_loader,
)
from detection.data.transforms import TrainTransform
from detection.data.voc import read_voc
from detection.errors import UserError

SIZE = ImageSize(36, 64, padding=16)


@pytest.fixture
def large(tmp_path: Path, write_set: Callable[..., Path], xml_object: Callable[..., str]) -> Annotations:
    """Smooth pictures with odd sides, and one that is as small as what is made of it."""
    sizes = {"0": (203, 301), "1": (305, 207), "2": (401, 403), "3": (20, 30)}
    objects = [xml_object("a", 2, 3, 11, 14), xml_object("b", 1.5, 2.25, 19.75, 20)]
    folder = write_set(tmp_path, dict.fromkeys(sizes, objects), sizes=sizes)
    for number, (name, (rows, columns)) in enumerate(sizes.items()):
        coarse = np.random.default_rng(number).integers(0, 256, (3, 3, 3), np.uint8)
        smooth = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "JPEGImages" / f"{name}.jpg"), smooth)
    return read_voc(folder, "train", ("a", "b"))


@pytest.fixture
def factors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By what each file was reduced, in the order of decoding."""
    seen = []
    decode = jpeg.decode_jpeg
    monkeypatch.setattr(jpeg, "decode_jpeg", lambda content, factor: seen.append(factor) or decode(content, factor))
    return seen


def _require_same_but_pixels(first: Sample, second: Sample) -> None:
    """Measured on these pictures: 0.5 levels on average, 1.5 in the worst of them."""
    assert first.image.shape == second.image.shape and first.original_size == second.original_size
    for name in ("boxes", "labels", "ignore"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype
    assert (first.position, first.index) == (second.position, second.index)
    assert np.abs(first.image.astype(int) - second.image).mean() <= 2


@pytest.mark.parametrize(("side", "factor"), [(80, 2), (40, 4), (20, 8)])
@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_training_samples_are_the_same_but_for_pixels(
    large: Annotations, factors: list[int], side: int, factor: int, colour: float
) -> None:
    augment = AugmentSettings(hflip=0.5, vflip=0.5, colour=colour, scale_jitter=(0.8, 1.2))
    plain = DataSettings(min_size=(side // 2, side), max_size=2 * side, augment=augment, workers=0)
    datasets = [
        DetectionDataset(large, TrainTransform(replace(plain, reduced_decoding=reduced), 3))
        for reduced in (False, True)
    ]
    for key in itertools.product(range(6), range(4)):
        full, reduced = (dataset[key] for dataset in datasets)
        _require_same_but_pixels(full, reduced)
    assert set(factors[0::2]) == {1} and set(factors[1::2]) == {1, factor, min(2 * factor, 8)}


@pytest.mark.parametrize(("side", "factor"), [(100, 2), (50, 4), (25, 8)])
def test_scored_samples_are_the_same_but_for_pixels(
    large: Annotations, factors: list[int], side: int, factor: int
) -> None:
    sizes = [ImageSize(shorter, 2 * side, 16) for shorter in (side / 2, side, side / 3)]
    for index in range(4):
        full, reduced = (ScoringDataset(large, sizes, is_reduced)[index, index] for is_reduced in (False, True))
        for one, other in zip(full, reduced, strict=True):
            _require_same_but_pixels(one, other)
    assert set(factors[0::2]) == {1} and factor in factors[1::2]


def test_cropped_images_and_those_of_the_default_are_decoded_in_full(large: Annotations, factors: list[int]) -> None:
    cropped = DataSettings(min_size=(32, 40), max_size=64, augment=AugmentSettings(crop=0.5, hflip=0.5), workers=0)
    first, second = (
        DetectionDataset(large, TrainTransform(replace(cropped, reduced_decoding=reduced), 3))
        for reduced in (False, True)
    )
    for index in range(4):
        assert np.array_equal(first[index, index].image, second[index, index].image)
        plain = resize(read_image(large.image_paths[index]), SIZE.resized(tuple(large.sizes[index])))
        assert np.array_equal(ScoringDataset(large, [SIZE])[index, index][0].image, plain)
    assert set(factors) == {1}


@pytest.mark.parametrize("off", [(1, 0), (0, -1), (500, 500), (-395, -395)])
def test_an_image_of_another_size_is_named_when_it_is_reduced_too(large: Annotations, off: tuple[int, int]) -> None:
    large.sizes[2] += off
    rows, columns = large.sizes[2]
    with pytest.raises(
        UserError, match=rf"2\.jpg: the image has 403 x 401 pixels, its annotation says {columns} x {rows}"
    ):
        ScoringDataset(large, [SIZE], reduced_decoding=True)[2, 2]


def test_a_truncated_image_is_refused_by_both_loaders(large: Annotations) -> None:
    path = Path(large.image_paths[0])
    path.write_bytes(path.read_bytes()[:-2])
    settings = DataSettings(min_size=(32, 40), max_size=64, reduced_decoding=True, workers=0)
    with pytest.raises(UserError, match=r"0\.jpg: the image does not decode"):
        list(scoring_loader(large, [SIZE], batch_size=2, workers=0, reduced_decoding=True))
    with pytest.raises(UserError, match=r"0\.jpg: the image does not decode"):
        transform = TrainTransform(settings, 3)
        list(itertools.islice(training_loader(large, settings, transform, batch_size=4, seed=0, padding=16), 2))
