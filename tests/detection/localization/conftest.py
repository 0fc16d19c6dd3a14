"""Short runs of localizers on a tiny data set."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from detection.config import from_dict, overlay
from detection.localization.run import train


@pytest.fixture
def start(loc_config: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Starts a run: its folder's name, then groups of settings; returns the folder, which the end of the test removes.

    With ``resume`` only the settings given count, as on the command line.
    """
    folders: list[Path] = []

    def run(name: str, **given: Any) -> Path:
        folders.append(tmp_path / name)
        if "resume" not in given:
            given = overlay(loc_config, {"output": str(folders[-1]), **given})
        return train(from_dict(given), given)

    yield run
    torch.use_deterministic_algorithms(False)
    for folder in folders:  # a checkpoint has 30 MB
        shutil.rmtree(folder, ignore_errors=True)
