"""A detector so small that both sides are built and compared in a second or two."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torchvision.models.detection import FasterRCNN as Peer

from detection.benchmark.calibrated import calibrated_peer
from detection.benchmark.case import Case, make_case
from detection.benchmark.peer import as_torchvision_takes
from detection.benchmark.pictures import draw_pictures
from detection.benchmark.sides import save_checkpoint
from detection.config import overlay
from detection.inference.predictor import Predictor, load_detector

CLASSES = 20
SMALL: dict[str, Any] = {
    "backbone": "resnet18",
    "device": "cpu",
    "model": {
        "pyramid_channels": 16,
        "rpn": {"post_nms_test": 24, "post_nms_train": 40, "samples": 32, "pre_nms_train": 200},
        "roi": {"hidden": 32, "samples": 16},
    },
}
ANCHORS = {"c4": [16.0, 32.0, 48.0], "fpn": [8.0, 16.0, 32.0, 48.0, 64.0]}


@pytest.fixture(scope="session")
def small_case() -> Callable[[str], Case]:
    """Two images of 64x96 pixels, for a head."""

    def make(head: str) -> Case:
        sizes = {"model": {"rpn": {"anchor_sizes": ANCHORS[head]}}}
        return make_case(overlay(SMALL, sizes), head, (64, 96), batch_size=2, rounds=2)

    return make


class Pair(NamedTuple):
    """Both sides with the same weights."""

    predictor: Predictor
    peer: Peer
    pictures: Sequence[np.ndarray]


@pytest.fixture(scope="session")
def predictors(small_case: Callable[[str], Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """By head; a test that changes weights puts them back."""
    pairs = {}
    for head in ("c4", "fpn"):
        case = small_case(head)
        pictures = draw_pictures(0, case.batch_size, case.size)
        peer = calibrated_peer(case.config, CLASSES, as_torchvision_takes(pictures, torch.device("cpu")))
        folder: Path = tmp_path_factory.mktemp(head)
        pairs[head] = Pair(load_detector(save_checkpoint(case.config, peer.state_dict(), folder)), peer, pictures)
    return pairs
