"""Guesses drawn over what is annotated.

Letters: ``I`` images, ``n`` guesses of an image.
"""

import re
from dataclasses import replace

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.inspection.draw import SHEET_IMAGES, prediction_sheet
from detection.localization.locate import Located


def sheet(annotations: Annotations, labels: np.ndarray, located: Located) -> np.ndarray:
    """Sixteen images from all over the set: the boxes for `labels` (I, n), 0 for none, over the annotated ones."""
    image, guess = np.nonzero(labels)
    found = Detections(image, labels[image, guess], located.scores[image, guess], located.boxes[image, guess])
    shown = replace(annotations, class_names=tuple(map(short_name, annotations.class_names)))
    spread = np.linspace(0, len(annotations) - 1, min(SHEET_IMAGES, len(annotations))).astype(int)
    return prediction_sheet(shown, found, spread.tolist(), score_threshold=0.0)


def short_name(name: str) -> str:
    """`tench` of ImageNet's "n01440764 tench, Tinca tinca"; other names as they are up to their first comma."""
    return re.sub(r"^n\d{8} ", "", name).split(",")[0]
