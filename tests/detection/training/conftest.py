"""Short runs on the tiny data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detection.training.run import train


@pytest.fixture
def start(starter: Callable[..., Any], tiny_config: dict[str, Any]) -> Callable[..., Path]:
    """Starts a run of a detector: its folder's name, then groups of settings; returns the folder."""
    return starter(train, tiny_config)
