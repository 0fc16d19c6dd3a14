"""Annotations and images: readers, transforms and loaders.

Importing this package stays light: it brings in neither torch nor albumentations.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from detection.config import DataSettings
from detection.data import coco, ilsvrc, shapes, single_shapes, voc
from detection.data.dataset import Annotations

__all__ = ["class_names", "read_annotations"]

_Read = Callable[[DataSettings, str, tuple[str, ...], bool], Annotations]
"""Takes settings, sets, class names, and whether pictures must be there."""


class _Format(NamedTuple):
    """How data of one format is read."""

    read: _Read
    find_classes: Callable[[str, Iterable[str]], tuple[str, ...]]
    """Takes root and sets."""


def _by_root(read: Callable[[str, str, tuple[str, ...], str, bool], Annotations]) -> _Read:
    """A reader that asks of the settings for no more than root and `on_error`."""
    return lambda settings, sets, names, pictures: read(settings.root, sets, names, settings.on_error, pictures)


def _built_in(ensure: Callable[[str], None], names: tuple[str, ...]) -> _Format:
    """Data in VOC layout that are written on the first use."""

    def read(settings: DataSettings, sets: str, names: tuple[str, ...], pictures: bool) -> Annotations:
        ensure(settings.root)
        return voc.read_voc(settings.root, sets, names, settings.on_error, pictures)

    return _Format(read, lambda root, sets: names)


_FORMATS = {
    "voc": _Format(_by_root(voc.read_voc), voc.find_classes),
    "coco": _Format(_by_root(coco.read_coco), coco.find_classes),
    "ilsvrc": _Format(ilsvrc.read_ilsvrc, ilsvrc.find_classes),
    "shapes": _built_in(shapes.ensure_shapes, shapes.CLASSES),
    "single_shapes": _built_in(single_shapes.ensure_single_shapes, single_shapes.CLASSES),
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
    return _FORMATS[settings.format].read(settings, sets, class_names(settings, sets), pictures)


def class_names(settings: DataSettings, *sets: str) -> tuple[str, ...]:
    """The class names in the order of their labels 1..K.

    They are those of the settings when given. Otherwise the names in the training and validation sets (and in `sets`)
    are looked up together, so that labels mean the same in every set that is read with these settings, also in one
    that lacks a class. Who reads several sets looks them up once and gives them back as `settings.classes`.
    """
    if settings.classes:
        return tuple(settings.classes)
    return _FORMATS[settings.format].find_classes(settings.root, dict.fromkeys((settings.train, settings.val, *sets)))
