"""What all tests share: single-threaded, offline, and the optional folder of real sample images."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and score vectors; the tests that read it are skipped where it is not."""
    folder = Path(os.environ.get("RESIDET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the sample data folder is not there (set RESIDET_DATA to read it from elsewhere)")
    return folder
