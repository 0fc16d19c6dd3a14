"""Guesses drawn over what is annotated.

Letters: ``I`` images, ``n`` guesses of an image.
"""

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.inspection.draw import SHEET_IMAGES, prediction_sheet
from detection.localization.locate import Located


def sheet(annotations: Annotations, labels: np.ndarray, located: Located) -> np.ndarray:
    """Sixteen images from all over the set: the boxes for `labels` (I, n), 0 for none, over the annotated ones."""
    image, guess = np.nonzero(labels)
    found = Detections(image, labels[image, guess], located.scores[image, guess], located.boxes[image, guess])
    spread = np.linspace(0, len(annotations) - 1, min(SHEET_IMAGES, len(annotations))).astype(int)
    return prediction_sheet(annotations, found, spread.tolist(), score_threshold=0.0)
