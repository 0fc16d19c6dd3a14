"""Reader of data in COCO's format: the official layout, or any such file (see `detection.data.coco_sets`).

Letters: ``I`` images, ``M`` annotations of a file, ``K`` classes. Categories keep their own ids (1..90 with gaps) in
`Annotations.category_ids`; labels are 1..K.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.box_forms import boxes_from_coco
from detection.data.checks import Fault, require_clean
from detection.data.coco_file import Annotation, Categories, File, Image, Scalar, category_table, decode
from detection.data.coco_sets import Listing, Place, open_set, place_of, split_union
from detection.data.dataset import Annotations, concatenate
from detection.errors import UserError

_ELSEWHERE, _LEFT_OUT = -2, -1
"""Instead of an index: the image is not in the file, or it is unusable."""
_UNKNOWN, _NOT_CHOSEN = -1, 0
"""Instead of a label: the category is not in the file, or it is none of the classes."""
_NO_BOX = (float("nan"),) * 4
_NUMBER_OR_NONE = frozenset((float, type(None)))


def read_coco(
    root: str | Path, sets: str, classes: Sequence[str] = (), on_error: str = "fail", pictures: bool = True
) -> Annotations:
    """Reads one or more sets; every fault in them is found before anything else happens.

    Args:
        root: the folder that names in `sets` are relative to.
        sets: "train2017", "train2014+valminusminival2014", or "IMAGES_DIR=FILE.json".
        classes: class names in the order of their labels; objects of other categories are left out. None takes those
            of :func:`find_classes` for these sets alone.
        on_error: "fail" stops on faults. "drop" leaves out the object, or the image when it is unusable, and hands
            the faults back in `Annotations.dropped`.
        pictures: whether the images must be there.

    Returns:
        The images of each file by ascending id, one file after another. A set whose file has no "annotations" is not
        annotated. An object without an area (or with NaN for it) has that of its box.

    Raises:
        UserError: a file or folder is missing, a file is not in COCO's format, an image is named twice, there are
            faults and `on_error` is "fail", or a set without annotations is to be joined with annotated ones.
    """
    places = [open_set(Path(root), spec, pictures) for spec in split_union(sets)]
    names = tuple(classes) or find_classes(root, (sets,))
    tables, parts = [], []
    for place in places:
        content = decode(place.file, File)
        tables.append(category_table(content, place.file))
        _require_known(names, tables[-1], place.file)
        parts.append(_SetReader(place, content, names, tables[-1], pictures).read())
        del content  # hundreds of megabytes, not to be held beside those of the next file
    if len(parts) > 1:
        _require_once(places, parts)
    read = replace(concatenate(parts), category_ids=_own_ids(names, tables))
    if on_error == "fail":
        require_clean(read.dropped)
    return read


def find_classes(root: str | Path, sets: Iterable[str]) -> tuple[str, ...]:
    """The names of all categories by ascending id; files that give one name different ids are joined by name.

    Args:
        root: as for :func:`read_coco`.
        sets: whose names are put together; those that do not exist are passed over, unless none does.

    Raises:
        UserError: no set exists, or no file lists a category.
    """
    specs = dict.fromkeys(part for spec in sets for part in split_union(spec))
    places = [place for place in (place_of(Path(root), spec) for spec in specs) if place.file.is_file()]
    if not places:
        open_set(Path(root), list(specs)[-1])  # says what is missing
    found = _ids_by_name(category_table(decode(place.file, Categories), place.file) for place in places)
    if not found:
        files = ", ".join(str(place.file) for place in places)
        raise UserError(f"{files}: no categories to take class names from; give them by --data.classes")
    return tuple(sorted(found, key=found.__getitem__))


def _require_known(names: Sequence[str], table: Mapping[str, int], file: Path) -> None:
    if table and not set(names) & set(table):
        raise UserError(
            f"{file}: no category is called {', '.join(names[:5])}; its names are {', '.join(list(table)[:10])}"
            f"{', ...' if len(table) > 10 else ''} (--data.classes chooses of them)"
        )


def _ids_by_name(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The id of each name in the first table that has it."""
    ids: dict[str, int] = {}
    for name, own in itertools.chain.from_iterable(table.items() for table in tables):
        ids.setdefault(name, own)
    return ids


def _own_ids(names: Sequence[str], tables: Sequence[Mapping[str, int]]) -> tuple[int, ...]:
    """The id of each class in the first file that lists it; the next free number when none does or the id is taken.

    None at all when no file lists categories, which a file without annotations may leave out.
    """
    known = _ids_by_name(tables)
    if not known:
        return ()
    free = itertools.count(max(known.values()) + 1)
    ids: dict[int, str] = {}
    for name in names:
        own = known.get(name)
        ids[next(free) if own is None or own in ids else own] = name
    return tuple(ids)


def _require_once(places: Sequence[Place], parts: Sequence[Annotations]) -> None:
    """Raises a UserError when sets that are joined have an image in common."""
    named: dict[str, Path] = {}
    for place, part in zip(places, parts, strict=True):
        given, real = str(place.folder), os.path.realpath(place.folder)
        paths = [os.path.normpath(real + path.removeprefix(given)) for path in part.image_paths.tolist()]
        for path in filter(named.__contains__, paths):
            again = f"names image {path}, which {named[path]} has named before"
            raise UserError(f"{place.file}: {again}; name each image of sets to be joined once")
        named.update(dict.fromkeys(paths, place.file))


class _Columns(NamedTuple):
    """The annotations of a file as arrays."""

    images: np.ndarray
    """(M,) int64: index of the image, `_LEFT_OUT` or `_ELSEWHERE`."""
    labels: np.ndarray
    """(M,) int64: 1..K, `_NOT_CHOSEN` or `_UNKNOWN`."""
    values: np.ndarray
    """(M, 4) float64: x, y, width, height as in the file; NaN unless these are four values, and for what is null."""
    areas: np.ndarray
    """(M,) float64; NaN where the file has none."""
    crowds: np.ndarray
    """(M,) bool: iscrowd."""


class _SetReader:
    """Reads one set: keeps what is sound and collects the faults of the rest."""

    def __init__(
        self, place: Place, content: File, names: Sequence[str], table: Mapping[str, int], pictures: bool
    ) -> None:
        self._place = place
        self._content = content
        self._names = tuple(names)
        self._listing = Listing(place.folder) if pictures else None
        label = {name: number for number, name in enumerate(names, start=1)}
        self._label: dict[Scalar, int] = {own: label.get(name, _NOT_CHOSEN) for name, own in table.items()}
        self._category: dict[Scalar, str] = {own: name for name, own in table.items()}
        self._faults: list[Fault] = []

    def read(self) -> Annotations:
        images = self._sound_images()
        ids, folder = [str(image.id) for image, _ in images], str(self._place.folder)
        sizes = np.array([(image.height, image.width) for image, _ in images], np.int32).reshape(-1, 2)
        columns = self._columns(ids)
        kept = (columns.images >= 0) & (columns.labels > 0) & ~self._faulty(columns, sizes)
        order = np.flatnonzero(kept)[np.argsort(columns.images[kept], kind="stable")]
        values, areas = columns.values[order], columns.areas[order]
        return Annotations(
            class_names=self._names,
            image_ids=np.array(ids, dtype=np.str_),
            image_paths=np.array([os.path.join(folder, path) for _, path in images], dtype=np.str_),
            sizes=sizes,
            offsets=np.searchsorted(columns.images[order], np.arange(len(images) + 1)).astype(np.int64),
            boxes=boxes_from_coco(values),
            labels=columns.labels[order],
            ignore=columns.crowds[order],
            areas=np.where(np.isnan(areas), values[:, 2] * values[:, 3], areas),
            annotated=self._content.annotations is not None,
            dropped=tuple(self._faults),
            left_out=frozenset(str(image.id) for image in self._content.images) - frozenset(ids),
        )

    def _sound_images(self) -> list[tuple[Image, str]]:
        """The usable images with their files, by ascending id: COCO's protocol breaks ties of scores in this order."""
        listed = [(image, os.path.normpath(image.file_name)) for image in self._content.images]
        owners: dict[str, str] = {}
        first: dict[str, Image] = {}
        shared = set()
        for image, path in listed:
            if owners.setdefault(str(image.id), path) != path:
                shared.add(str(image.id))
            first.setdefault(path, image)
        sound = []
        for image, path in listed:
            if str(image.id) in shared:
                reason = f"its image id {image.id!r} is that of another image too"
            else:
                reason = _why_unusable(image, path, self._listing)
            if not reason and first[path] is not image:
                reason = f"{self._place.file.name} lists it again, with image id {image.id!r}"
            if reason:
                self._faults.append(Fault(f"{self._place.folder.name}/{image.file_name}", "", reason))
            else:
                sound.append((image, path))
        return sorted(sound, key=lambda pair: (isinstance(pair[0].id, str), pair[0].id))

    def _columns(self, ids: Sequence[str]) -> _Columns:
        items = self._content.annotations or []
        index = {str(image.id): _LEFT_OUT for image in self._content.images}
        index |= {image_id: number for number, image_id in enumerate(ids)}
        boxes = [item.bbox if _has_four_values(item.bbox) else _NO_BOX for item in items]
        areas = [item.area if type(item.area) is float else None for item in items]
        return _Columns(
            images=np.array([index.get(str(item.image_id), _ELSEWHERE) for item in items], np.int64),
            labels=np.array([self._label.get(item.category_id, _UNKNOWN) for item in items], np.int64),
            values=np.array(boxes, np.float64).reshape(-1, 4),
            areas=np.array(areas, np.float64),
            crowds=np.array([item.iscrowd == 1 for item in items], bool),
        )

    def _faulty(self, columns: _Columns, sizes: np.ndarray) -> np.ndarray:
        """(M,) bool; the faults of each object are noted. Of images and classes left out, none is."""
        items = self._content.annotations or []
        tests = _tests(columns, sizes, items)
        counted = (columns.images != _LEFT_OUT) & (columns.labels != _NOT_CHOSEN)
        faulty = np.logical_or.reduce([wrong for wrong, _ in tests]) & counted
        file = os.path.join(self._place.file.parent.name, self._place.file.name)
        for row in np.flatnonzero(faulty).tolist():
            reasons = ", ".join(reason(row) for wrong, reason in tests if wrong[row])
            self._faults.append(Fault(file, self._called(row, items[row]), reasons))
        return faulty

    def _called(self, row: int, item: Annotation) -> str:
        """`annotations[3] with id 17 (dog) of image 42`."""
        own = "" if item.id is None else f" with id {_shown(item.id)}"
        category = self._category.get(item.category_id)
        image = "" if item.image_id is None else f" of image {_shown(item.image_id)}"
        return f"annotations[{row}]{own}{f' ({category})' if category else ''}{image}"


def _has_four_values(bbox: Any) -> bool:
    return type(bbox) is tuple and len(bbox) == 4 and _NUMBER_OR_NONE.issuperset(map(type, bbox))


def _why_unusable(image: Image, path: str, listing: Listing | None) -> str:
    """What is wrong with an image's entry, in words; empty when nothing is. Without a listing, no file is missed."""
    if image.width is None or image.height is None:
        return f"image {image.id!r} has no width and height"
    sides = (image.width, image.height)
    if not all(1 <= side < 2**31 and side % 1 == 0 for side in sides):
        return f"image {image.id!r} is {image.width:g} x {image.height:g} pixels"
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        return "file_name leaves the image folder"
    return listing.why_absent(path) if listing else ""


_Test = tuple[np.ndarray, Callable[[int], str]]


def _tests(columns: _Columns, sizes: np.ndarray, items: Sequence[Annotation]) -> list[_Test]:
    """What can be wrong with an object: where it is (M,), and how to say it of a row.

    Args:
        columns: the file's annotations.
        sizes: (I, 2) rows and columns of the images that are kept.
        items: M, what `columns` was made from.
    """

    def told(key: str, problem: str) -> Callable[[int], str]:
        return lambda row: _told(key, getattr(items[row], key), problem)

    areas = np.array([type(item.area) in _NUMBER_OR_NONE for item in items], bool)
    crowds = np.array([item.iscrowd in (0, 1, None) for item in items], bool)
    return [
        (columns.images == _ELSEWHERE, told("image_id", "is not among the images")),
        (columns.labels == _UNKNOWN, told("category_id", "is not among the categories")),
        (_repeated(items), told("id", "is that of an earlier annotation too")),
        *_box_tests(columns, sizes, items),
        (~areas, told("area", "is no number")),
        (columns.areas < 0, told("area", "is negative")),
        (~crowds, told("iscrowd", "is neither 0 nor 1")),
    ]


def _box_tests(columns: _Columns, sizes: np.ndarray, items: Sequence[Annotation]) -> list[_Test]:
    """The part of :func:`_tests` that is about boxes; NaN passes all but the first."""
    x, y, width, height = columns.values.T
    bottom, right = np.full((2, len(items)), np.inf)
    inside = columns.images >= 0
    bottom[inside], right[inside] = sizes[columns.images[inside]].T
    far = (x < -1) | (y < -1) | (x + width > right + 1) | (y + height > bottom + 1)
    beside = (x >= right) | (y >= bottom) | (x + width <= 0) | (y + height <= 0)  # within that pixel, nothing is left

    def told(row: int, problem: str) -> str:
        return _told("bbox", items[row].bbox, problem)

    def size(row: int) -> str:
        return f"the image of {right[row]:g} x {bottom[row]:g} pixels"

    return [
        (np.isnan(columns.values).any(axis=1), lambda row: told(row, _why_no_box(items[row].bbox))),
        (width <= 0, lambda row: told(row, f"has width {width[row]:g}")),
        (height <= 0, lambda row: told(row, f"has height {height[row]:g}")),
        (far, lambda row: told(row, f"reaches more than one pixel out of {size(row)}")),
        (beside & ~far, lambda row: told(row, f"lies outside {size(row)}")),
    ]


def _why_no_box(bbox: Any) -> str:
    if isinstance(bbox, tuple) and len(bbox) == 4:
        return "has a value that is no number"
    return "is not x, y, width, height"


def _told(key: str, value: Any, problem: str) -> str:
    return f"{key} is missing" if value is None else f"{key} {_shown(value)} {problem}"


def _shown(value: Any) -> str:
    """A value of the file in a few words: numbers short, text in quotes."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value[:5]))}{', ...' if len(value) > 5 else ''}]"
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _repeated(items: Sequence[Annotation]) -> np.ndarray:
    """(M,) bool: an earlier annotation has the same id."""
    first: dict[Scalar, int] = {}
    return np.array(
        [item.id is not None and first.setdefault(item.id, row) != row for row, item in enumerate(items)], bool
    )
