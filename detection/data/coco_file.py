"""Files in COCO's format, decoded: images, annotations, categories, and the place of whatever is not in that form."""

import mmap
import os
import re
from collections import Counter
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from detection.errors import UserError

_FORM = (
    "a COCO file has images (id, file_name, width, height), annotations (image_id, category_id, bbox) "
    "and categories (id, name)"
)
_STRING_OR_NONE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?(?:NaN|Infinity)')
"""Strings (which are to be passed over), and what Python's json writes for floats that are no numbers."""


class Image(msgspec.Struct, gc=False):
    """An image; sizes may be floats, which some software writes."""

    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None


class Annotation(msgspec.Struct, gc=False):
    """An object. Polygons and all other keys are passed over in the file, never held."""

    image_id: int | str
    category_id: int
    bbox: tuple[float | None, float | None, float | None, float | None]
    id: int | str | None = None
    area: float | None = None
    iscrowd: Literal[0, 1] | bool = 0


class Category(msgspec.Struct):
    """A class as the file calls it."""

    id: int
    name: str


class Categories(msgspec.Struct):
    """What a file says about classes; the rest of it is passed over."""

    categories: list[Category] = []


class File(Categories, kw_only=True):
    """A whole file; `annotations` is None where it has no such key (test sets)."""

    images: list[Image]
    annotations: list[Annotation] | None = None


Content = TypeVar("Content", Categories, File)


def decode(path: Path, kind: type[Content]) -> Content:
    """What the file holds. It is mapped into memory, so that its bytes are not copied.

    Raises:
        UserError: the file cannot be read, is not JSON, or is not in COCO's format.
    """
    try:
        with open(path, "rb") as file:
            if not os.path.getsize(path):
                raise UserError(f"{path}: the file is empty; copy or download it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(data, kind, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a file in COCO's format") from error


def category_table(content: Categories, file: Path) -> dict[str, int]:
    """Id by name.

    Raises:
        UserError: two categories share a name or an id.
    """
    for key in ("id", "name"):
        value, count = (Counter(getattr(item, key) for item in content.categories).most_common(1) or [("", 0)])[0]
        if count > 1:
            raise UserError(f"{file}: {count} categories have the {key} {value!r}; give each its own")
    return {category.name: category.id for category in content.categories}


def _parse(data: mmap.mmap | bytes, kind: type[Content], path: Path) -> Content:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}; {_FORM}") from None
    except msgspec.DecodeError as error:
        place = re.search(r"byte (\d+)", str(error))
        if place is None:
            what = f"the JSON ends in the middle, after {len(data)} bytes"
            raise UserError(f"{path}: {what}; copy or download the file again") from None
        at = int(place[1])
        if data[at : at + 3] not in (b"NaN", b"Inf"):
            snippet = data[max(0, at - 20) : at + 20].decode("utf-8", "replace")
            raise UserError(f"{path}: is not JSON: {error}, in {snippet!r}; repair or replace the file") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be decoded ({error}); save it as JSON in UTF-8") from None
    return _parse(_with_null(data), kind, path)


def _with_null(data: mmap.mmap | bytes) -> bytes:
    """The file with null for NaN and Infinity, which Python writes and JSON does not have.

    As null they arrive where they can be told as a fault of their object.
    """
    pieces, start = [], 0
    for match in _STRING_OR_NONE.finditer(data):
        if data[match.start()] != ord('"'):
            pieces += [data[start : match.start()], b"null"]
            start = match.end()
    return b"".join([*pieces, data[start:]])
