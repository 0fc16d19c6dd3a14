"""Annotations and images: readers, transforms and loaders.

Importing this package stays light: it brings in neither torch nor albumentations.
"""

from detection.config import DataSettings
from detection.data.dataset import Annotations
from detection.data.shapes import CLASSES, ensure_shapes
from detection.data.voc import find_classes, read_voc

__all__ = ["class_names", "read_annotations"]


def read_annotations(settings: DataSettings, sets: str) -> Annotations:
    """Reads the sets of a data set: what every tool starts from.

    Args:
        settings: format, root, class names and what to do about faults.
        sets: which part to read, usually `settings.train` or `settings.val`.

    Raises:
        UserError: something is missing, or there are faults and `settings.on_error` is "fail".
    """
    if settings.format == "shapes":
        ensure_shapes(settings.root)
    return read_voc(settings.root, sets, class_names(settings, sets), settings.on_error)


def class_names(settings: DataSettings, *sets: str) -> tuple[str, ...]:
    """The class names in the order of their labels 1..K.

    They are those of the settings when given. Otherwise the names in the training and validation sets (and in `sets`)
    are looked up together, so that labels mean the same in every set that is read with these settings.
    """
    if settings.classes:
        return tuple(settings.classes)
    if settings.format == "shapes":
        return CLASSES
    return find_classes(settings.root, dict.fromkeys((settings.train, settings.val, *sets)))
