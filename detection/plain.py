"""Results as values that JSON has."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """The value as dictionaries, lists, strings, numbers and None, for ``json.dumps(..., allow_nan=False)``.

    JSON has neither NaN nor infinities: they become None, at any depth.

    Args:
        value: nested mappings, lists, tuples, dataclasses, NumPy arrays and numbers; anything else stays as it is.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
