"""Files in COCO's format, decoded: images, annotations, categories, and the place of whatever is not in that form."""

import mmap
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from detection.errors import UserError

_FORM = (
    "a COCO file has images (id, file_name, width, height), annotations (image_id, category_id, bbox) "
    "and categories (id, name)"
)
_STRING_OR_NONE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?(?:NaN|Infinity)')
"""Strings (which are to be passed over), and what Python's json writes for floats that are no numbers."""
_HALF_CHARACTER = re.compile(rb"\\\\|(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])")
r"""Backslashes (which are to be passed over), and the first of two such escapes without the second: "\ud83d"."""
_TAIL = 1 << 20
"""Bytes at the end of a file in which its categories are looked for first."""


class Image(msgspec.Struct, gc=False):
    """An image; sizes may be floats, which some software writes."""

    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None


Scalar = int | float | str | bool | None
"""Whatever may stand where an id should."""
_Value = float | str | bool | list | dict | None
"""Whatever may stand where a number should."""


class Annotation(msgspec.Struct, gc=False):
    """An object as it stands in the file: whether its values make sense is for the reader to say, object by object.

    Polygons and all other keys are passed over in the file, never held.
    """

    image_id: Scalar = None
    category_id: Scalar = None
    bbox: tuple[_Value, ...] | float | str | bool | dict | None = None
    id: Scalar = None
    area: _Value = None
    iscrowd: Any = 0


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
                found = _categories_beside_annotations(data) if kind is Categories else None
                return _parse(data, kind, path) if found is None else found
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


def _categories_beside_annotations(data: mmap.mmap) -> Categories | None:
    """The categories of a file that has them last (as COCO's do) or before "annotations": no look at 450 MB of objects.

    In JSON, what stands before or behind a key makes an object by itself only when the key is one of the outermost
    object: inside of an inner one there would be brackets too few or too many. None when neither part is such.
    """
    before, behind = data.find(b'"annotations"'), data.rfind(b'"categories"', max(0, len(data) - _TAIL))
    if behind > 0 and data[behind - 1] != ord("\\"):
        found = _categories_in(b"{" + data[behind:])
        if found:
            return found
    return _categories_in(data[:before].rstrip(b", \t\r\n") + b"}") if before > 0 else None


def _categories_in(part: bytes) -> Categories | None:
    """None unless the part of a file is JSON by itself, with at least one category."""
    try:
        found = msgspec.json.decode(part, type=Categories)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.categories else None


def _parse(data: mmap.mmap | bytes, kind: type[Content], path: Path, has_null: bool = False) -> Content:
    """Decodes; a file with NaN is decoded a second time with null in its place, and `has_null` says that it is."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}; {_FORM}") from None
    except msgspec.DecodeError as error:
        place = re.search(r"byte (\d+)", str(error))
        at = int(place[1]) if place else len(data)
        if has_null or data[at : at + 3] not in (b"NaN", b"Inf"):
            what = _why_malformed(data, at, str(error)) if place else _why_unfinished(data)
            raise UserError(f"{path}: {what}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be decoded ({error}); save it as JSON in UTF-8") from None
    except RecursionError:
        raise UserError(f"{path}: has brackets within brackets without end; {_FORM}") from None
    return _parse(_with_null(data), kind, path, has_null=True)


def _why_malformed(data: mmap.mmap | bytes, at: int, message: str) -> str:
    what = message.removeprefix("JSON is malformed: ").partition(" (byte")[0]
    snippet = data[max(0, at - 20) : at + 20].decode("utf-8", "replace")
    fix = "mend it there, or copy or download the file again" if at else "name a file of JSON in UTF-8 (without a mark)"
    return f"is not JSON: {what} near byte {at}, in {snippet!r}; {fix}"


def _why_unfinished(data: mmap.mmap | bytes) -> str:
    r"""What is wrong where msgspec misses the end of the data, or the second half of an escape such as "\ud83d"."""
    for match in _HALF_CHARACTER.finditer(data):
        if match[1]:
            half = f"{match[1].decode()} at byte {match.start()} is half of a character"
            return f"{half}; write the other half behind it, or take it out"
    return f"the JSON ends in the middle, after {len(data)} bytes; copy or download the file again"


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
