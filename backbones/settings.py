"""What to build, as the caller says it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BackboneSettings:
    """What to build."""

    name: str
    """One of :func:`backbones.names`."""
    head: Literal["c4", "fpn", "fc"]
    """c4: conv5 of a ResNet per region. fpn: a feature pyramid. fc: fc6 and fc7 of a VGG per region."""
    norm: Literal["frozen", "batch", "sync", "group", "none"]
    """Normalization after the convolutions; see :mod:`backbones.norm`."""
    weights: str = "none"
    """imagenet1k_v1, imagenet1k_v2, none, or the path of a file."""
    freeze_at: int = 0
    """How many first stages are not trained."""
    pyramid_channels: int = 256
    """Channels of every level of the pyramid (fpn)."""
    dropout: float = 0.5
    """Probability of dropout after fc6 and fc7 (fc)."""
