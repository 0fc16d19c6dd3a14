"""A feature pyramid over the maps of any trunk (Lin et al., arXiv 1612.03144), torchvision's own.

Shapes: ``B`` images, ``C`` channels, ``H, W`` rows and columns.
"""

from collections.abc import Sequence

from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from backbones.norm import group_norm


class Pyramid(FeaturePyramidNetwork):
    """Maps "0", "1", ... (B, C, H, W) to as many with equal channels, and one more, "pool", of half the last's size."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, norm: str) -> None:
        """A new pyramid.

        Args:
            in_channels: Channels of the maps, fine to coarse.
            out_channels: Channels of every level.
            norm: The trunk's normalization. A pyramid is always trained from scratch, so only `group`, which works
                at any batch size, is taken over; otherwise the convolutions have biases, as in the paper.
        """
        norm_layer = group_norm if norm == "group" else None
        super().__init__(list(in_channels), out_channels, extra_blocks=LastLevelMaxPool(), norm_layer=norm_layer)
        self.out_channels = out_channels
