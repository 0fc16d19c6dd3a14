"""VGG-16 and VGG-19 (Simonyan and Zisserman, arXiv 1409.1556), from torchvision.

The ``fc`` head is that of Faster R-CNN (arXiv 1506.01497): the convolutions without the last pooling run over the
image, at stride 16, and fc6 and fc7 on each region. The ``fpn`` head takes the last convolutions of the third to
fifth stage and the last pooling into a pyramid.

Shapes: ``B`` images, ``R`` regions of an image, ``C`` channels, ``H, W`` rows and columns.
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from backbones.errors import BackboneError
from backbones.norm import group_norm, one_of, require_norm
from backbones.settings import BackboneSettings
from backbones.trunk import Assembly, Body, Staged, last_width, make_trunk

LAYOUTS = {"vgg16": cfgs["D"], "vgg19": cfgs["E"]}
"""Columns D and E of table 1 of the paper."""
NORMS = ("none", "batch", "group")
IMAGENET_NORMS = ("none", "batch")
POOLED_SIZE = 7
"""Rows and columns of the maps that fc6 reads."""


def build_vgg(settings: BackboneSettings) -> Assembly:
    """A VGG network for the head `fc` or `fpn`, with torchvision's initialization.

    Raises:
        BackboneError: the head or the normalization does not go with VGG.
    """
    if settings.head not in ("fc", "fpn"):
        raise BackboneError(
            f"head {settings.head}: {settings.name} has no residual conv5 to run on regions; use fc or fpn, or a ResNet"
        )
    require_norm(settings, NORMS)
    body = VGGBody(_features(settings), pyramid=settings.head == "fpn")
    published: tuple[tuple[str, nn.Module], ...] = (("features.", body),)
    tail = None
    if settings.head == "fc":
        tail = FullyConnected(body.channels[-1], settings.dropout)
        published += (("classifier.0.", tail.fc6), ("classifier.3.", tail.fc7))
    trunk = make_trunk(body, settings)
    if settings.norm in IMAGENET_NORMS:
        return Assembly(trunk, tail, published, imagenet=settings.name + ("_bn" if settings.norm == "batch" else ""))
    why_none = (
        "were trained without normalization or with batch normalization; "
        f"use norm {one_of(IMAGENET_NORMS)}, or --weights none|FILE"
    )
    return Assembly(trunk, tail, published, why_none=why_none)


class VGGBody(Body, nn.Sequential):
    """The convolutions; its tensors have the names that they have in torchvision's `features`."""

    def __init__(self, features: nn.Sequential, pyramid: bool) -> None:
        """Takes over `features`: with the last pooling for a pyramid, up to conv5 for the `fc` head."""
        super().__init__(*(features if pyramid else features[:-1]))
        pools = [index for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
        self.starts = (0, *(index + 1 for index in pools))
        self.returned = (*(index - 1 for index in pools[2:]), pools[-1]) if pyramid else (pools[-1] - 1,)
        self.strides = (4, 8, 16, 32) if pyramid else (16,)
        self.channels = tuple(last_width(features[: index + 1]) for index in self.returned)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, 3, H, W) to maps (B, C, H / stride, W / stride), sizes rounded down at every halving."""
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for index, layer in enumerate(self):
            images = layer(images)
            if index in self.returned:
                maps[str(len(maps))] = images
        return maps

    def stages(self) -> dict[str, nn.Module]:
        """conv1 to conv5, each with the pooling after it."""
        layers = list(self)
        spans = enumerate(pairwise(self.starts), 1)
        return {f"conv{number}": nn.Sequential(*layers[start:end]) for number, (start, end) in spans}


class FullyConnected(Staged):
    """fc6 and fc7, each followed by a ReLU and dropout."""

    out_channels = 4096

    def __init__(self, in_channels: int, dropout: float) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_channels * POOLED_SIZE**2, self.out_channels)
        self.fc7 = nn.Linear(self.out_channels, self.out_channels)
        self.dropout = nn.Dropout(dropout)
        _initialize(self)

    def forward(self, regions: Tensor) -> Tensor:
        """Pooled regions (B * R, C * 7 * 7), or (B * R, C, 7, 7), to (B * R, 4096)."""
        hidden = self.dropout(torch.relu(self.fc6(regions.flatten(1))))
        return self.dropout(torch.relu(self.fc7(hidden)))

    def stages(self) -> dict[str, nn.Module]:
        """fc6 and fc7."""
        return {"fc6": self.fc6, "fc7": self.fc7}


def _features(settings: BackboneSettings) -> nn.Sequential:
    """torchvision's `features`, without the 120 million parameters of its classifier."""
    features = make_layers(LAYOUTS[settings.name], batch_norm=settings.norm != "none")
    if settings.norm == "group":
        for index, layer in enumerate(features):
            if isinstance(layer, nn.BatchNorm2d):
                features[index] = group_norm(layer.num_features)
    _initialize(features)
    return features


def _initialize(module: nn.Module) -> None:
    """The initialization of torchvision's VGG: He's for convolutions, N(0, 0.01) for linear layers, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.zeros_(layer.bias)
