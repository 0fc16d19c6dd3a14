"""What is wrong with a data set: file, object, reason; all faults are told together.

Letters: ``I`` images of a set, ``S`` images that two sets share.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detection.errors import UserError

if TYPE_CHECKING:
    from detection.data.dataset import Annotations

SHOWN = 20
"""How many faults a message lists before it only counts."""


@dataclass(frozen=True)
class Fault:
    """One mistake in a data set, written as "VOC2007/Annotations/000017.xml: object 3 (dog): xmax 12 <= xmin 12"."""

    file: str
    """The file, relative to the data root."""
    object: str
    """The object within it, as "object 3 (dog)"; empty when the whole image is unusable."""
    reason: str
    """What is wrong."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.object, self.reason) if part)


def require_clean(faults: Sequence[Fault]) -> None:
    """Stops when there are faults.

    Raises:
        UserError: there is a fault; the message lists the first 20, counts the rest and says how to go on without them.
    """
    if faults:
        fix = "mend the files, or leave out these objects and unusable images with --data.on_error drop"
        first = f"{_counted(len(faults), 'fault')} in the annotations; {fix}:"
        raise UserError("\n".join([first, *_listing(faults)]))


def report(faults: Sequence[Fault]) -> list[str]:
    """Lines on what was left out because of faults: a first one with the counts, then as :func:`require_clean`.

    The first is "left out: 2 objects and 0 images". Without faults there are no lines.
    """
    if not faults:
        return []
    objects = len({(fault.file, fault.object) for fault in faults if fault.object})
    images = len({fault.file for fault in faults if not fault.object})
    return [f"left out: {_counted(objects, 'object')} and {_counted(images, 'image')}", *_listing(faults)]


def shared_images(train: "Annotations", val: "Annotations") -> np.ndarray:
    """(S,) int64: indices into `train`, ascending, of the images that are in `val` as well.

    Two images are the same when they are one file, or have one id and lie in one folder. Links are followed for
    folders, not for the images themselves.
    """
    files, names = _identities(val)
    known, called = set(files), set(names)
    pairs = zip(*_identities(train), strict=True)
    return np.array([i for i, (file, name) in enumerate(pairs) if file in known or name in called], np.int64)


def overlap_sentence(train: "Annotations", val: "Annotations") -> str:
    """A warning that names the images of `train` that `val` has too; empty when there is none."""
    shared = shared_images(train, val)
    if not len(shared):
        return ""
    first = ", ".join(train.image_ids[shared[:3]].tolist()) + (", ..." if len(shared) > 3 else "")
    what = f"{_counted(len(shared), 'image')} of the training set {'is' if len(shared) == 1 else 'are'}"
    return f"{what} in the validation set too ({first}): scores will be higher than on images never seen"


def _identities(annotations: "Annotations") -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(folder, file name) and (folder, id) of each image; each folder is looked up once, not once an image."""
    split = [os.path.split(path) for path in annotations.image_paths.tolist()]
    real = {folder: os.path.realpath(folder) for folder in {folder for folder, _ in split}}
    ids = annotations.image_ids.tolist()
    files = [(real[folder], name) for folder, name in split]
    return files, [(folder, image_id) for (folder, _), image_id in zip(files, ids, strict=True)]


def _listing(faults: Sequence[Fault]) -> list[str]:
    rest = [f"  ... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return [f"  {fault}" for fault in faults[:SHOWN]] + rest


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
