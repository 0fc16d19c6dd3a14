"""What JSON can hold, checked by JSON itself."""

import json
from dataclasses import dataclass

import numpy as np

from detection.plain import plain


@dataclass(frozen=True)
class _Score:
    value: float
    parts: tuple[float, ...]


def test_nan_and_infinities_become_null_at_any_depth():
    results = {
        "score": _Score(float("nan"), (0.25, float("inf"))),
        "array": np.array([[1.5, np.nan], [-np.inf, 2]]),
        "numbers": [np.float32(0.5), np.float64("nan"), np.int64(7), np.bool_(True)],
        "words": ("NaN", None, True, 3),
    }
    assert json.loads(json.dumps(plain(results), allow_nan=False)) == {
        "score": {"value": None, "parts": [0.25, None]},
        "array": [[1.5, None], [None, 2]],
        "numbers": [0.5, None, 7, True],
        "words": ["NaN", None, True, 3],
    }
