"""Opening every picture of a data set before anyone trains on it.

Letters: ``I`` images.
"""

import hashlib
import io
import os
import signal
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from PIL import ExifTags, Image

from detection.data.dataset import UNDECODABLE, to_rgb, why_undecodable
from detection.errors import UserError

CHUNK = 64
"""Pictures that a process looks at between two reports; a set with no more is looked at without further processes."""

KINDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey",
    "La": "grey",
    "CMYK": "CMYK",
    "P": "palette",
    "PA": "palette",
}
"""What Pillow's modes are called; red, green and blue are not worth a word."""

_UNREADABLE_EXIF = (*UNDECODABLE, struct.error, KeyError, TypeError)


@dataclass(frozen=True)
class Picture:
    """What a look at one file found out."""

    fault: str = ""
    """Why it cannot be used; empty when it can."""
    size: tuple[int, int] = (0, 0)
    """Rows and columns as stored; zeros without an image."""
    traits: tuple[str, ...] = ()
    """What is unusual but usable: "grey", "CMYK", "palette", "transparent", "turned by EXIF", "16 bits"."""
    digest: bytes = b""
    """Of the file's content: equal for equal files."""


def look_at_pictures(paths: Sequence[str], progress: Callable[[int], None] = lambda done: None) -> list[Picture]:
    """Opens and fully decodes every file, as training does, on all cores.

    Args:
        paths: I files.
        progress: is told how many are done, now and then.

    Returns:
        I pictures, in the order of the paths.

    Raises:
        UserError: a process was killed, as happens when the memory is used up.
    """
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    found: list[Picture] = []
    try:
        for part in _in_processes(chunks) if len(chunks) > 1 else map(_look_at_all, chunks):
            found += part
            progress(len(found))
    except (BrokenProcessPool, BrokenPipeError):  # the latter when it could not even begin
        near = f"one of {paths[len(found)]} and those after it"
        raise UserError(
            f"{near}: the process that opened it was killed; free memory, or remove a giant picture"
        ) from None
    return found


def available_cores() -> int:
    """Processor cores that this process may use; not every system says which, then all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def look_at(path: str) -> Picture:
    """Opens and decodes one file; whatever is wrong with it is in the result."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return Picture("no such image")
    except OSError as error:
        return Picture(f"unreadable image ({error.strerror})")
    try:
        with Image.open(io.BytesIO(content)) as image:
            traits = tuple(_traits(image))
            fault = "" if _decodes(image) else "more than 8 bits per channel; save the image with 8"
            return Picture(
                fault, (image.height, image.width), traits, hashlib.blake2b(content, digest_size=16).digest()
            )
    except UNDECODABLE as error:
        return Picture(f"unreadable image ({why_undecodable(error)})")


def _decodes(image: Image.Image) -> bool:
    """Whether training can read it; what is RGB already is decoded without being copied into an array."""
    try:
        return (image.load() if image.mode == "RGB" else to_rgb(image, "", obey_exif=False)) is not None
    except UserError:
        return False


def _traits(image: Image.Image) -> Iterator[str]:
    if image.mode in KINDS:
        yield KINDS[image.mode]
    elif image.mode not in ("RGB", "RGBA", "RGBX", "RGBa") and not image.mode.startswith(("I", "F")):
        yield f"mode {image.mode}"
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        yield "transparent"
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        yield "16 bits"
    if _orientation(image) != 1:
        yield "turned by EXIF"


def _orientation(image: Image.Image) -> int:
    """EXIF's 1 to 8, of which 1 is upright; a broken EXIF block counts as none, since data sets ignore it."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _UNREADABLE_EXIF:
        return 1
    return value if value in range(1, 9) else 1


def _in_processes(chunks: Sequence[Sequence[str]]) -> Iterator[list[Picture]]:
    """Fresh processes rather than forks: a fork copies the threads' locks of whatever the program has imported."""
    cores = available_cores()
    with ProcessPoolExecutor(min(cores, len(chunks)), get_context("spawn"), _begin) as pool:
        yield from pool.map(_look_at_all, chunks)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others


def _look_at_all(paths: Sequence[str]) -> list[Picture]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on broken metadata, which nothing here reads
        return [look_at(path) for path in paths]
