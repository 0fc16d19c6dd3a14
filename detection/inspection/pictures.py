"""Copies of a data set's pictures that a browser shows as the boxes mean them, and thumbnails of them.

Boxes refer to stored pixels, but a browser turns a JPEG as its EXIF orientation says, and does not let a page on the
disk ask for anything else. So a picture with an orientation is encoded anew, without it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from detection.data.dataset import UNDECODABLE, why_undecodable
from detection.data.pictures import available_cores
from detection.errors import UserError
from detection.files import replacing

LONGEST = 1000
"""Most pixels of a copy's longer side."""
THUMBNAIL = 360
"""Most pixels of a thumbnail's longer side."""

_ORIENTATION = 0x0112
"""EXIF's tag of the way a camera was held; 1 is upright."""
_OURS = re.compile(r"\d{6,}\.jpg")
_SCAN = 0xDA
_PRIVATE = {0xE1, 0xED}
"""JPEG segments that say where, when and by whom a picture was taken: APP1 (EXIF, XMP) and APP13 (IPTC)."""


def copy_pictures(folder: Path, paths: Sequence[str], progress: Callable[[float], None]) -> dict[int, str]:
    """Writes ``pictures/000017.jpg`` and ``thumbnails/000017.jpg`` for the path at index 17, and so on.

    A JPEG of 8 bits with at most `LONGEST` pixels on a side and no orientation is copied byte by byte, except for what
    it says about place and author; all else is encoded anew. Names on the disk are numbers, so that those of the data
    set may hold anything. Copies of that kind which an earlier report left there are removed.

    Args:
        folder: where to write.
        paths: the files; they may be missing or broken.
        progress: is told the share that is done, in [0, 1].

    Returns:
        Why a picture could not be copied, by index.

    Raises:
        UserError: a copy cannot be written.
    """
    missing = {}
    # Threads, for Pillow decodes and encodes without holding the interpreter's lock: 1.8 times as fast on two cores.
    # Processes would be no faster, and a training run must not be forked once it uses a GPU.
    with ThreadPoolExecutor(available_cores()) as pool:
        reasons = pool.map(lambda item: _copy(folder, *item), enumerate(paths))
        for index, reason in enumerate(reasons):
            if reason:
                missing[index] = reason
            progress((index + 1) / len(paths))
    copies = {file_name(index) for index in range(len(paths)) if index not in missing}
    for part in ("pictures", "thumbnails"):
        remove(path for path in (folder / part).glob("*") if _OURS.fullmatch(path.name) and path.name not in copies)
    return missing


def remove(paths: Iterable[Path]) -> None:
    """Removes files of an earlier report.

    Raises:
        UserError: one cannot be removed.
    """
    for path in paths:
        try:
            path.unlink()
        except OSError as error:
            raise UserError(f"{path}: cannot be removed ({error.strerror}); choose another --output") from error


def file_name(index: int) -> str:
    """Name of the copy of picture `index`, as the page expects it."""
    return f"{index:06d}.jpg"


def _copy(folder: Path, index: int, path: str) -> str:
    """Copies one picture; returns why that is impossible, or nothing."""
    try:
        kept, large, small = _read(path)
    except FileNotFoundError:
        return "no such file"
    except UNDECODABLE as error:
        return why_undecodable(error)
    with replacing(folder / "pictures" / file_name(index)) as target:
        if kept is None:
            large.save(target, "JPEG", quality=90)
        else:
            target.write_bytes(kept)
    with replacing(folder / "thumbnails" / file_name(index)) as target:
        small.save(target, "JPEG", quality=80)
    return ""


def _read(path: str) -> tuple[bytes | None, Image.Image | None, Image.Image]:
    """The bytes if they can be copied, otherwise the decoded copy; and the thumbnail."""
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits per channel")
        as_it_is = image.format == "JPEG" and image.mode in ("RGB", "L") and max(image.size) <= LONGEST
        kept = None
        if as_it_is and image.getexif().get(_ORIENTATION, 1) == 1:
            kept = _without_private(Path(path).read_bytes())
        if kept:
            # Decoding at a half or a quarter of the size takes a part of the time, and still finds a broken file.
            image.draft(image.mode, (THUMBNAIL, THUMBNAIL))
            return kept, None, _reduced(image, THUMBNAIL)
        image.draft("RGB", (LONGEST, LONGEST))
        large = _reduced(image, LONGEST)
    return None, large, _reduced(large, THUMBNAIL)


def _without_private(jpeg: bytes) -> bytes | None:
    """The JPEG without its segments on place and author, otherwise unchanged; None where segments cannot be followed.

    Segments (ISO/IEC 10918-1, annex B): 0xFF, a marker, and a length of two bytes that counts itself.
    """
    kept, place = [jpeg[:2]], 2
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        if marker == _SCAN:
            return b"".join([*kept, jpeg[place:]])
        end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if marker not in _PRIVATE:
            kept.append(jpeg[place:end])
        place = end
    return None


def _reduced(image: Image.Image, longest: int) -> Image.Image:
    """An RGB or grey copy whose longer side has at most `longest` pixels."""
    plain = image if image.mode in ("RGB", "L") else image.convert("RGB")
    scale = longest / max(plain.size)
    if scale >= 1:
        return plain.copy()
    size = tuple(max(1, round(side * scale)) for side in plain.size)
    return plain.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
