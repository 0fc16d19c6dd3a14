"""Normalization after convolutions.

* ``frozen``: batch normalization with the statistics and affine values of pretraining, constant (ResNet paper,
  appendix A).
* ``batch``: statistics of the batch at hand. ``sync``: of the batch over all processes.
* ``group``: over groups of channels of a single image; the batch size does not matter.
* ``none``: no normalization.

Shapes: ``C`` channels.
"""

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from backbones.errors import BackboneError
from backbones.settings import BackboneSettings

NormLayer = Callable[[int], nn.Module]
"""From the number of channels to the layer."""

GROUPS = 32
"""Groups of a group normalization (Wu and He, "Group Normalization", arXiv 1803.08494, table 3)."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization of (B, C, H, W) with 32 groups, or the most that divide both 32 and the channels."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


NORM_LAYERS: dict[str, NormLayer] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "sync": nn.SyncBatchNorm,
    "group": group_norm,
}
"""The layers by name; `none` has none."""


def constants(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Scale and shift (C,) of a normalization that is constant: frozen, or by batch statistics in evaluation mode.

    None for one that depends on the features.
    """
    if not isinstance(norm, FrozenBatchNorm2d) and (norm.training or not isinstance(norm, _BatchNorm)):
        return None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def require_norm(settings: BackboneSettings, allowed: tuple[str, ...]) -> None:
    """Raises a BackboneError unless the network takes this normalization."""
    if settings.norm not in allowed:
        raise BackboneError(f"norm {settings.norm}: {settings.name} takes {one_of(allowed)}")


def require_statistics(settings: BackboneSettings) -> None:
    """Raises a BackboneError for frozen normalization without statistics to freeze."""
    if settings.norm == "frozen" and settings.weights == "none":
        raise BackboneError(
            f"norm frozen: {settings.name} without pretrained weights has no statistics to freeze, so nothing would be "
            "normalized; give --weights imagenet1k_v1|FILE, or use norm group, batch or sync"
        )


def one_of(words: tuple[str, ...]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
