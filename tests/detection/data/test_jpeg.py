"""OpenCV decodes what Pillow would, and nothing that Pillow would refuse."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data.dataset import read_decoded, read_image, resize
from detection.data.jpeg import decode_enough, decode_jpeg, is_complete
from detection.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (40, 24))


def _encoded(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", **options)
    return file.getvalue()


def _by_pillow(content: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None


KINDS = {
    "baseline": _encoded(),
    "progressive": _encoded(progressive=True),
    "restarts": _encoded(restart_marker_blocks=1),
    "fine": _encoded(quality=100, subsampling=0),
    "thumbnail": _encoded(exif=b"Exif\0\0" + _encoded()),  # whose end marker is not the image's
}


@pytest.mark.parametrize("kind", KINDS)
def test_cut_anywhere_a_file_is_left_to_pillow(kind: str) -> None:
    whole = KINDS[kind]
    assert not any(is_complete(whole[:length]) for length in range(len(whole)))
    assert is_complete(whole) and is_complete(whole + b"more")
    assert np.array_equal(decode_jpeg(whole), _by_pillow(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_decoded_as_by_pillow_or_left_to_it(kind: str) -> None:
    for _ in range(150):
        damaged = bytearray(KINDS[kind])
        damaged[RNG.integers(2, len(damaged))] = RNG.integers(256)
        pixels = decode_jpeg(bytes(damaged))
        assert pixels is None or np.array_equal(pixels, _by_pillow(bytes(damaged)))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_channels_come_as_from_pillow(mode: str, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(read_image(tmp_path / "a.jpg"), np.array(image.convert("RGB")))


def test_exif_turns_a_picture_only_when_it_is_to_be_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    (tmp_path / "a.jpg").write_bytes(_encoded(exif=exif))
    stored = _by_pillow((tmp_path / "a.jpg").read_bytes())
    assert np.array_equal(read_image(tmp_path / "a.jpg"), stored)
    assert np.array_equal(read_image(tmp_path / "a.jpg", obey_exif=True), np.rot90(stored, -1))


def test_photographs_differ_from_pillow_by_at_most_two_levels(shared_data: Path) -> None:
    for path in sorted((shared_data / "VOCdevkit/VOC2007/JPEGImages").glob("*.jpg"))[:20]:
        content = path.read_bytes()
        assert np.abs(decode_jpeg(content).astype(int) - _by_pillow(content)).mean() <= 2


# Reduced decoding


def _ramp(rows: int, columns: int) -> np.ndarray:
    """Grey that grows by 200 from the left edge to the right one, and falls by 40 from the upper to the lower one."""
    across, down = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    return np.repeat((50 + 200 * across - 40 * down[:, None])[..., None], 3, axis=2)


def _jpeg(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_reduced_pixel_is_the_mean_of_those_that_it_stands_for(factor: int) -> None:
    smooth = cv2.resize(PIXELS, (112, 80), interpolation=cv2.INTER_CUBIC)
    means = smooth.reshape(80 // factor, factor, 112 // factor, factor, 3).mean(axis=(1, 3))
    assert np.abs(decode_jpeg(_jpeg(smooth, quality=100, subsampling=0), factor) - means).mean() < 0.6


@pytest.mark.parametrize("size", [(402, 603), (401, 601), (403, 607)])
@pytest.mark.parametrize(("side", "factor"), [(200, 2), (199, 2), (100, 4), (83, 4), (50, 8), (23, 8)])
def test_reduced_pixels_lie_where_they_belong(size: tuple[int, int], side: int, factor: int) -> None:
    """To the last row and column, though the last reduced pixel may lie partly beyond the image."""
    content, enough = _jpeg(_ramp(*size), quality=100), (side, round(1.5 * side))
    assert decode_jpeg(content, factor).shape == (*(-(-length // factor) for length in size), 3)
    pixels = decode_enough(content, size, enough)
    assert pixels.shape == (*enough, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels - _ramp(*enough))[1:-1, 1:-1].max() < 2  # half a level of the file, of the result, of rounding


def test_below_twice_the_size_nothing_is_reduced() -> None:
    content = _jpeg(_ramp(60, 90))
    for enough in ((31, 45), (30, 46), (60, 90), (200, 300)):
        assert np.array_equal(decode_enough(content, (60, 90), enough), decode_jpeg(content))
    assert decode_enough(content, (60, 90), (30, 45)).shape == (30, 45, 3)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_what_is_left_to_pillow_is_so_for_any_factor(factor: int) -> None:
    rng = np.random.default_rng(1)
    for whole in KINDS.values():
        assert not any(decode_jpeg(whole[:length], factor) is not None for length in range(len(whole)))
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[rng.integers(2, len(damaged))] = rng.integers(256)
            assert (decode_jpeg(bytes(damaged), factor) is None) == (decode_jpeg(bytes(damaged)) is None)


def test_a_truncated_file_is_refused_also_where_little_is_wanted_of_it(tmp_path: Path) -> None:
    content = _jpeg(_ramp(60, 90))
    for length in (len(content) - 2, len(content) * 2 // 3):
        (tmp_path / "cut.jpg").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"cut\.jpg: the image does not decode \(.*truncated"):
            read_decoded(tmp_path / "cut.jpg", enough=(5, 8))


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.jpg", "CMYK")])
def test_other_files_come_whole(name: str, mode: str, tmp_path: Path) -> None:
    Image.fromarray(_ramp(60, 90).astype(np.uint8)).convert(mode).save(tmp_path / name)
    image = read_decoded(tmp_path / name, enough=(5, 8))
    assert np.array_equal(image.pixels, read_image(tmp_path / name)) and image.size == (60, 90)


def test_photographs_reduced_are_nearer_to_the_means_of_areas(shared_data: Path) -> None:
    """Measured at 1/4: 2.0 levels, and 5.1 after full decoding, whose resizing has no low-pass filter."""
    reduced, full = [], []
    for path in sorted((shared_data / "VOCdevkit/VOC2007/JPEGImages").glob("*.jpg"))[:20]:
        pixels = decode_jpeg(path.read_bytes())
        enough = tuple(length // 4 for length in pixels.shape[:2])
        wanted = cv2.resize(pixels, enough[::-1], interpolation=cv2.INTER_AREA).astype(int)
        reduced.append(np.abs(decode_enough(path.read_bytes(), pixels.shape[:2], enough) - wanted).mean())
        full.append(np.abs(resize(pixels, enough) - wanted).mean())
    assert np.mean(reduced) < np.mean(full)
