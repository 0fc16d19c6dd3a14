"""Proposals of a training set: what a second stage is trained on, computed once and kept in the run's folder.

Letters: ``I`` images, ``P`` proposals of an image.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from detection import distributed
from detection.config import to_dict
from detection.data.dataset import Annotations
from detection.errors import UserError
from detection.localization.load import weights_digest
from detection.localization.locate import Locator

DIGITS = 12
"""Of the digest in a file's name."""


def kept_proposals(
    folder: Path, first_stage: Locator, annotations: Annotations, count: int, progress: Callable[[float], None]
) -> np.ndarray:
    """The best boxes (I, P, 4) float32 of each image's own class, best first; zeros where there are fewer than P.

    They are in ``proposals-<digest>.npy``. A run that goes on finds them there, unless what they follow from has
    changed: the weights and the settings of the first stage, the images, P. Each process computes those of its own
    images and maps the file into memory, of which all processes and workers of a machine share one copy.

    Args:
        folder: of the run; on several machines one that all of them see.
        count: P.
        progress: called after each batch with the share of this process's images that is done.

    Raises:
        UserError: an image cannot be used, or the folder has no room or is not seen by this machine.
    """
    path = folder / f"proposals-{_digest(first_stage, annotations, count)}.npy"
    if not distributed.on_main(path.exists):
        _compute(path, first_stage, annotations, count, progress)
    if not path.exists():
        raise UserError(f"{path}: not seen by this machine; rcnn needs a run folder that all machines see")
    return np.load(path, mmap_mode="r")


def _compute(
    path: Path, first_stage: Locator, annotations: Annotations, count: int, progress: Callable[[float], None]
) -> None:
    """Writes the file whole or not at all."""
    unfinished = path.with_suffix(".part")
    distributed.on_main(lambda: _make_room(unfinished, (len(annotations), count, 4)))
    if not unfinished.exists():
        raise UserError(f"{unfinished}: not seen by this machine; rcnn needs a run folder that all machines see")
    begin = np.lib.format.open_memmap(unfinished, mode="r").offset
    with open(unfinished, "r+b") as file:  # not mapped: pages, which hold rows of two processes, would be written whole

        def write(index: int, boxes: np.ndarray) -> None:
            file.seek(begin + index * boxes.nbytes)
            file.write(boxes.tobytes())

        first_stage.propose_all(annotations, count, write, progress)
    distributed.barrier()
    distributed.on_main(lambda: os.replace(unfinished, path))


def _make_room(path: Path, shape: tuple[int, ...]) -> None:
    """An array of zeros on disk."""
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(f"{path}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} are free; choose another --output")
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()


def _digest(first_stage: Locator, annotations: Annotations, count: int) -> str:
    """Of all that the proposals follow from."""
    total = hashlib.sha256()
    for member in first_stage.members:
        total.update(json.dumps(to_dict(member.config)["loc"]).encode())
        total.update(weights_digest(member.localizer).encode())
    for values in (annotations.image_ids, annotations.sizes, annotations.labels, annotations.offsets, np.array(count)):
        total.update(np.ascontiguousarray(values).tobytes())
    return total.hexdigest()[:DIGITS]
