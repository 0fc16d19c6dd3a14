"""A feature pyramid over the maps of any trunk (Lin et al., arXiv 1612.03144), with torchvision's layers.

Shapes: ``B`` images, ``C`` channels, ``H, W`` rows and columns.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
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

    def forward(self, maps: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
        """The levels of the maps (B, C, H, W), fine to coarse."""
        levels = [inner(part) for inner, part in zip(self.inner_blocks, maps.values(), strict=True)]
        for level in reversed(range(len(levels) - 1)):
            levels[level] = add_upsampled(levels[level], levels[level + 1])
        levels = [layer(part) for layer, part in zip(self.layer_blocks, levels, strict=True)]
        levels, names = self.extra_blocks(levels, list(maps.values()), list(maps))
        return OrderedDict(zip(names, levels, strict=True))


def add_upsampled(fine: Tensor, coarse: Tensor) -> Tensor:
    """The sum of a map and of a coarser one at its size, by the nearest neighbour.

    Where nothing is learned, a map of twice the size is added to in its place: on a CPU that was 3 (plain layout) to 20
    (channels last) times as fast for a map at stride 4, most of it the time that new memory takes.

    Args:
        fine: (B, C, H, W), overwritten where nothing is learned.
        coarse: (B, C, h, w).
    """
    rows, columns = coarse.shape[-2:]
    if torch.is_grad_enabled() or fine.shape[-2:] != (2 * rows, 2 * columns):
        return fine + F.interpolate(coarse, fine.shape[-2:])
    fine.unflatten(3, (columns, 2)).unflatten(2, (rows, 2)).add_(coarse[:, :, :, None, :, None])
    return fine
