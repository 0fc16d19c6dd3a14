"""Reader of ImageNet's localization data (ILSVRC CLS-LOC) in Kaggle's layout.

The root holds ``LOC_synset_mapping.txt``, a class a line as "n01440764 tench, Tinca tinca"; ``LOC_val_solution.csv``
and ``LOC_train_solution.csv`` with the boxes; and ``Data/CLS-LOC/{val,train}`` with the pictures, those of "train" in
one folder per synset. Sets are called "train" and "val"; a union is joined by "+".

Letters: ``I`` images, ``M`` boxes, ``K`` classes. File coordinates are 0-based and inclusive; everything that leaves
this module is continuous.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detection.config import DataSettings
from detection.data.checks import Fault, require_clean
from detection.data.dataset import UNDECODABLE, Annotations, concatenate, read_size, why_undecodable
from detection.errors import UserError

MAPPING = "LOC_synset_mapping.txt"
HEADER = "ImageId,PredictionString"
"""First line of a file of boxes."""
VAL_IMAGES = 50_000
"""The blacklist holds numbers up to this."""
SOURCE = (
    "ImageNet's localization data come from kaggle.com/c/imagenet-object-localization-challenge "
    f"({MAPPING}, LOC_train_solution.csv, LOC_val_solution.csv and Data/CLS-LOC, unpacked into one folder)"
)

_THREADS = 16
_CHUNK = 256
"""Headers that a thread reads at a time."""
_BOX = ("xmin", "ymin", "xmax", "ymax")


def read_ilsvrc(settings: DataSettings, sets: str, classes: Sequence[str] = (), pictures: bool = True) -> Annotations:
    """Reads one or more sets; every fault in them is found before anything else happens.

    An image that its file lists with a synset and no box is one whose class alone is known; with nothing at all, one
    without objects. Training pictures that the file does not list (more than half of ImageNet's have no box) are not
    in the set, and are not looked for.

    Args:
        settings: `root`; `on_error`: "fail" stops on faults, "drop" leaves out the box, or the image when it is
            unusable, and hands the faults back in `Annotations.dropped`; `ids` and `blacklist`: the devkit's files,
            of which the second leaves images of "val" out, whose ids are then in `Annotations.left_out`.
        sets: "train", "val" or "train+val".
        classes: synsets, or whole lines of the mapping, in the order of their labels; boxes of other classes are left
            out. None takes those of :func:`find_classes`.
        pictures: whether the images must be there. Their headers are read for the sizes, which takes minutes for the
            half a million of "train"; otherwise sizes are 0.

    Returns:
        The images of each set in the order of their ids. `category_ids` are the devkit's where `settings.ids` names
        its map, otherwise the numbers of the lines of the mapping.

    Raises:
        UserError: a file or folder is missing or not what it should be, a class is not in the mapping, or there are
            faults and `on_error` is "fail".
    """
    root = Path(settings.root)
    lines = _read_mapping(root)
    names = tuple(lines.get(name, name) for name in classes) or tuple(lines.values())
    ids = _own_ids(lines, settings.ids)
    synsets = {line: synset for synset, line in lines.items()}
    for name in names:
        if name not in synsets:
            raise UserError(f"{root / MAPPING}: no class is {name!r}; give --data.classes synsets of this file")
    numbers = {name: label for label, name in enumerate(names, start=1)}
    labels = {synset: numbers.get(line, 0) for synset, line in lines.items()}
    banned = _read_blacklist(settings.blacklist)
    parts = [_read_set(_locate(root, spec, pictures), names, labels, banned, pictures) for spec in _split(sets)]
    read = replace(concatenate(parts), category_ids=tuple(ids[synsets[name]] for name in names))
    if settings.on_error == "fail":
        require_clean(read.dropped)
    return read


def find_classes(root: str | Path, sets: Iterable[str]) -> tuple[str, ...]:
    """All lines of the mapping, whatever the sets hold.

    Raises:
        UserError: the mapping is missing, or not one.
    """
    return tuple(_read_mapping(Path(root)).values())


def _read_lines(path: Path, missing: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty; `missing` is said when there is no file."""
    if not path.is_file():
        raise UserError(missing)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def _read_mapping(root: Path) -> dict[str, str]:
    """The line of each synset, in the order of the file."""
    path = root / MAPPING
    lines: dict[str, str] = {}
    for number, line in _read_lines(path, f"--data.root {root}: no {MAPPING} there; name yours. {SOURCE}"):
        synset = line.split()[0]
        if synset in lines:
            raise UserError(f"{path}: line {number}: synset {synset} has a line before; list each class once")
        lines[synset] = line
    if not lines:
        raise UserError(f"{path}: lists no class; write lines such as 'n01440764 tench, Tinca tinca'")
    return lines


def _own_ids(lines: dict[str, str], file: str) -> dict[str, int]:
    """The id of each synset in files of guesses: of the devkit's map `file`, or the number of its line.

    A line of the map is "ID SYNSET", "SYNSET ID" (as the devkit's map_clsloc.txt) or "SYNSET", which counts the lines;
    what follows is passed over.
    """
    if not file:
        return {synset: number for number, synset in enumerate(lines, start=1)}
    ids: dict[str, int] = {}
    listed = _read_lines(Path(file), f"--data.ids {file}: no such file; name the devkit's list of synsets")
    for count, (number, line) in enumerate(listed, start=1):
        words = line.split()[:2]
        synset = next((word for word in words if word in lines), None)
        if synset is None:
            raise UserError(f"{file}: line {number}: {' '.join(words)!r} holds no synset of {MAPPING}; mend the line")
        own = next((int(word) for word in words if word != synset and word.isdecimal()), count)
        if synset in ids or own in ids.values():
            raise UserError(f"{file}: line {number}: synset {synset} or id {own} has a line before; list each once")
        ids[synset] = own
    absent = next((synset for synset in lines if synset not in ids), None)
    if absent is not None:
        raise UserError(f"{file}: has no line for synset {absent} of {MAPPING}; list every class")
    return ids


def _read_blacklist(file: str) -> frozenset[int]:
    """The numbers of the validation images that are left out."""
    if not file:
        return frozenset()
    numbers = set()
    for number, line in _read_lines(Path(file), f"--data.blacklist {file}: no such file; name the devkit's list"):
        if not line.isdecimal() or not 1 <= int(line) <= VAL_IMAGES:
            raise UserError(f"{file}: line {number}: {line!r} is no number of 1 to {VAL_IMAGES}; write one a line")
        numbers.add(int(line))
    return frozenset(numbers)


def _split(sets: str) -> list[str]:
    specs = [spec.strip() for spec in sets.split("+")]
    for spec in specs:
        if specs.count(spec) > 1:
            raise UserError(f"{sets}: joins {spec} with itself; name each set once")
    return specs


class _Place(NamedTuple):
    """One set on disk."""

    file: Path
    """Its boxes."""
    path: Callable[[str], str]
    """Where the picture of an image id is."""
    is_val: bool


def _locate(root: Path, spec: str, pictures: bool) -> _Place:
    file, folder = root / f"LOC_{spec}_solution.csv", root / "Data" / "CLS-LOC" / spec
    if not file.is_file():
        there = sorted(found.name[4:-13] for found in root.glob("LOC_*_solution.csv"))
        hint = f"its sets are {', '.join(there)}" if there else SOURCE
        raise UserError(f"--data.root {root}: no file {file.name} for the set {spec!r}; {hint}")
    if pictures and not folder.is_dir():
        raise UserError(f"{file}: no folder {folder}; put the images of {spec} there")
    nested = spec == "train"  # its images are called SYNSET_NUMBER
    return _Place(
        file,
        lambda name: os.path.join(folder, name.rpartition("_")[0] if nested else "", f"{name}.JPEG"),
        spec == "val",
    )


class _Row(NamedTuple):
    """An image of the file."""

    line: int
    name: str
    words: list[str]
    """Groups of a synset and four numbers, or a synset alone."""
    size: tuple[int, int] = (0, 0)
    """Rows and columns."""


class _Faults:
    """Faults of one file, told in the order of its lines."""

    def __init__(self, file: Path) -> None:
        self._file = file.name
        self._found: list[tuple[int, Fault]] = []

    def add(self, line: int, thing: str, reason: str) -> None:
        self._found.append((line, Fault(f"{self._file}: line {line}", thing, reason)))

    def ordered(self) -> tuple[Fault, ...]:
        return tuple(fault for _, fault in sorted(self._found, key=lambda found: found[0]))


def _read_set(
    place: _Place, names: tuple[str, ...], labels: dict[str, int], banned: frozenset[int], pictures: bool
) -> Annotations:
    """One set: `labels` has the label of each synset, 0 for a class that was not asked for."""
    faults = _Faults(place.file)
    listed = _listed(place, faults)
    rows = [row for row in listed if not (place.is_val and _number(row.name) in banned)]
    rows = _of_one_class(rows, labels, faults)
    rows = _with_sizes(rows, place, faults) if pictures else rows
    rows.sort(key=lambda row: row.name)
    classes = np.array([labels[row.words[0]] if row.words else 0 for row in rows], np.int64)
    found = [_boxes(row, faults) if label else [] for row, label in zip(rows, classes, strict=True)]
    counts = [len(values) for values in found]
    boxes = np.array([*itertools.chain.from_iterable(found)], np.float64).reshape(-1, 4) + [0, 0, 1, 1]
    return Annotations(
        class_names=names,
        image_ids=np.array([row.name for row in rows], dtype=np.str_),
        image_paths=np.array([place.path(row.name) for row in rows], dtype=np.str_),
        sizes=np.array([row.size for row in rows], np.int32).reshape(-1, 2),
        offsets=np.cumsum([0, *counts], dtype=np.int64),
        boxes=boxes,
        labels=np.repeat(classes, counts),
        ignore=np.zeros(len(boxes), bool),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        dropped=faults.ordered(),
        left_out=frozenset(row.name for row in listed) - frozenset(row.name for row in rows),
        image_classes=classes,
    )


def _listed(place: _Place, faults: _Faults) -> list[_Row]:
    """The rows of a file; of an image that it lists twice, the first."""
    lines = _read_lines(place.file, f"{place.file}: no such file")
    first = next(lines, (1, ""))
    if first[1] != HEADER:
        raise UserError(f"{place.file}: line {first[0]}: {first[1][:40]!r} is not the header; write {HEADER}")
    rows: dict[str, _Row] = {}
    for number, line in lines:
        name, comma, words = (part.strip() for part in line.partition(","))
        if not name or not comma:
            faults.add(number, "", f"{line[:40]!r} is not an image id, a comma and its boxes")
        elif name in rows:
            faults.add(number, "", f"names image {name}, which line {rows[name].line} has named before")
        else:
            rows[name] = _Row(number, name, words.split())
    if not rows:
        raise UserError(f"{place.file}: the set names no image; write lines of an image id and its boxes")
    return list(rows.values())


def _number(name: str) -> int:
    """50000 of "ILSVRC2012_val_00050000"; 0 of a name that has none."""
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def _of_one_class(rows: Iterable[_Row], labels: dict[str, int], faults: _Faults) -> list[_Row]:
    """The rows whose groups are whole and of one known synset."""
    kept = []
    for row in rows:
        synsets = list(dict.fromkeys(row.words[::5]))
        unknown = [synset for synset in synsets if synset not in labels]
        if len(row.words) % 5 and len(row.words) != 1:
            faults.add(
                row.line, "", f"image {row.name}: {len(row.words)} words are no groups of synset {' '.join(_BOX)}"
            )
        elif unknown:
            faults.add(row.line, "", f"image {row.name}: synset {unknown[0]} is not in {MAPPING}")
        elif len(synsets) > 1:
            faults.add(
                row.line, "", f"image {row.name}: two classes, {synsets[0]} and {synsets[1]}, where one is allowed"
            )
        else:
            kept.append(row)
    return kept


def _with_sizes(rows: Sequence[_Row], place: _Place, faults: _Faults) -> list[_Row]:
    """The rows whose pictures have a header, with their sizes."""
    paths = [place.path(row.name) for row in rows]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as threads:
        sizes = itertools.chain.from_iterable(threads.map(lambda chunk: [*map(_size, chunk)], chunks))
    kept = []
    for row, path, size in zip(rows, paths, sizes, strict=True):
        if isinstance(size, str):
            faults.add(row.line, "", f"image {row.name}: {size}: {path}")
        else:
            kept.append(row._replace(size=size))
    return kept


def _size(path: str) -> tuple[int, int] | str:
    """Rows and columns of a picture, or why it has none."""
    try:
        return read_size(path)
    except FileNotFoundError:
        return "no such file"
    except UNDECODABLE as error:
        return f"unreadable image ({why_undecodable(error)})"


def _boxes(row: _Row, faults: _Faults) -> list[tuple[float, ...]]:
    """The sound boxes of a row, in file coordinates."""
    kept = []
    for place in range(0, len(row.words) - 1, 5):
        values, reason = _values(row.words[place + 1 : place + 5], row.size)
        if reason:
            faults.add(row.line, f"image {row.name}, box {place // 5 + 1}", reason)
        else:
            kept.append(values)
    return kept


def _values(words: Sequence[str], size: tuple[int, int]) -> tuple[tuple[float, ...], str]:
    """xmin, ymin, xmax, ymax, and what is wrong with them; where the size is not known, and so 0, it sets no limit."""
    try:
        values = tuple(map(float, words))
    except ValueError:
        values = (math.nan,) * 4
    if not all(map(math.isfinite, values)):
        return values, f"{' '.join(words)!r} are not four numbers"
    xmin, ymin, xmax, ymax = values
    rows, columns = size[0] or math.inf, size[1] or math.inf
    if -1 <= xmin <= xmax <= columns and -1 <= ymin <= ymax <= rows:
        return values, ""
    tests = (
        (xmax < xmin, f"xmax {xmax:g} < xmin {xmin:g}"),
        (ymax < ymin, f"ymax {ymax:g} < ymin {ymin:g}"),
        (xmin < -1, f"xmin {xmin:g} is more than one pixel left of the image"),
        (ymin < -1, f"ymin {ymin:g} is more than one pixel above the image"),
        (xmax > columns, f"xmax {xmax:g} is more than one pixel right of the image ({columns:g} columns)"),
        (ymax > rows, f"ymax {ymax:g} is more than one pixel below the image ({rows:g} rows)"),
    )
    return values, ", ".join(reason for wrong, reason in tests if wrong)
