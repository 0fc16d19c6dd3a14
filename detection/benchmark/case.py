"""What is measured: a detector that torchvision can build too, on images of one size.

Letters: ``H, W`` rows and columns of the images.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import torch

from detection.config import VOC_CLASSES, Config, from_dict, overlay
from detection.errors import UserError
from detection.finalize import check
from detection.model.build import build_detector

ONE_MAP, PYRAMID = (128.0, 256.0, 512.0), (32.0, 64.0, 128.0, 256.0, 512.0)
"""Sizes of the anchors, as in the recipes."""
SMALLEST = 64
"""Pixels: anything smaller leaves the coarsest map of a pyramid without a neighbour."""


@dataclass(frozen=True)
class Case:
    """What every stage is told."""

    config: Config
    size: tuple[int, int]
    """H and W of the images: what the detector's resizing leaves as it is."""
    batch_size: int
    """Images of a step, or of one prediction."""
    rounds: int
    """Turns of each side."""
    pictures: str | None = None
    """Folder of JPEGs that are loaded; None: they are drawn."""
    profile: str | None = None
    """Folder for traces; None: none is written."""

    def __str__(self) -> str:
        model, compiled = self.config.model, ", compiled" if self.config.compile else ""
        return f"{self.config.backbone} {model.head}, {self.size[0]}x{self.size[1]}, batch {self.batch_size}{compiled}"


def make_case(
    settings: dict[str, Any],
    head: str | None,
    size: tuple[int, int],
    batch_size: int,
    rounds: int,
    *,
    pictures: str | None = None,
    profile: str | None = None,
) -> Case:
    """The case of a command line.

    Args:
        settings: nested values laid over those of :func:`comparable`.
        head: c4, fpn or fc; None takes fc for a VGG and c4 for a residual network.

    Raises:
        UserError: a value is out of range, or the head does not go with the backbone.
    """
    is_vgg = settings.get("backbone", Config.backbone).startswith("vgg")
    head = head or ("fc" if is_vgg else "c4")
    for name, value in (("batch_size", batch_size), ("rounds", rounds)):
        if value < 1:
            raise UserError(f"--{name} {value}: give 1 or more")
    if min(size) < SMALLEST:
        raise UserError(f"--size {size[0]}x{size[1]}: give at least {SMALLEST}x{SMALLEST}")
    config = from_dict(overlay(comparable(head, "none" if is_vgg else "frozen", size, batch_size), settings))
    check(config)
    with torch.device("meta"):  # that backbone and head go together; frozen statistics come from the inputs, later
        build_detector(
            replace(config, model=replace(config.model, norm="none" if is_vgg else "batch")), 1, load_weights=False
        )
    return Case(config, size, batch_size, rounds, pictures, profile)


def comparable(head: str, norm: str, size: tuple[int, int], batch_size: int) -> dict[str, Any]:
    """Settings under which torchvision's Faster R-CNN computes the same: no border rule, its thresholds and losses."""
    rpn = {"anchor_sizes": list(ONE_MAP), "ignore_border": False, "min_size": 0.0}
    if head == "fpn":
        rpn |= {"anchor_sizes": list(PYRAMID), "pre_nms_train": 2000, "pre_nms_test": 1000, "post_nms_test": 1000}
    return {
        "weights": "none",
        "model": {"head": head, "norm": norm, "rpn": rpn, "roi": {"beta": 1 / 9, "dropout": 0.0}},
        "data": {
            "classes": list(VOC_CLASSES),
            "min_size": [min(size)],
            "max_size": max(size),
            "test_min_size": min(size),
            "test_max_size": max(size),
            "workers": 1,
        },
        "train": {"batch_size": batch_size, "reference_batch": batch_size, "lr": 1e-5, "warmup_iterations": 0},
        "test": {"nms_iou": 0.5, "batch_size": batch_size},
    }


def size_from(text: str) -> tuple[int, int]:
    """Rows and columns from "600x800".

    Raises:
        UserError: the text has another form.
    """
    if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
        raise UserError(f"--size {text}: give rows and columns, as 600x800")
    return int(found[1]), int(found[2])
