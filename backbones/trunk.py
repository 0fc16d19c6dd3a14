"""The form that all backbones share: stages that can be frozen, a body made of them, and the trunk.

Shapes: ``B`` images, ``C`` channels, ``H, W`` rows and columns, ``S`` the stride of a map in pixels.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from backbones.errors import BackboneError
from backbones.fpn import Pyramid
from backbones.settings import BackboneSettings


class Staged(nn.Module, ABC):
    """A module made of stages in a row, of which the first can be frozen."""

    frozen: int = 0
    """How many first stages are not trained."""

    @abstractmethod
    def stages(self) -> dict[str, nn.Module]:
        """The stages by the papers' names, in the order in which they run."""

    def freeze(self, count: int) -> None:
        """Stops the first `count` stages from learning: neither parameters nor batch statistics move any more."""
        self.frozen = count
        for stage in list(self.stages().values())[:count]:
            stage.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Staged":
        """As usual, except that frozen stages stay in evaluation mode, or their batch statistics would still move."""
        super().train(mode)
        for stage in list(self.stages().values())[: self.frozen]:
            stage.eval()
        return self


class Body(Staged):
    """The convolutional network itself: images (B, 3, H, W) to one or more maps (B, C, H / S, W / S)."""

    strides: tuple[int, ...]
    """Stride of each returned map in pixels, fine to coarse: constants of the network."""
    channels: tuple[int, ...]
    """Channels of each returned map."""

    @abstractmethod
    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps, fine to coarse, named "0", "1", ..."""


class Trunk(nn.Module):
    """What runs once per image: a body, and a pyramid over its maps if there is one."""

    def __init__(self, body: Body, fpn: Pyramid | None = None) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.strides: tuple[int, ...] = body.strides if fpn is None else (*body.strides, 2 * body.strides[-1])
        """Constant stride of each returned map in pixels, fine to coarse."""
        self.out_channels: int = body.channels[-1] if fpn is None else fpn.out_channels
        """Channels of every returned map."""
        self.pooled_levels: int = len(body.strides)
        """How many of the first maps regions are pooled from; a pyramid's last serves proposals only."""

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, 3, H, W) to maps (B, out_channels, H / S, W / S): "0", "1", ... and the pyramid's last, "pool"."""
        maps = self.body(images)
        return maps if self.fpn is None else self.fpn(maps)

    def stages(self) -> dict[str, nn.Module]:
        """The stages of the body by the papers' names, in order, and the pyramid."""
        stages = self.body.stages()
        return stages if self.fpn is None else {**stages, "pyramid": self.fpn}


class Assembly(NamedTuple):
    """What a builder returns: the modules, and where their tensors are found in published weights."""

    trunk: Trunk
    tail: Staged | None
    """What runs once per region, with the attribute `out_channels`."""
    published: tuple[tuple[str, nn.Module], ...]
    """Every pretrained module, with the prefix that its tensors' names have in a published file."""
    imagenet: str = ""
    """torchvision's name of the network whose ImageNet weights fit; empty: there is none."""
    why_none: str = "do not exist in torchvision; use --weights none|FILE"
    """Why no ImageNet weights fit, and what to do; said where `imagenet` is empty."""


Builder = Callable[[BackboneSettings], Assembly]


class Backbone(NamedTuple):
    """A backbone ready for use."""

    trunk: Trunk
    tail: Staged | None
    report: str
    """One line on the weights that were loaded."""


def make_trunk(body: Body, settings: BackboneSettings) -> Trunk:
    """The body as it is, or under a pyramid when the head is `fpn`."""
    if settings.head != "fpn":
        return Trunk(body)
    return Trunk(body, Pyramid(body.channels, settings.pyramid_channels, settings.norm))


def last_width(module: nn.Module) -> int:
    """Channels of the last convolution in `module`."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1].out_channels


def freeze_stages(settings: BackboneSettings, assembly: Assembly) -> None:
    """Freezes the first `settings.freeze_at` convolutional stages, which may reach into the tail (conv5 of c4).

    Raises:
        BackboneError: there are not so many stages.
    """
    body, tail = assembly.trunk.body, assembly.tail
    in_body = len(body.stages())
    in_tail = sum(name.startswith("conv") for name in tail.stages()) if tail else 0
    if not 0 <= settings.freeze_at <= in_body + in_tail:
        raise BackboneError(
            f"freeze_at {settings.freeze_at}: {settings.name} with the {settings.head} head has {in_body + in_tail} "
            f"stages to freeze, so give a number from 0 to {in_body + in_tail}"
        )
    body.freeze(min(settings.freeze_at, in_body))
    if tail and settings.freeze_at > in_body:
        tail.freeze(settings.freeze_at - in_body)
