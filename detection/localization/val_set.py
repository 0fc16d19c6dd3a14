"""The set that localization is scored on, and what its numbers mean in files."""

import numpy as np

from detection.config import DataSettings
from detection.data import read_annotations
from detection.data.checks import report
from detection.data.dataset import Annotations
from detection.errors import UserError
from detection.localization.rule import counted
from detection.localization.single import image_labels, single_class


def read_val(settings: DataSettings, pictures: bool) -> tuple[Annotations, list[str]]:
    """The set `data.val`, of one class an image, and sentences on what was left out or does not count.

    Args:
        settings: of the data.
        pictures: whether the pictures must be there; scores of a file need none.

    Raises:
        UserError: the set cannot be read, or has no box to score against.
    """
    name = settings.val
    annotations = single_class(read_annotations(settings, name, pictures), settings, name)
    require_boxes(annotations, name)
    without = int(np.count_nonzero(~counted(annotations)))
    sentences = report(annotations.dropped)
    if annotations.left_out:
        lines = "" if pictures else ", whose lines are passed over"
        sentences.append(f"images that were left out{lines}: {len(annotations.left_out):,}")
    if without:
        known = int(np.count_nonzero(image_labels(annotations)[~counted(annotations)]))
        sentences.append(
            f"images without a box, where none can be right or wrong: {without:,} of {len(annotations):,}; "
            f"the class of {known:,} of them is known and counts in the classification error"
        )
    return annotations, sentences


def require_boxes(annotations: Annotations, name: str) -> None:
    """Raises a UserError unless some image of the set `name` has a box to score against."""
    if not counted(annotations).any():
        raise UserError(f"--data.val {name}: has no boxes to score against; name a set that has")


def which_ids(settings: DataSettings, annotations: Annotations) -> str:
    """What the labels in files of guesses are."""
    if settings.format == "ilsvrc":
        if settings.ids:
            return f"those of {settings.ids} (the devkit's)"
        return "line numbers in LOC_synset_mapping.txt (--data.ids FILE takes the devkit's)"
    if annotations.category_ids:
        return "the category ids of the data set"
    return f"1 to {len(annotations.class_names)}, in the order of the class names"
