"""The mean that all protocols take over classes: what does not exist is no part of it."""

import numpy as np


def mean_of_known(values: np.ndarray) -> float:
    """Mean of what is not NaN, of an array of any shape; NaN when nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
