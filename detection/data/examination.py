"""Everything that can be said of a training and a validation set before anyone trains: faults, notes and numbers."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from detection.config import Config
from detection.data import class_names, read_annotations
from detection.data.checks import Fault
from detection.data.dataset import Annotations
from detection.data.overlap import shared_images
from detection.data.pictures import Picture, look_at_pictures
from detection.data.survey import Survey, survey

Progress = Callable[[str, float], None]
"""Is told what is being done, and which share of it is."""


@dataclass(frozen=True)
class Note:
    """Something unusual that training copes with."""

    what: str
    """As "grey pictures"."""
    where: tuple[str, ...]
    """The pictures, objects or classes."""


@dataclass(frozen=True)
class Examined:
    """One set."""

    name: str
    """As in the settings, "2007/trainval"."""
    annotations: Annotations
    """Without what the reader found faulty."""
    survey: Survey
    faults: tuple[Fault, ...]
    """Of the reader, of the pictures, and images that the other set has too (told of the training set alone).

    Two sets that are the same altogether are one fault.
    """
    notes: tuple[Note, ...]
    is_sound: np.ndarray
    """(I,) bool: the images that are not among the faults."""

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "set": self.name,
            **self.survey.as_record(self.annotations.class_names),
            "faults": [vars(fault) for fault in self.faults],
            "notes": [{"what": note.what, "count": len(note.where), "where": note.where} for note in self.notes],
        }


def examine(config: Config, progress: Progress = lambda what, share: None) -> dict[str, Examined]:
    """Reads both sets, opens all their pictures and measures them.

    Returns:
        What was found of the sets "train" and "val" of `config.data`.

    Raises:
        UserError: a set cannot be read at all.
    """
    data = replace(config.data, on_error="drop", classes=class_names(config.data))
    names, sets = {"train": data.train, "val": data.val}, {}
    for role, name in names.items():
        progress(f"reading {name}", 0.0)
        sets[role] = read_annotations(data, name)
    pictures = _look_at_sets(sets, progress)
    progress("measuring", 1.0)
    overlaps = _overlaps(sets, names)
    copies = _copies(sets, pictures, overlaps.in_val, data.root)
    return {
        role: _examined(role, names[role], annotations, pictures[role], overlaps, copies[role], config)
        for role, annotations in sets.items()
    }


class _Overlaps(NamedTuple):
    """Images that both sets have."""

    in_val: set[int]
    """Their indices in the validation set."""
    images: dict[int, str]
    """What is wrong with images of the training set, by index: each that is in the validation set too."""
    sets: tuple[Fault, ...]
    """Or, when the sets are the same altogether, one fault that says so."""


def _overlaps(sets: dict[str, Annotations], names: dict[str, str]) -> _Overlaps:
    train, val = sets["train"], sets["val"]
    shared, in_val = shared_images(train, val).tolist(), shared_images(val, train).tolist()
    if shared and len(shared) == len(train) and len(in_val) == len(val):
        same = f"data.train {names['train']} and data.val {names['val']} name the same set"
        return _Overlaps(set(in_val), {}, (Fault("", "", f"{same}; name another by --data.val"),))
    reason = f"is in the validation set {names['val']} too"
    return _Overlaps(set(in_val), dict.fromkeys(shared, reason), ())


def _examined(
    role: str,
    name: str,
    annotations: Annotations,
    pictures: Sequence[Picture],
    overlaps: _Overlaps,
    copies: Sequence[Note],
    config: Config,
) -> Examined:
    root, is_train = config.data.root, role == "train"
    reasons = (overlaps.images if is_train else {}) | dict(_picture_faults(annotations, pictures))
    faults = [Fault(_shown(annotations, index, root), "", reasons[index]) for index in sorted(reasons)]
    measured = survey(annotations, config, sizes_for(config, role))
    notes = [*_picture_notes(annotations, pictures, reasons, root), *copies]
    return Examined(
        name=name,
        annotations=annotations,
        survey=measured,
        faults=(*annotations.dropped, *(overlaps.sets if is_train else ()), *faults),
        notes=(*notes, *_object_notes(annotations, measured, root)),
        is_sound=~np.isin(np.arange(len(annotations)), list(reasons)),
    )


def sizes_for(config: Config, role: str) -> tuple[int, int]:
    """Shorter side and limit of the longer one: in training the middle one of those drawn, otherwise that of tests."""
    data = config.data
    if role == "train":
        return sorted(data.min_size)[len(data.min_size) // 2], data.max_size
    return data.test_min_size, data.test_max_size


def _look_at_sets(sets: dict[str, Annotations], progress: Progress) -> dict[str, list[Picture]]:
    """Opens the pictures of all sets in one go, each file once."""
    paths = [path for annotations in sets.values() for path in annotations.image_paths.tolist()]
    distinct = list(dict.fromkeys(paths))
    progress("opening pictures", 0.0)
    looks = look_at_pictures(distinct, lambda done: progress("opening pictures", done / len(distinct)))
    known = dict(zip(distinct, looks, strict=True))
    return {role: [known[path] for path in annotations.image_paths.tolist()] for role, annotations in sets.items()}


def _picture_faults(annotations: Annotations, pictures: Sequence[Picture]) -> Iterator[tuple[int, str]]:
    """What is wrong with images, by index."""
    sizes = map(tuple, annotations.sizes.tolist())
    for index, (picture, size) in enumerate(zip(pictures, sizes, strict=True)):
        reason = picture.fault
        if not reason and picture.size != size:
            turned = (
                " (EXIF turns it; sizes and boxes are of the stored pixels)"
                if "turned by EXIF" in picture.traits
                else ""
            )
            claim, truth = (f"{columns} x {rows}" for rows, columns in (size, picture.size))
            reason = f"the annotations say {claim} pixels, but the image has {truth}{turned}"
        if reason:
            yield index, reason


def _picture_notes(
    annotations: Annotations, pictures: Sequence[Picture], faults: dict[int, str], root: str
) -> Iterator[Note]:
    found: dict[str, list[int]] = {}
    for index, picture in enumerate(pictures):
        for trait in picture.traits if index not in faults else ():
            found.setdefault(trait, []).append(index)
    for trait in sorted(found):
        yield Note(WORDS.get(trait, f"{trait} pictures"), _names(annotations, found[trait], root))


WORDS = {
    "turned by EXIF": "pictures with EXIF rotation (data sets ignore it)",
    "transparent": "transparent pictures (transparency is dropped)",
    "16 bits": "pictures of 16 bits (read as 8)",
}
"""How a trait of pictures is told; the others make "grey pictures"."""


def _copies(
    sets: dict[str, Annotations], pictures: dict[str, list[Picture]], same_file: set[int], root: str
) -> dict[str, list[Note]]:
    """Pictures with the same content as an earlier one, those of the validation set against the training set too."""
    first: dict[bytes, tuple[str, str]] = {}
    found: dict[str, dict[str, list[str]]] = {role: {} for role in sets}
    for role, annotations in sets.items():
        for index, picture in enumerate(pictures[role]):
            name = _shown(annotations, index, root)
            origin = first.setdefault(picture.digest, (role, name)) if picture.digest else (role, name)
            if origin[1] != name and not (role == "val" and index in same_file):
                what = (
                    "pictures that copy another" if origin[0] == role else "pictures that copy one of the training set"
                )
                found[role].setdefault(what, []).append(f"{name} = {origin[1]}")
    return {role: [Note(what, tuple(where)) for what, where in notes.items()] for role, notes in found.items()}


def _object_notes(annotations: Annotations, measured: Survey, root: str) -> Iterator[Note]:
    if not annotations.annotated:
        return
    empty = np.flatnonzero(np.diff(annotations.offsets) == 0)
    unused = [annotations.class_names[index] for index in np.flatnonzero(measured.per_class == 0)]
    tiny = "tiny boxes (a side below 1 pixel, or below 4 when resized)"
    notes = (
        Note("images without objects", _names(annotations, empty.tolist(), root)),
        Note("classes without objects", tuple(unused)),
        Note("repeated boxes (same image, class and place)", _objects(annotations, measured.repeated)),
        Note(tiny, _objects(annotations, measured.tiny)),
    )
    yield from (note for note in notes if note.where)


def _names(annotations: Annotations, indices: Sequence[int], root: str) -> tuple[str, ...]:
    return tuple(_shown(annotations, index, root) for index in indices)


def _objects(annotations: Annotations, indices: np.ndarray) -> tuple[str, ...]:
    images = annotations.image_of_object[indices]
    rows = zip(annotations.image_ids[images], annotations.labels[indices], annotations.boxes[indices], strict=True)
    return tuple(
        f"{image}: {annotations.class_names[label - 1]} at " + ", ".join(f"{value:g}" for value in box)
        for image, label, box in rows
    )


def _shown(annotations: Annotations, index: int, root: str) -> str:
    """The image's file relative to the data root, or as it stands when it lies elsewhere."""
    path = str(annotations.image_paths[index])
    return path.removeprefix(os.path.join(root, ""))
