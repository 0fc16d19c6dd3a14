"""Annotations and images: readers, transforms and loaders.

Importing this package stays light: it brings in neither torch nor albumentations.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from detection.config import DataSettings
from detection.data import coco, voc
from detection.data.dataset import Annotations
from detection.data.shapes import CLASSES, ensure_shapes

__all__ = ["class_names", "read_annotations"]


class _Format(NamedTuple):
    """How data of one format is read."""

    read: Callable[[str, str, tuple[str, ...], str, bool], Annotations]
    """Takes root, sets, class names, `on_error`, and whether pictures must be there."""
    find_classes: Callable[[str, Iterable[str]], tuple[str, ...]]
    """Takes root and sets."""


def _read_shapes(root: str, sets: str, classes: tuple[str, ...], on_error: str, pictures: bool) -> Annotations:
    ensure_shapes(root)
    return voc.read_voc(root, sets, classes, on_error, pictures)


_FORMATS = {
    "voc": _Format(voc.read_voc, voc.find_classes),
    "coco": _Format(coco.read_coco, coco.find_classes),
    "shapes": _Format(_read_shapes, lambda root, sets: CLASSES),
}


def read_annotations(settings: DataSettings, sets: str, pictures: bool = True) -> Annotations:
    """Reads the sets of a data set: what every tool starts from.

    Args:
        settings: format, root, class names and what to do about faults.
        sets: which part to read, usually `settings.train` or `settings.val`.
        pictures: whether the pictures must be there, as for training and prediction. Scores need none of them.

    Raises:
        UserError: something is missing, or there are faults and `settings.on_error` is "fail".
    """
    names = class_names(settings, sets)
    return _FORMATS[settings.format].read(settings.root, sets, names, settings.on_error, pictures)


def class_names(settings: DataSettings, *sets: str) -> tuple[str, ...]:
    """The class names in the order of their labels 1..K.

    They are those of the settings when given. Otherwise the names in the training and validation sets (and in `sets`)
    are looked up together, so that labels mean the same in every set that is read with these settings, also in one
    that lacks a class. Who reads several sets looks them up once and gives them back as `settings.classes`.
    """
    if settings.classes:
        return tuple(settings.classes)
    return _FORMATS[settings.format].find_classes(settings.root, dict.fromkeys((settings.train, settings.val, *sets)))
