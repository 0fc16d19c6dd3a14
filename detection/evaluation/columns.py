"""What the readers and writers of both forms of result files share: image ids, and the checks of whole columns.

Letters: ``D`` detections, ``I`` images.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.dataset import Annotations
from detection.errors import UserError

UNKNOWN, LEFT_OUT = -1, -2
"""What stands for the index of an image that the data set does not have, and of one that faults kept out of it."""

LARGEST = 1e100
"""A coordinate beyond this is no number of pixels, and areas would overflow."""


class Columns(NamedTuple):
    """The fields of `Detections`, in its order, as a reader gives and a writer takes them."""

    image_indices: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    def select(self, which: np.ndarray) -> "Columns":
        """The rows at `which`, a mask (D,) or indices."""
        return Columns(*(column[which] for column in self))


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a file of detections") from error


def images_by_id(path: Path, annotations: Annotations) -> dict[str, int]:
    """Index of the image by its id as text; `LEFT_OUT` for those that faults kept out of the set.

    Raises:
        UserError: the data set has an id twice, so that a file could not say which image it means.
    """
    images = {image_id: index for index, image_id in enumerate(annotations.image_ids.tolist())}
    if len(images) != len(annotations):
        raise UserError(f"{path}: some images of the data set have the same id; name a set with each image once")
    return dict.fromkeys(annotations.left_out, LEFT_OUT) | images


def look_up(known: dict[Any, int], ids: list[Any]) -> np.ndarray:
    """(D,) int64: what `known` has for each id, `UNKNOWN` for those it does not have."""
    return np.fromiter((known.get(item, UNKNOWN) for item in ids), np.int64, len(ids))


def first(wrong: np.ndarray) -> Iterable[int]:
    """The number of the first wrong row, if there is one: for a loop that raises."""
    return np.flatnonzero(wrong)[:1].tolist()


def first_duplicate(columns: Columns) -> tuple[int, int] | None:
    """Numbers of two rows with the same image, label, score and box; None when all rows differ.

    Rows are compared by a hash first, and exactly only where that is the same: sorting seven columns of 500,000 rows
    would take longer than reading them.
    """
    table = np.column_stack([column.astype(np.float64) for column in columns])
    words = np.ascontiguousarray(table).view(np.uint64)
    words = (words ^ (words >> np.uint64(32))) * _ODD  # numbers like 0.5 differ in their upper bits only
    hashes = np.bitwise_xor.reduce(words ^ (words >> np.uint64(29)), axis=1)
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    suspects = np.sort(order[np.flatnonzero(np.append(same, False) | np.append(False, same))])
    _, groups, counts = np.unique(table[suspects], axis=0, return_inverse=True, return_counts=True)
    groups = groups.ravel()  # NumPy 2.0 alone gives a column
    for row in first(counts[groups] > 1):
        one, other = suspects[groups == groups[row]][:2].tolist()
        return one, other
    return None


_ODD = np.random.default_rng(0).integers(0, 2**64, 7, np.uint64) | np.uint64(1)
"""An odd factor for each of the seven columns: multiplying by it loses nothing."""


def require_finite(path: Path, columns: Columns) -> None:
    """Stops before anything is written that no reader would take.

    Raises:
        UserError: a score or a box is NaN or infinite.
    """
    finite = np.isfinite(columns.scores) & np.isfinite(columns.boxes).all(axis=1)
    for number in first(~finite):
        what = f"score {columns.scores[number]} or box {columns.boxes[number].tolist()}"
        raise UserError(f"{path}: detection {number}: {what} is not finite; nothing was written, mend the detector")
