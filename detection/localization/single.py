"""Data sets whose images hold objects of one class each, which localization asks for.

Letters: ``I`` images, ``M`` objects, ``K`` classes.
"""

from dataclasses import replace

import numpy as np

from detection.config import Config, DataSettings
from detection.data.checks import Fault
from detection.data.dataset import Annotations, for_training, keep_images
from detection.errors import UserError


def read_sets(config: Config) -> tuple[Annotations, Annotations]:
    """The training and the validation set, of one class an image.

    The training set may hold images without a target, of which no box can be learned: see :func:`with_targets`. Those
    of the validation set count in the classification error only.

    Raises:
        UserError: something is wrong with the data, an image holds two classes and `data.on_error` is "fail", or no
            training image has a box.
    """
    from detection.training.run import read_sets as read_any  # torch, which scores of files can do without

    data = config.data
    train, val = read_any(config)
    train, val = single_class(train, data, data.train), single_class(val, data, data.val)
    if not len(train.boxes):
        raise UserError(f"{data.root}: {data.train} has no box to learn from; name another set by --data.train")
    return train, val


def with_targets(train: Annotations, settings: DataSettings) -> Annotations:
    """A training set without the images that have no target, whatever `settings.empty` says."""
    return for_training(train, replace(settings, empty="drop"))


def single_class(annotations: Annotations, settings: DataSettings, sets: str) -> Annotations:
    """The images that do not hold two classes: all, or those that are left with `settings.on_error` "drop".

    What is left out is told in `dropped` and `left_out`, as the faults of a reader.

    Args:
        annotations: as read.
        settings: of the data set.
        sets: what was read, for the message.

    Raises:
        UserError: an image holds two classes and `settings.on_error` is "fail".
    """
    labels, images = image_labels(annotations), annotations.image_of_object
    second = np.flatnonzero(annotations.labels != labels[images])  # objects of another class than their image's first
    if not len(second):
        return annotations
    mixed, places = np.unique(images[second], return_index=True)
    names, ids = annotations.class_names, annotations.image_ids
    faults = [
        Fault(f"{sets}: image {ids[image]}", "", f"two classes, {names[labels[image] - 1]} and {names[other - 1]}")
        for image, other in zip(mixed, annotations.labels[second[places]], strict=True)
    ]
    if settings.on_error == "fail":
        fix = "choose classes with --data.classes, or leave such images out with --data.on_error drop"
        raise UserError(f"{settings.root}: {faults[0]}, where localization takes one; {fix}")
    kept = keep_images(annotations, ~np.isin(np.arange(len(annotations)), mixed))
    return replace(
        kept,
        dropped=(*annotations.dropped, *faults),
        left_out=annotations.left_out | frozenset(ids[mixed].tolist()),
    )


def image_labels(annotations: Annotations) -> np.ndarray:
    """(I,) int64: the class 1..K of each image, of several that of the first object; 0: not known, no box shows it."""
    named = annotations.image_classes
    labels = named.copy() if len(named) else np.zeros(len(annotations), np.int64)
    boxed = np.diff(annotations.offsets) > 0
    labels[boxed] = annotations.labels[annotations.offsets[:-1][boxed]]
    return labels
