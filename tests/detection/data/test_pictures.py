"""What opening a picture finds out, on files made for it."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.dataset import read_image
from detection.data.pictures import CHUNK, look_at, look_at_pictures
from detection.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)


def _saved(path: Path, mode: str = "RGB", **options) -> str:
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    return str(path)


def _turned(path: Path, orientation: int) -> str:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _saved(path, exif=exif)


def test_traits(tmp_path: Path) -> None:
    cases = {
        _saved(tmp_path / "plain.jpg"): (),
        _saved(tmp_path / "grey.jpg", "L"): ("grey",),
        _saved(tmp_path / "ink.jpg", "CMYK"): ("CMYK",),
        _saved(tmp_path / "bits.png", "1"): ("black and white",),
        _saved(tmp_path / "palette.png", "P"): ("palette",),
        _saved(tmp_path / "see_through.png", "P", transparency=0): ("palette", "transparent"),
        _saved(tmp_path / "alpha.png", "RGBA"): ("transparent",),
        _saved(tmp_path / "grey_alpha.png", "LA"): ("grey", "transparent"),
        _turned(tmp_path / "upright.jpg", 1): (),
        _turned(tmp_path / "turned.jpg", 6): ("turned by EXIF",),
        _turned(tmp_path / "nonsense.jpg", 77): (),
    }
    for path, traits in cases.items():
        found = look_at(path)
        assert (found.fault, found.size, found.traits) == ("", (6, 9), traits), path


def test_sixteen_bits_are_a_fault_when_grey_and_a_trait_when_coloured(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "grey.png"), PIXELS[..., 0].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "colour.png"), PIXELS.astype(np.uint16) * 257)
    assert look_at(str(tmp_path / "grey.png")).fault == "more than 8 bits per channel; save the image with 8"
    found = look_at(str(tmp_path / "colour.png"))
    assert (found.fault, found.traits) == ("", ("16 bits",))


def test_what_training_refuses_is_a_fault(tmp_path: Path) -> None:
    whole = Path(_saved(tmp_path / "whole.jpg")).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) - 20])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name, words in (("half", "truncated"), ("text", "not an image"), ("empty", "not an image")):
        path = tmp_path / f"{name}.jpg"
        fault = look_at(str(path)).fault
        assert fault.startswith("unreadable image (") and words in fault
        with pytest.raises(UserError):
            read_image(path)
    assert look_at(str(tmp_path / "folder.jpg")).fault.startswith("unreadable image (")
    assert look_at(str(tmp_path / "absent.jpg")).fault == "no such image"


def test_equal_files_have_equal_digests(tmp_path: Path) -> None:
    one, two, other = (look_at(_saved(tmp_path / name)) for name in ("one.png", "two.png", "other.jpg"))
    assert one.digest == two.digest != other.digest and len(one.digest) == 16


def test_processes_find_the_same_in_the_same_order_and_tell_how_far_they_are(tmp_path: Path) -> None:
    names = [_saved(tmp_path / "a.png"), _saved(tmp_path / "b.png", "L"), str(tmp_path / "absent.png")]
    paths = (names * CHUNK)[: 2 * CHUNK + 5]
    told: list[int] = []
    assert look_at_pictures(paths, told.append) == [look_at(path) for path in paths]
    assert told == [CHUNK, 2 * CHUNK, 2 * CHUNK + 5]
    assert look_at_pictures([]) == []


def test_a_killed_process_is_told(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.png")

    def kill(done: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(UserError, match="a.png.*was killed"):
        look_at_pictures([path] * (40 * CHUNK), kill)
