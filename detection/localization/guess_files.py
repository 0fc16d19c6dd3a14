"""Files of guesses: ILSVRC's official text, labels with boxes, and what classifiers leave, labels alone.

A line is an image. Lines are in the order of the image ids as text, for ILSVRC the order of the file names. In the
official text a line holds ``label xmin ymin xmax ymax`` up to five times, best guess first, and nothing for an image
without a guess; labels are the data set's category ids. As in ILSVRC's annotations, pixels count from 0 and the last
ones belong to the box: xmin, ymin, xmax, ymax are x1, y1, x2 - 1, y2 - 1 of the boxes everywhere else.

Images that are in the set but were left out (faults, the blacklist: `Annotations.left_out`) have a line, too; a file
without these lines is taken as well.

Letters: ``I`` images, ``G`` guesses of an image: 5, ``L`` lines, ``T`` guesses of all lines.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from detection.data.dataset import Annotations
from detection.errors import UserError
from detection.evaluation.columns import first
from detection.files import replacing
from detection.localization.rule import Guesses

MOST_GUESSES = 5
"""Guesses of an image (ILSVRC)."""

_FIELDS = ("label", "xmin", "ymin", "xmax", "ymax")
_INCLUSIVE = np.array([0.0, 0.0, 1.0, 1.0])
_LEFT_OUT = -1


def write_official(path: str | Path, guesses: Guesses, annotations: Annotations) -> None:
    """Writes the official text, coordinates to three decimals; a box has at least a pixel.

    Args:
        path: the file; it is replaced whole or not at all.
        guesses: at most five for each of the I images of `annotations`; those with label 0 are not written.
        annotations: the data set.

    Raises:
        UserError: a box is not finite, or the file cannot be written.
    """
    finite = np.isfinite(guesses.boxes).all(axis=2) | (guesses.labels == 0)
    for image in first(~finite.all(axis=1)):
        name = annotations.image_ids[image]
        raise UserError(f"{path}: image {name}: a box is not finite; nothing was written, mend the localizer")
    ids = np.array((0, *annotations.own_category_ids()))[guesses.labels].tolist()
    corners = guesses.boxes - _INCLUSIVE
    corners[..., 2:] = np.maximum(corners[..., 2:], corners[..., :2])
    boxes = (np.round(corners, 3) + 0.0).tolist()  # 0.0 rather than -0.0
    kept = (guesses.labels > 0).tolist()
    with replacing(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        for image in _images_of_lines(annotations):
            row = zip(ids[image], boxes[image], kept[image], strict=True) if image != _LEFT_OUT else ()
            file.write(" ".join(_words(category, box) for category, box, is_guess in row if is_guess) + "\n")


def read_official(path: str | Path, annotations: Annotations) -> Guesses:
    """Reads the official text from any software; coordinates may have decimals.

    Returns:
        five guesses for each of the I images, those that a line does not have with label 0 and a box of zeros.

    Raises:
        UserError: the file cannot be read, has another number of lines than the set has images, or a line is no
            ``label xmin ymin xmax ymax`` up to five times, names a label that is no id, or has a reversed box.
    """
    rows, images = _read_lines(path, annotations)
    values, lines, slots = _numbers(path, rows)
    labels = np.zeros((len(rows), MOST_GUESSES), np.int64)
    boxes = np.zeros((len(rows), MOST_GUESSES, 4))
    labels[lines, slots] = _labels(path, values[:, 0], lines, annotations)
    boxes[lines, slots] = _corners(path, values[:, 1:], lines)
    wanted = _line_of_image(images, len(annotations))
    return Guesses(labels[wanted], boxes[wanted])


def read_labels(path: str | Path, annotations: Annotations) -> np.ndarray:
    """Reads a classifier's guesses: five labels a line, best first, as category ids or as synsets.

    A synset, ``n01440764``, is the first word of a class's name.

    Returns:
        (I, 5) int64 labels 1..K.

    Raises:
        UserError: the file cannot be read, has another number of lines than the set has images, a line has not five
            labels, or a label is neither an id nor a synset.
    """
    rows, images = _read_lines(path, annotations)
    for line, row in enumerate(rows, 1):
        if len(row) != MOST_GUESSES:
            raise UserError(f"{path}: line {line}: {len(row)} labels; write five, the best first")
    names = {name.split()[0]: label for label, name in enumerate(annotations.class_names, 1) if name.strip()}
    known = names | {str(category): label for label, category in enumerate(annotations.own_category_ids(), 1)}
    labels = np.fromiter((known.get(word, 0) for word in chain.from_iterable(rows)), np.int64)
    labels = labels.reshape(-1, MOST_GUESSES)
    for line in first((labels == 0).any(axis=1)):
        word = rows[line][int((labels[line] == 0).argmax())]
        example = annotations.class_names[0].split()[0]
        raise UserError(f"{path}: line {line + 1}: {word} is no class; write {_range(annotations)} or as in {example}")
    return labels[_line_of_image(images, len(annotations))]


def _words(category: int, box: list[float]) -> str:
    return " ".join([str(category), *(f"{value:.10g}" for value in box)])


# Lines and images


def _images_of_lines(annotations: Annotations) -> list[int]:
    """Index of the image of each of the L lines; `_LEFT_OUT` for those that are not among the annotations."""
    ids = annotations.image_ids.tolist()
    named = [*zip(ids, range(len(ids)), strict=True), *((name, _LEFT_OUT) for name in annotations.left_out)]
    return [image for _, image in sorted(named)]


def _line_of_image(images: np.ndarray, count: int) -> np.ndarray:
    """(I,) int64: the inverse of (L,) `images`."""
    lines = np.zeros(count, np.int64)
    known = np.flatnonzero(images != _LEFT_OUT)
    lines[images[known]] = known
    return lines


def _read_lines(path: str | Path, annotations: Annotations) -> tuple[list[list[str]], np.ndarray]:
    """The words of the L lines, and (L,) the image of each line."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a text file of guesses") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text ({error.reason}); name a text file of guesses") from error
    rows = [line.split() for line in text.removesuffix("\n").split("\n")] if text else []
    images = np.array(_images_of_lines(annotations), np.int64)
    if len(rows) == len(annotations):
        images = images[images != _LEFT_OUT]
    if len(rows) != len(images):
        line = f"ends after line {len(rows)}" if len(rows) < len(images) else f"line {len(images) + 1} is one too many"
        fix = "write one line an image, in the order of the file names"
        raise UserError(f"{path}: {line}, the set has {_count(annotations)}; {fix}")
    return rows, images


def _count(annotations: Annotations) -> str:
    more = f" (and {len(annotations.left_out):,} that were left out)" if annotations.left_out else ""
    return f"{len(annotations):,} images{more}"


# The fields of the official text


def _numbers(path: str | Path, rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T, 5) float64 numbers of the guesses, (T,) the row and (T,) the place in its row of each."""
    counts = np.fromiter(map(len, rows), np.int64, len(rows))
    for row in first(counts % len(_FIELDS) != 0):
        wanted = f"write {' '.join(_FIELDS)} for each guess"
        raise UserError(f"{path}: line {row + 1}: {counts[row]} words are no multiple of five; {wanted}")
    guesses = counts // len(_FIELDS)
    for row in first(guesses > MOST_GUESSES):
        raise UserError(f"{path}: line {row + 1}: {guesses[row]} guesses; leave at most {MOST_GUESSES}")
    lines = np.repeat(np.arange(len(rows)), guesses)
    slots = np.arange(len(lines)) - np.repeat(np.cumsum(guesses) - guesses, guesses)
    try:
        values = np.fromiter(map(_number, chain.from_iterable(rows)), np.float64).reshape(-1, len(_FIELDS))
    except ValueError as error:
        line, word = next(_not_numbers(rows))
        raise UserError(f"{path}: line {line}: {word} is no number; write {' '.join(_FIELDS)}") from error
    return values, lines, slots


def _number(word: str) -> float:
    """Python reads "1_0", full-width digits, "nan" and "inf" as numbers, too; nobody means them."""
    value = float(word)
    if "_" in word or not word.isascii() or value - value != 0:
        raise ValueError
    return value


def _not_numbers(rows: list[list[str]]) -> Iterator[tuple[int, str]]:
    for line, row in enumerate(rows, 1):
        for word in row:
            try:
                _number(word)
            except ValueError:
                yield line, word


def _labels(path: str | Path, found: np.ndarray, lines: np.ndarray, annotations: Annotations) -> np.ndarray:
    """(T,) int64 labels 1..K of (T,) category ids."""
    ids = np.array(annotations.own_category_ids(), np.float64)
    order = np.argsort(ids)
    places = order[np.minimum(np.searchsorted(ids, found, sorter=order), len(ids) - 1)]
    for guess in first(ids[places] != found):
        wrong = f"label {found[guess]:.10g} is no id of the data set"
        raise UserError(f"{path}: line {lines[guess] + 1}: {wrong}; write {_range(annotations)}")
    return places + 1


def _range(annotations: Annotations) -> str:
    ids = annotations.own_category_ids()
    return f"ids from {min(ids)} to {max(ids)}"


def _corners(path: str | Path, inclusive: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """(T, 4) boxes of (T, 4) inclusive ones."""
    for guess in first((inclusive[:, 2:] < inclusive[:, :2]).any(axis=1)):
        xmin, ymin, xmax, ymax = (f"{value:.10g}" for value in inclusive[guess])
        across = inclusive[guess, 2] < inclusive[guess, 0]
        wrong = f"xmax {xmax} < xmin {xmin}" if across else f"ymax {ymax} < ymin {ymin}"
        raise UserError(f"{path}: line {lines[guess] + 1}: {wrong}; write {' '.join(_FIELDS)}")
    return inclusive + _INCLUSIVE
