"""Region pooling: a feature of fixed size for each region, from one feature map or from a pyramid.

Shapes: ``B`` images, ``R`` regions of all images, ``C`` channels, ``h, w`` rows and columns of a map, ``S`` rows and
columns of a pooled region.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_pool

from detection.model.align import Bins, roi_align

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4
"""A region of 224x224 pixels is pooled from the map of stride 2**4 (FPN paper, eq. 1)."""
EDGE = 2
"""Rows and columns between the maps on a sheet: what is read beyond a map never belongs to another one."""


class Source(NamedTuple):
    """What regions are pooled from."""

    maps: list[Tensor]
    """(B, C, h, w), fine to coarse."""
    step: int = 1
    """Every `step`-th row and column of a pooled region is wanted."""


class RegionPooling(nn.Module):
    """RoIAlign (torchvision's, ``aligned=False``) or RoI max-pooling.

    A region of a pyramid belongs to one level by its size. All levels are read in one call, so that no index of
    varying length has to be read back from the device: for RoIAlign they are one table of cells, for max-pooling they
    are laid out on one sheet.

    Args:
        strides: stride of each map that is pooled from, fine to coarse.
        size: S.
        kind: "align" or "max".
        sampling_ratio: RoIAlign's sampling points per bin and direction.
    """

    def __init__(self, strides: tuple[int, ...], size: int, kind: Literal["align", "max"], sampling_ratio: int) -> None:
        super().__init__()
        self.strides = strides
        self.size = size
        self.kind = kind
        self.sampling_ratio = sampling_ratio

    def forward(self, source: Source, regions: Tensor, images: Tensor) -> Tensor:
        """Features (R, C, S / step, S / step) of `regions` (R, 4), in pixels of the `images` (R,) that they are in.

        Args:
            images: 0..B-1.
        """
        if self.kind == "align":
            bins, level = Bins(self.size, self.sampling_ratio, source.step), assign_levels(regions, self.strides)
            return roi_align(source.maps, self.strides, regions, level, images, bins)
        return self._max(source.maps, regions, images)[:, :, :: source.step, :: source.step]

    def _max(self, maps: list[Tensor], regions: Tensor, images: Tensor) -> Tensor:
        """(R, C, S, S)."""
        sheet, scale = maps[0], 1 / self.strides[0]
        if len(maps) > 1:
            sheet, scale, regions = lay_out(maps), 1.0, self._on_sheet(maps, regions)
        regions = torch.cat((images.to(regions.dtype).unsqueeze(1), regions), dim=1)
        return roi_pool(sheet.to(regions.dtype), regions, self.size, scale).to(sheet.dtype)

    def _on_sheet(self, maps: list[Tensor], regions: Tensor) -> Tensor:
        """Regions (R, 4) in cells of the sheet that :func:`lay_out` makes."""
        level = assign_levels(regions, self.strides)
        stride, left, top = (torch.zeros_like(regions[..., 0]) for _ in range(3))
        for number, (x, y) in enumerate(origins(maps)):
            here = level == number
            stride = torch.where(here, float(self.strides[number]), stride)
            left = torch.where(here, float(x), left)
            top = torch.where(here, float(y), top)
        return regions / stride.unsqueeze(-1) + torch.stack((left, top, left, top), dim=-1)


def assign_levels(regions: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Level (R,), counted from 0 at the finest map, that each of `regions` (R, 4) is pooled from.

    floor(4 + log2(sqrt(area) / 224)), limited to the maps there are (FPN paper, eq. 1; the 1e-6 is torchvision's).
    """
    size = ((regions[..., 2] - regions[..., 0]) * (regions[..., 3] - regions[..., 1])).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE) + 1e-6)
    finest = strides[0].bit_length() - 1
    return (level - finest).clamp(0, len(strides) - 1).to(torch.int64)


def origins(maps: list[Tensor]) -> list[tuple[int, int]]:
    """Column and row of each map's first cell on the sheet: the finest on top, the others side by side below it."""
    places, column = [(0, 0)], 0
    for features in maps[1:]:
        places.append((column, maps[0].shape[2] + EDGE))
        column += features.shape[3] + EDGE
    return places


def lay_out(maps: list[Tensor]) -> Tensor:
    """One sheet (B, C, H, W) that holds `maps` (B, C, h, w).

    Each map repeats its last row and column as an edge. A region never leaves its image, but max-pooling ends one cell
    after it, and one more where 7 * (w / 7) rounds to more than w; torchvision takes 0 beyond the map.
    """
    edged = [F.pad(features, (0, EDGE, 0, EDGE), mode="replicate") for features in maps]
    height = edged[1].shape[2]
    below = torch.cat([F.pad(features, (0, 0, 0, height - features.shape[2])) for features in edged[1:]], dim=3)
    width = max(edged[0].shape[3], below.shape[3])
    return torch.cat([F.pad(part, (0, width - part.shape[3])) for part in (edged[0], below)], dim=2)
