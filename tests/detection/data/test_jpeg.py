"""OpenCV decodes what Pillow would, and nothing that Pillow would refuse."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data.dataset import read_image
from detection.data.jpeg import decode_jpeg, is_complete

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
