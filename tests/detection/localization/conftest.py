"""Short runs of localizers on a tiny data set, and untrained localizers with decided opinions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detection.config import Config, from_dict, overlay
from detection.data import read_annotations
from detection.data.dataset import Annotations
from detection.errors import UserError
from detection.localization.localizer import Localizer
from detection.localization.locate import Located, Locator, LocMember
from detection.localization.run import train
from detection.model.pixels import Normalizer

CLASSES = ("circle", "cross", "square")
CPU = torch.device("cpu")
BASE = {
    "backbone": "resnet18",
    "weights": "none",
    "device": "cpu",
    "model": {"norm": "group", "freeze_at": 0},
    "data": {"workers": 0},
    "train": {"precision": "fp32"},
    "loc": {"layer": "conv4", "crop": 64, "anchor_sizes": [20, 40], "test_scales": [48, 80], "test_crop_from": 80},
}


@pytest.fixture
def start(starter: Callable[..., Any], loc_config: dict[str, Any]) -> Callable[..., Path]:
    """Starts a run of a localizer: its folder's name, then groups of settings; returns the folder."""
    return starter(train, loc_config)


class Trunk(nn.Sequential):
    """A stand-in for a backbone, at VGG's stride."""

    strides, out_channels = (16,), 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 4, stride=4), nn.ReLU())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": super().forward(images)}


class Says:
    """A localizer that says what it is told, and keeps what it saw."""

    stride = 16
    normalize = Normalizer((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))

    def __init__(self, logits: Any, boxes: Any) -> None:
        self.logits, self.boxes, self.seen = logits, torch.tensor(boxes), []

    def eval(self) -> "Says":
        return self

    def features(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return images.new_zeros(len(images), 1, *(length // self.stride for length in images.shape[-2:]))

    def outputs(self, features: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        count = len(features), labels.shape[1]
        logits = self.logits(self.seen[-1]) if callable(self.logits) else torch.tensor(self.logits)
        return logits.expand(*count, -1), self.boxes.expand(*count, -1, 4)


def _settings(**loc: object) -> Config:
    return from_dict(overlay(BASE, {"loc": loc}))


def _localizer(seed: int = 0, **loc: object) -> Localizer:
    torch.manual_seed(seed)
    made = Localizer(Trunk(), None, len(CLASSES), _settings(**loc))
    for rows in (made.layers.scores, made.layers.offsets):
        if rows is not None:
            nn.init.normal_(rows.weight, std=0.5)
            nn.init.normal_(rows.bias, std=0.5)
    return made


@pytest.fixture
def settings() -> Callable[..., Config]:
    """Makes the settings of a localizer; takes those of its group ``loc`` that are others than here."""
    return _settings


@pytest.fixture
def localizer() -> Callable[..., Localizer]:
    """Makes an untrained localizer on a stand-in of a backbone: a seed, settings."""
    return _localizer


@pytest.fixture
def locator() -> Callable[..., Locator]:
    """Makes one, or an ensemble, of :func:`localizer`: seeds, a first stage, settings."""

    def make(*seeds: int, first_stage: Locator | None = None, **loc: object) -> Locator:
        members = [LocMember(_localizer(seed, **loc), _settings(**loc), first_stage) for seed in seeds or (0,)]
        return Locator(members, CLASSES, CPU)

    return make


@pytest.fixture
def told() -> Callable[..., Locator]:
    """Makes one that says what it is told: logits (or what makes them of the crops), boxes, a first stage, settings."""

    def make(logits: Any, boxes: Any, first_stage: Locator | None = None, **loc: object) -> Locator:
        return Locator([LocMember(Says(logits, boxes), _settings(**loc), first_stage)], CLASSES, CPU)

    return make


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Makes an image of 8 x 8 coloured fields: rows, columns, a seed."""

    def make(rows: int, columns: int, seed: int = 0) -> np.ndarray:
        fields = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        return cv2.resize(fields, (columns, rows), interpolation=cv2.INTER_CUBIC)

    return make


@pytest.fixture
def normalized() -> Callable[[np.ndarray], Tensor]:
    """Makes of an image what a network gets, with ImageNet's mean and deviation."""

    def make(image: np.ndarray) -> Tensor:
        colour = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        return torch.from_numpy(colour.transpose(2, 0, 1)[None]).float()

    return make


@pytest.fixture
def same() -> Callable[..., None]:
    """Asserts that two results are the same, boxes within a given number of pixels."""

    def check(first: Located, second: Located, abs: float = 1e-4) -> None:
        assert first.boxes == pytest.approx(second.boxes, abs=abs)
        assert first.scores == pytest.approx(second.scores, abs=1e-6)

    return check


@pytest.fixture
def refused() -> Callable[..., None]:
    """Asserts that an action is refused in one sentence with these words."""

    def check(words: str, action: Callable[..., Any], *arguments: Any) -> None:
        with pytest.raises(UserError) as caught:
            action(*arguments)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    return check


@pytest.fixture
def data(tiny_config: dict[str, Any]) -> Annotations:
    """Eight images of the detectors' tiny set."""
    return read_annotations(from_dict(tiny_config).data, "train")


@pytest.fixture
def labels() -> np.ndarray:
    """Two asked classes for each image of :func:`data`."""
    return np.array([[1, 2], [3, 0], [0, 0], [2, 2], [1, 3], [0, 1], [3, 2], [2, 1]])
