"""Reader of data in COCO's format: the official layout, or any such file.

The official layout is ``annotations/instances_train2017.json`` beside the folder ``train2017``, and the set is called
"train2017"; sets without annotations have an ``image_info_test-dev2017.json`` instead. Any other file is called
"IMAGES_DIR=FILE.json", both relative to the root. A union is joined by "+".

Letters: ``I`` images, ``M`` annotations of a file, ``K`` classes. Categories keep their own ids (1..90 with gaps) in
`Annotations.category_ids`; labels are 1..K.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detection.data.checks import Fault, require_clean
from detection.data.coco_file import Annotation, Categories, File, Image, category_table, decode
from detection.data.dataset import Annotations, concatenate
from detection.errors import UserError

SOURCE = (
    "COCO comes as archives from images.cocodataset.org (zips/train2017.zip, zips/val2017.zip and "
    "annotations/annotations_trainval2017.zip; the same with 2014), unpacked into one folder"
)

IMAGE_FOLDERS = {
    "minival2014": "val2014",
    "valminusminival2014": "val2014",
    "test-dev2015": "test2015",
    "test-dev2017": "test2017",
}
"""Where the images of a set are when they are not in a folder of its own name."""

_KINDS = ("instances", "image_info")
"""How the official files' names begin: of sets with annotations, and of those without."""

_ELSEWHERE, _LEFT_OUT = -2, -1
"""Instead of an index: the image is not in the file, or it is unusable."""
_UNKNOWN, _NOT_CHOSEN = -1, 0
"""Instead of a label: the category is not in the file, or it is none of the classes."""


def read_coco(root: str | Path, sets: str, classes: Sequence[str] = (), on_error: str = "fail") -> Annotations:
    """Reads one or more sets; every fault in them is found before anything else happens.

    Args:
        root: the folder that names in `sets` are relative to.
        sets: "train2017", "train2014+valminusminival2014", or "IMAGES_DIR=FILE.json".
        classes: class names in the order of their labels; objects of other categories are left out. None takes those
            of :func:`find_classes` for these sets alone.
        on_error: "fail" stops on faults. "drop" leaves out the object, or the image when it is unusable, and hands
            the faults back in `Annotations.dropped`.

    Returns:
        The images of each file by ascending id, one file after another. A set whose file has no "annotations" is not
        annotated.

    Raises:
        UserError: a file or folder is missing, a file is not in COCO's format, an image is named twice, there are
            faults and `on_error` is "fail", or a set without annotations is to be joined with annotated ones.
    """
    places = [_open_set(Path(root), spec.strip()) for spec in sets.split("+")]
    names = tuple(classes) or find_classes(root, (sets,))
    tables, parts = [], []
    for place in places:
        content = decode(place.file, File)
        tables.append(category_table(content, place.file))
        _require_known(names, tables[-1], place.file)
        parts.append(_SetReader(place, content, names, tables[-1]).read())
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
    specs = dict.fromkeys(part.strip() for spec in sets for part in spec.split("+"))
    places = [place for place in (_place(Path(root), spec) for spec in specs) if place.file.is_file()]
    if not places:
        _open_set(Path(root), list(specs)[-1])  # says what is missing
    found = _ids_by_name(category_table(decode(place.file, Categories), place.file) for place in places)
    if not found:
        files = ", ".join(str(place.file) for place in places)
        raise UserError(f"{files}: no categories to take class names from; give them by --data.classes")
    return tuple(sorted(found, key=found.__getitem__))


class _Place(NamedTuple):
    """One set on disk."""

    file: Path
    folder: Path
    """Where its images are."""


def _place(root: Path, spec: str) -> _Place:
    folder, is_pair, file = (part.strip() for part in spec.rpartition("="))
    if is_pair:
        return _Place(root / file, root / folder)
    files = [root / "annotations" / f"{kind}_{spec}.json" for kind in _KINDS]
    return _Place(files[1] if files[1].is_file() else files[0], root / IMAGE_FOLDERS.get(spec, spec))


def _open_set(root: Path, spec: str) -> _Place:
    place = _place(root, spec)
    if not place.file.is_file():
        raise UserError(_what_is_missing(root, spec, place.file))
    if not place.folder.is_dir():
        hint = f"put the images of {place.file} there; {SOURCE}"
        raise UserError(f"--data.root {root}: no folder {place.folder} for the set {spec}; {hint}")
    return place


def _what_is_missing(root: Path, spec: str, file: Path) -> str:
    if not root.is_dir():
        return f"--data.root {root}: no such folder (looked for {file}); {SOURCE}"
    files = [(kind, path.stem) for kind in _KINDS for path in (root / "annotations").glob(f"{kind}_*.json")]
    available = sorted(stem.removeprefix(f"{kind}_") for kind, stem in files)
    there = f"the sets there are {', '.join(available)}" if available else f"no set is there at all; {SOURCE}"
    return f"--data.root {root}: no set {spec} (looked for {file}); {there}; any other file is IMAGES_DIR=FILE.json"


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


def _require_once(places: Sequence[_Place], parts: Sequence[Annotations]) -> None:
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
    """(M, 4) float64: x, y, width, height as in the file; what is no number is NaN."""
    areas: np.ndarray
    """(M,) float64; NaN where the file has none."""
    crowds: np.ndarray
    """(M,) bool: iscrowd."""


class _SetReader:
    """Reads one set: keeps what is sound and collects the faults of the rest."""

    def __init__(self, place: _Place, content: File, names: Sequence[str], table: Mapping[str, int]) -> None:
        self._place = place
        self._content = content
        self._names = tuple(names)
        label = {name: number for number, name in enumerate(names, start=1)}
        self._label = {own: label.get(name, _NOT_CHOSEN) for name, own in table.items()}
        self._category = {own: name for name, own in table.items()}
        self._faults: list[Fault] = []

    def read(self) -> Annotations:
        images = self._sound_images()
        sizes = np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2)
        folder = str(self._place.folder)
        columns = self._columns(images)
        kept = columns.images >= 0
        kept &= (columns.labels > 0) & ~self._faulty(columns, sizes)
        order = np.flatnonzero(kept)[np.argsort(columns.images[kept], kind="stable")]
        index, values = columns.images[order], columns.values[order]
        corners = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1)
        areas = columns.areas[order]
        return Annotations(
            class_names=self._names,
            image_ids=np.array([str(image.id) for image in images], dtype=np.str_),
            image_paths=np.array([os.path.join(folder, image.file_name) for image in images], dtype=np.str_),
            sizes=sizes,
            offsets=np.searchsorted(index, np.arange(len(images) + 1)).astype(np.int64),
            boxes=np.clip(corners, 0, sizes[index][:, [1, 0, 1, 0]]),
            labels=columns.labels[order],
            ignore=columns.crowds[order],
            areas=np.where(np.isnan(areas), values[:, 2] * values[:, 3], areas),
            annotated=self._content.annotations is not None,
            dropped=tuple(self._faults),
        )

    def _sound_images(self) -> list[Image]:
        """The usable images by ascending id: COCO's protocol breaks ties of scores in this order."""
        owners: dict[str, Image] = {}
        names: dict[str, Image] = {}
        shared = set()
        for image in self._content.images:
            if owners.setdefault(str(image.id), image).file_name != image.file_name:
                shared.add(str(image.id))
            names.setdefault(image.file_name, image)
        listing = _Listing(self._place.folder)
        sound = []
        for image in self._content.images:
            if str(image.id) in shared:
                reason = f"its image id {image.id!r} is that of another image too"
            elif names[image.file_name] is not image:
                reason = f"{self._place.file.name} lists it again, with image id {image.id!r}"
            else:
                reason = _why_unusable(image, listing)
            if reason:
                self._faults.append(Fault(f"{self._place.folder.name}/{image.file_name}", "", reason))
            else:
                sound.append(image)
        return sorted(sound, key=lambda image: (isinstance(image.id, str), image.id))

    def _columns(self, images: Sequence[Image]) -> _Columns:
        items = self._content.annotations or []
        index = {str(image.id): _LEFT_OUT for image in self._content.images}
        index |= {str(image.id): number for number, image in enumerate(images)}
        return _Columns(
            images=np.array([index.get(str(item.image_id), _ELSEWHERE) for item in items], np.int64),
            labels=np.array([self._label.get(item.category_id, _UNKNOWN) for item in items], np.int64),
            values=np.array([item.bbox for item in items], np.float64).reshape(-1, 4),
            areas=np.array([item.area for item in items], np.float64),
            crowds=np.array([item.iscrowd for item in items], bool),
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
        own = "" if item.id is None else f" with id {item.id}"
        category = self._category.get(item.category_id)
        return f"annotations[{row}]{own}{f' ({category})' if category else ''} of image {item.image_id}"


def _why_unusable(image: Image, listing: "_Listing") -> str:
    """What is wrong with an image's entry, in words; empty when nothing is."""
    if image.width is None or image.height is None:
        return f"image {image.id!r} has no width and height"
    if not all(1 <= side < 2**31 for side in (image.width, image.height)):
        return f"image {image.id!r} is {image.width:g} x {image.height:g} pixels"
    path = os.path.normpath(image.file_name)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        return "file_name leaves the image folder"
    return "" if path in listing else "no such image"


class _Listing:
    """Which files are below a folder: each folder is listed once, instead of a look at every file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            whole = self._root / folder
            self._folders[folder] = frozenset(os.listdir(whole) if whole.is_dir() else ())
        return name in self._folders[folder]


_Test = tuple[np.ndarray, Callable[[int], str]]


def _tests(columns: _Columns, sizes: np.ndarray, items: Sequence[Annotation]) -> list[_Test]:
    """What can be wrong with an object: where it is (M,), and how to say it of a row.

    Args:
        columns: the file's annotations.
        sizes: (I, 2) rows and columns of the images that are kept.
        items: M, what `columns` was made from.
    """
    x, y, width, height = columns.values.T
    bottom, right = np.full((2, len(items)), np.inf)
    inside = columns.images >= 0
    bottom[inside], right[inside] = sizes[columns.images[inside]].T
    far = (x < -1) | (y < -1) | (x + width > right + 1) | (y + height > bottom + 1)
    beside = (x >= right) | (y >= bottom) | (x + width <= 0) | (y + height <= 0)  # within that pixel, nothing is left

    def box(row: int) -> str:
        return "bbox [" + ", ".join("none" if value is None else f"{value:g}" for value in items[row].bbox) + "]"

    def size(row: int) -> str:
        return f"the image of {right[row]:g} x {bottom[row]:g} pixels"

    return [
        (columns.images == _ELSEWHERE, lambda row: f"image_id {items[row].image_id!r} is not among the images"),
        (columns.labels == _UNKNOWN, lambda row: f"category_id {items[row].category_id} is not among the categories"),
        (_repeated(items), lambda row: f"id {items[row].id!r} is that of an earlier annotation too"),
        (np.isnan(columns.values).any(axis=1), lambda row: f"{box(row)} has a value that is no number"),
        (width <= 0, lambda row: f"{box(row)} has width {width[row]:g}"),
        (height <= 0, lambda row: f"{box(row)} has height {height[row]:g}"),
        (far, lambda row: f"{box(row)} reaches more than one pixel out of {size(row)}"),
        (beside & ~far, lambda row: f"{box(row)} lies outside {size(row)}"),
    ]


def _repeated(items: Sequence[Annotation]) -> np.ndarray:
    """(M,) bool: an earlier annotation has the same id."""
    first: dict[int | str | None, int] = {}
    return np.array(
        [item.id is not None and first.setdefault(item.id, row) != row for row, item in enumerate(items)], bool
    )
