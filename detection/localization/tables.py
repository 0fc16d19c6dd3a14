"""How localization errors are shown to a person and named in records."""

import math
from collections.abc import Mapping

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from detection.data.dataset import Annotations
from detection.localization.rule import LocalizationScores, counted, given_class_errors

GIVEN = "LOC error, class given"
"""Key of the error with the class given, in records of runs and of tools."""

AMONG = "LOC error, class among the guesses"
"""Key of the error of the first box of the right class, over the images that have a guess of it: the easier ones."""

STRICT_IOU = 0.7
"""The IoU of the second look at the boxes."""


def class_errors(name: str, error: float, strict: float) -> dict[str, float]:
    """The error of boxes whose class is right, `name`, at IoU 0.5 and at `STRICT_IOU`."""
    return {name: float(error), f"{name}, IoU {STRICT_IOU:g}": float(strict)}


def given_errors(boxes: np.ndarray, annotations: Annotations) -> dict[str, float]:
    """The errors of the one box (I, 4) of each image's own class, over the images that have an object."""
    known = counted(annotations)
    return class_errors(
        GIVEN, *(given_class_errors(boxes, annotations, iou)[known].mean() for iou in (0.5, STRICT_IOU))
    )


def score_record(of_class: Mapping[str, float], scores: LocalizationScores | None) -> dict[str, float]:
    """Every error by name, as a share 0..1.

    Args:
        of_class: from :func:`class_errors`.
        scores: of guesses, at IoU 0.5; none where the class was given.
    """
    record = dict(of_class)
    if scores is not None:
        for kind, errors in (("LOC", scores.top), ("classification", scores.classification)):
            record |= {f"{kind} error, top-{count}": float(error) for count, error in enumerate(errors, 1)}
    return record


def counts(scores: LocalizationScores) -> dict[str, int]:
    """What the errors of guesses are shares of."""
    return {
        "images": scores.images,
        "images whose class is among the guesses": scores.given_images,
        "images of a known class": scores.classified_images,
    }


def score_table(of_class: Mapping[str, float], scores: LocalizationScores | None) -> Table:
    """The errors in per cent; arguments as for :func:`score_record`."""
    caption = None
    if scores is not None:
        caption = (
            f"of {scores.images:,} images with an object; the class of {scores.given_images:,} is among the guesses"
        )
        if scores.classified_images > scores.images:
            caption += f"; classification: of {scores.classified_images:,} whose class is known"
    table = Table(title="Errors by ILSVRC's rule, in %", caption=caption, box=SIMPLE_HEAD, collapse_padding=True)
    for name in ("", "localization", "classification") if scores else ("", "localization"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, error in of_class.items():
        table.add_row(name.removeprefix("LOC error, "), _percent(error))
    if scores is not None:
        table.add_section()
        for count, errors in enumerate(zip(scores.top, scores.classification, strict=True), 1):
            table.add_row(f"top-{count}", *map(_percent, errors), style="bold" if count == len(scores.top) else None)
    return table


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
