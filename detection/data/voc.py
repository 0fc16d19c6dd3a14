"""Reader of data in PASCAL VOC layout: a devkit with its years, or any folder laid out in the same way.

A devkit holds ``VOC2007/{Annotations,ImageSets/Main,JPEGImages}`` and further years, and its sets are called
"2007/trainval"; any other folder holds the three themselves, and its sets are called "train". A union is joined by "+".
A set file has one image name a line; in a devkit's list of a single class, 1, 0 or -1 follows it: there is an object of
the class, a difficult one alone, or none, and images without one are not in the set.

Letters: ``M`` objects. File coordinates are 1-based and inclusive; everything that leaves this module is continuous.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from detection.config import VOC_CLASSES
from detection.data.box_forms import voc_to_boxes
from detection.data.checks import Fault, require_clean
from detection.data.dataset import UNDECODABLE, Annotations, concatenate, read_size, why_undecodable
from detection.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""What image files end with, in any mixture of upper and lower case."""

SOURCE = (
    "PASCAL VOC comes as archives from host.robots.ox.ac.uk/pascal/VOC (VOCtrainval_06-Nov-2007.tar, "
    "VOCtest_06-Nov-2007.tar, VOCtrainval_11-May-2012.tar), unpacked into one VOCdevkit folder"
)

_MARKED = re.compile(r"(\S+)\s+(-1|0|1)")
"""Line of a devkit's list of a class: the image's name, and whether it shows one."""
_UNREADABLE = (ParseError, DefusedXmlException, OSError, ValueError, LookupError)
"""What parsing a broken file raises; a LookupError when it claims an encoding that does not exist."""


def read_voc(
    root: str | Path, sets: str, classes: Sequence[str] = (), on_error: str = "fail", pictures: bool = True
) -> Annotations:
    """Reads one or more sets; every fault in them is found before anything else happens.

    Args:
        root: a devkit, or a folder that itself holds Annotations, JPEGImages and ImageSets/Main.
        sets: "2007/trainval+2012/trainval" under a devkit, "train" or "train+val" elsewhere.
        classes: class names in the order of their labels; objects of other classes are left out, as none was asked
            for. None takes those of :func:`find_classes` for these sets alone. VOC's own 20 are no such choice:
            among them another name is a fault.
        on_error: "fail" stops on faults. "drop" leaves out the object, or the image when it is unusable, and hands
            the faults back in `Annotations.dropped`.
        pictures: whether the images must be there. They are opened for their sizes, which the XML must agree with;
            otherwise the XML is taken at its word, and a size it does not give is 0 unless the image is there.

    Returns:
        The annotations in the order of the set files. A set of which no image has an annotation file is not annotated.

    Raises:
        UserError: the root or a set is missing, two sets name the same image, no object is of the classes, there are
            faults and `on_error` is "fail", or a set without annotations is to be joined with annotated ones.
    """
    places = _locate(root, sets, pictures)
    is_choice = bool(classes) and set(classes) != set(VOC_CLASSES)
    names = tuple(classes) or find_classes(root, (sets,))
    readers = [_SetReader(place, names, is_choice, pictures) for place in places]
    read = concatenate([reader.read() for reader in readers])
    if is_choice:
        _require_known(names, set().union(*(reader.seen for reader in readers)), f"{root}: {sets}")
    if on_error == "fail":
        require_clean(read.dropped)
    return read


def find_classes(root: str | Path, sets: Iterable[str]) -> tuple[str, ...]:
    """Class names when none are given: the 20 of VOC in a devkit, otherwise what the annotation files name.

    Args:
        root: as for :func:`read_voc`.
        sets: whose names are put together; those that do not exist are passed over, unless none does.

    Returns:
        All 20 for sets of a devkit. Otherwise the names found, in VOC's order when all are VOC's, else sorted.

    Raises:
        UserError: no set exists, or there is no object to take a name from.
    """
    sets = tuple(sets)
    if all("/" in part for spec in sets for part in spec.split("+")):
        return VOC_CLASSES
    parts = dict.fromkeys(part.strip() for spec in sets for part in spec.split("+"))
    places = [
        place for part in parts if _set_file(root, part).is_file() for place in _locate(root, part, pictures=False)
    ]
    if not places:
        _locate(root, sets[-1], pictures=False)  # says what is missing
    files = dict.fromkeys(place.annotation(name) for place in places for name in place.ids if name in place.annotated)
    found = {name for file in files for name in _names_in(file)}
    if not found:
        raise UserError(
            f"{root}: no object to take class names from in {', '.join(parts)}; give them by --data.classes"
        )
    return tuple(sorted(found, key=VOC_CLASSES.index if found <= set(VOC_CLASSES) else None))


def _require_known(names: Sequence[str], seen: set[str], where: str) -> None:
    if seen and not set(names) & seen:
        known = sorted(seen)
        raise UserError(
            f"{where} has no object that is called {', '.join(names[:5])}; its names are {', '.join(known[:10])}"
            f"{', ...' if len(known) > 10 else ''} (--data.classes chooses of them)"
        )


class _Place(NamedTuple):
    """One set on disk."""

    file: Path
    """The set file."""
    folder: Path
    ids: list[str]
    images: dict[str, str]
    """File name by image id, of everything in JPEGImages."""
    annotated: frozenset[str]
    """Ids of everything in Annotations."""

    def annotation(self, name: str) -> Path:
        return self.folder / "Annotations" / f"{name}.xml"


def _locate(root: str | Path, sets: str, pictures: bool) -> list[_Place]:
    places = [_open_set(Path(root), spec.strip(), pictures) for spec in sets.split("+")]
    named: dict[tuple[Path, str], Path] = {}
    for place in places:
        for key in dict.fromkeys((place.folder, name) for name in place.ids):
            if key in named:
                again = f"names image {key[1]}, which {named[key]} has named before"
                raise UserError(f"{place.file}: {again}; name each image of sets to be joined once")
            named[key] = place.file
    return places


def _open_set(root: Path, spec: str, pictures: bool) -> _Place:
    file = _set_file(root, spec)
    if not file.is_file():
        raise UserError(_what_is_missing(root, spec, file))
    folder = file.parents[2]
    ids = _read_ids(file)
    if not ids:
        raise UserError(f"{file}: the set names no image; write one image name per line")
    if pictures and not (folder / "JPEGImages").is_dir():
        raise UserError(f"{folder}: no folder JPEGImages beside ImageSets; put the images of {spec} there")
    # One listing per folder instead of a look at each file. In reverse order, so that a.jpg wins over a.png.
    split = [os.path.splitext(name) for name in sorted(_names_below(folder / "JPEGImages"), reverse=True)]
    images = {stem: stem + suffix for stem, suffix in split if suffix.lower() in IMAGE_SUFFIXES}
    annotations = _names_below(folder / "Annotations")
    return _Place(file, folder, ids, images, frozenset(name[:-4] for name in annotations if name.endswith(".xml")))


def _names_below(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _read_ids(file: Path) -> list[str]:
    """The image names in a set file, without those that a devkit's list of a class marks with -1."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text; save it as UTF-8") from None
    ids = []
    for line in filter(None, map(str.strip, lines)):
        marked = _MARKED.fullmatch(line)
        if marked is None:
            ids.append(line)
        elif marked[2] != "-1":
            ids.append(marked[1])
    return ids


def _set_file(root: str | Path, spec: str) -> Path:
    year, slash, name = spec.rpartition("/")
    folder = Path(root) / f"VOC{year}" if slash else Path(root)
    return folder / "ImageSets" / "Main" / f"{name}.txt"


def _what_is_missing(root: Path, spec: str, file: Path) -> str:
    if not root.is_dir():
        return f"--data.root {root}: no such folder (looked for {file}); name yours. {SOURCE}"
    if any((root / "annotations").glob("*.json")):
        return f"--data.root {root}: holds COCO files, not VOC data (no {file}); read it by --data.format coco"
    available = _available_sets(root)
    if not available and (root / "VOCdevkit").is_dir():
        return f"--data.root {root}: no set {spec} here (looked for {file}), but try --data.root {root / 'VOCdevkit'}"
    there = f"the sets there are {', '.join(available)}" if available else f"no set is there at all; {SOURCE}"
    return f"--data.root {root}: no set {spec} (looked for {file}); {there}; --data.train and --data.val name the sets"


def _available_sets(root: Path) -> list[str]:
    """The sets that could have been asked for; a devkit's lists of single classes (dog_train) are not among them."""
    years = {f"{folder.name[3:]}/": folder for folder in sorted(root.glob("VOC*")) if folder.is_dir()}
    files = [
        (year, file) for year, folder in {"": root, **years}.items() for file in folder.glob("ImageSets/Main/*.txt")
    ]
    return sorted(year + file.stem for year, file in files if file.stem.rpartition("_")[0] not in VOC_CLASSES)


def _names_in(file: Path) -> set[str]:
    """Class names in an annotation file; none if it cannot be read, which is reported when the set itself is read."""
    try:
        return {_text(element, "name") for element in parse(file).iterfind("object")} - {""}
    except _UNREADABLE:
        return set()


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


class _SetReader:
    """Reads one set: keeps what is sound and collects the faults of the rest."""

    def __init__(self, place: _Place, classes: tuple[str, ...], is_choice: bool, pictures: bool) -> None:
        """With `is_choice`, objects of other classes are passed over. `pictures`: see :func:`read_voc`."""
        self.seen: set[str] = set()  # class names, of objects that are passed over too
        self._place = place
        self._is_choice = is_choice
        self._pictures = pictures
        self._classes = classes
        self._label = {name: label for label, name in enumerate(classes, start=1)}
        self._annotated = any(name in place.annotated for name in place.ids)
        self._folder = place.folder.resolve().name
        self._faults: list[Fault] = []
        self._images: list[tuple[str, str, tuple[int, int], int]] = []
        self._values: list[tuple[float, ...]] = []
        self._labels: list[int] = []
        self._difficult: list[bool] = []

    def read(self) -> Annotations:
        for name, count in Counter(self._place.ids).items():  # in the order of the file
            if count > 1:
                self._fault(f"ImageSets/Main/{self._place.file.name}", "", f"names image {name} {count} times")
            self._read_image(name)
        ids, paths, sizes, counts = zip(*self._images, strict=True) if self._images else ((), (), (), ())
        boxes = voc_to_boxes(np.array(self._values, np.float64).reshape(-1, 4))
        return Annotations(
            class_names=self._classes,
            image_ids=np.array(ids, dtype=str),
            image_paths=np.array(paths, dtype=str),
            sizes=np.array(sizes, np.int32).reshape(-1, 2),
            offsets=np.cumsum([0, *counts], dtype=np.int64),
            boxes=boxes,
            labels=np.array(self._labels, np.int64),
            ignore=np.array(self._difficult, bool),
            areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            annotated=self._annotated,
            dropped=tuple(self._faults),
            left_out=frozenset(self._place.ids) - frozenset(ids),
        )

    def _read_image(self, name: str) -> None:
        image = self._place.images.get(name, None if self._pictures else f"{name}.jpg")
        if image is None:
            self._fault(f"JPEGImages/{name}.jpg", "", "no such image")
            return
        if self._annotated and name not in self._place.annotated:
            self._fault(f"Annotations/{name}.xml", "", "no such file, though other images of the set have theirs")
            return
        tree = self._read_xml(name) if self._annotated else Element("annotation")
        size = None if tree is None else self._size(tree, name, image)
        if size is not None:
            before = len(self._labels)
            for number, element in enumerate(tree.iterfind("object"), start=1):
                self._read_object(element, number, size, f"Annotations/{name}.xml")
            path = str(self._place.folder / "JPEGImages" / image)
            self._images.append((name, path, size, len(self._labels) - before))

    def _read_xml(self, name: str) -> Element | None:
        try:
            return parse(self._place.annotation(name)).getroot()
        except _UNREADABLE as error:
            self._fault(f"Annotations/{name}.xml", "", f"unreadable XML ({error})")
            return None

    def _size(self, tree: Element, name: str, image: str) -> tuple[int, int] | None:
        """Rows and columns of the image itself; none, and a fault, if it has none or the XML says otherwise."""
        claimed = _claimed_size(tree)
        if not self._pictures and claimed:
            return claimed
        try:
            size = read_size(self._place.folder / "JPEGImages" / image)
        except UNDECODABLE as error:
            if not self._pictures:
                return 0, 0
            self._fault(f"JPEGImages/{image}", "", f"unreadable image ({why_undecodable(error)})")
            return None
        if claimed in (None, size):
            return size
        claim, truth = (f"{columns} x {rows}" for rows, columns in (claimed, size))
        self._fault(f"Annotations/{name}.xml", "", f"size says {claim} pixels, but JPEGImages/{image} has {truth}")
        return None

    def _read_object(self, element: Element, number: int, size: tuple[int, int], file: str) -> None:
        name = _text(element, "name")
        self.seen |= {name} - {""}
        if self._is_choice and name and name not in self._label:
            return
        values, reasons = _coordinates(element)
        if not reasons:
            reasons = _misplaced(values, size)
        if name not in self._label:
            unknown = f"class {name} is not among the class names (--data.classes sets them)"
            reasons.append(unknown if name else "name is missing")
        difficult = _text(element, "difficult") or "0"
        if difficult not in ("0", "1"):
            reasons.append(f"difficult is {difficult}, not 0 or 1")
        if reasons:
            self._fault(file, f"object {number} ({name})" if name else f"object {number}", ", ".join(reasons))
        else:
            self._values.append(values)
            self._labels.append(self._label[name])
            self._difficult.append(difficult == "1")

    def _fault(self, file: str, thing: str, reason: str) -> None:
        self._faults.append(Fault(f"{self._folder}/{file}", thing, reason))


def _claimed_size(tree: Element) -> tuple[int, int] | None:
    """Rows and columns as the XML says; none when it leaves them out, or has zeros or no numbers."""
    try:
        size = int(_text(tree, "size/height")), int(_text(tree, "size/width"))
    except ValueError:
        return None
    return size if min(size) > 0 else None


def _coordinates(element: Element) -> tuple[tuple[float, ...], list[str]]:
    """xmin, ymin, xmax, ymax of the object's own box (not of its parts), and what is wrong with them."""
    box = element.find("bndbox")
    if box is None:
        return (), ["bndbox is missing"]
    values, reasons = [], []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        text = _text(box, tag)
        try:
            values.append(float(text))
        except ValueError:
            reasons.append(f"{tag} {text} is not a number" if text else f"{tag} is missing")
        else:
            if not math.isfinite(values[-1]):
                reasons.append(f"{tag} is {text}")
    return tuple(values), reasons


def _misplaced(values: tuple[float, ...], size: tuple[int, int]) -> list[str]:
    """What is wrong with the place of a box, in file coordinates; a file with 0-based corners is let through.

    Where the size of the image is not known, and so 0, no box reaches out of it to the right or below.
    """
    xmin, ymin, xmax, ymax = values
    rows, columns = (side or math.inf for side in size)
    tests = (
        (xmax <= xmin, f"xmax {xmax:g} <= xmin {xmin:g}"),
        (ymax <= ymin, f"ymax {ymax:g} <= ymin {ymin:g}"),
        (xmin < 0, f"xmin {xmin:g} is more than one pixel left of the image"),
        (ymin < 0, f"ymin {ymin:g} is more than one pixel above the image"),
        (xmax > columns + 1, f"xmax {xmax:g} is more than one pixel right of the image ({columns:g} columns)"),
        (ymax > rows + 1, f"ymax {ymax:g} is more than one pixel below the image ({rows:g} rows)"),
    )
    return [reason for wrong, reason in tests if wrong]
