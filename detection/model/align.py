"""RoIAlign (Mask R-CNN, arXiv 1703.06870, section 3; torchvision's, ``aligned=False``) as one sum over cells.

A pooled value is the mean of bilinear samples, and so a weighted sum of cells of the map. With the maps as one table,
a row for each cell and a column for each channel, all regions of all images and levels are one call of
``embedding_bag``: sums of whole rows, which run along the channels. The places of the samples are the same for every
channel and are found once. Its gradient is as direct, and the same in every run on a GPU too.

Shapes: ``B`` images, ``R`` regions of all images, ``C`` channels, ``h, w`` rows and columns of a map, ``S`` rows and
columns of bins that a region is divided into, ``s`` those that are computed, ``T`` cells of a bin in one direction.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.model.boxes import full_precision


class Bins(NamedTuple):
    """How regions are divided, and which of their bins are computed."""

    size: int
    """S, in each direction."""
    samples: int
    """Sampling points of a bin in each direction."""
    step: int = 1
    """Every `step`-th row and column of bins is computed, from the first."""


def roi_align(
    maps: list[Tensor], strides: tuple[int, ...], regions: Tensor, level: Tensor, images: Tensor, bins: Bins
) -> Tensor:
    """Features (R, C, s, s) of `regions` (R, 4), channels last in memory, in the type of the maps.

    Args:
        maps: (B, C, h, w), fine to coarse; in half precision they are summed in float32.
        strides: of the maps, in pixels.
        regions: in pixels.
        level: (R,) the map that each is pooled from.
        images: (R,) the image that each is in, 0..B-1.
    """
    height, width = (_of_level(level, [part.shape[axis] for part in maps]) for axis in (2, 3))
    x1, y1, x2, y2 = (regions / _of_level(level, strides).unsqueeze(1)).unbind(1)
    rows, row_weights = _taps(y1, y2 - y1, height, bins)
    columns, column_weights = _taps(x1, x2 - x1, width, bins)
    first = (_of_level(level, _starts(maps)) + images * height * width).view(-1, 1, 1)
    rows = (first + rows * width.view(-1, 1, 1)).to(torch.int32)
    cells = rows[:, :, None, :, None] + columns.to(torch.int32)[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    tables = [part.permute(0, 2, 3, 1).flatten(0, 2) for part in maps]
    table = full_precision(torch.cat(tables) if len(tables) > 1 else tables[0])
    weights = weights.flatten(0, 2).flatten(1).to(table.dtype)
    pooled = F.embedding_bag(cells.flatten(0, 2).flatten(1), table, per_sample_weights=weights, mode="sum")
    return pooled.to(maps[0].dtype).view(*cells.shape[:3], table.shape[1]).permute(0, 3, 1, 2)


def _taps(start: Tensor, length: Tensor, cells: Tensor, bins: Bins) -> tuple[Tensor, Tensor]:
    """Cells (R, s, T) that the bins of one direction read, int64, and their weights (R, s, T).

    A region is at least one cell long. A sample beyond the map by more than a cell counts 0; one beyond the centres of
    its outer cells takes those cells' values.

    Args:
        start, length: (R,) of the regions, in cells.
        cells: (R,) int64: how many there are.
    """
    start, cells = start.view(-1, 1, 1), cells.view(-1, 1, 1)
    bin_length = length.clamp(min=1).view(-1, 1, 1) / bins.size
    number = torch.arange(0, bins.size, bins.step, device=start.device).view(1, -1, 1)
    within = torch.arange(bins.samples, device=start.device) + 0.5
    place = start + number * bin_length + within * bin_length / bins.samples
    is_read = (place >= -1) & (place <= cells)
    place = torch.where(is_read, place, 0).clamp(min=0)
    low = torch.minimum(place.to(torch.int64), cells - 1)
    share = torch.where(low < cells - 1, place - low, 0)
    taps = torch.stack((low, torch.minimum(low + 1, cells - 1)), dim=-1)
    weights = torch.stack((1 - share, share), dim=-1) * (is_read.to(place.dtype) / bins.samples).unsqueeze(-1)
    return taps.flatten(2), weights.flatten(2)


def _of_level(level: Tensor, values: Sequence[int]) -> Tensor:
    """The entry (R,) of `values` that belongs to each `level` (R,), without a copy from the host."""
    found = torch.full_like(level, values[0])
    for number, value in enumerate(values[1:], 1):
        found = torch.where(level == number, value, found)
    return found


def _starts(maps: list[Tensor]) -> list[int]:
    """The row of the table at which each map begins."""
    return [0, *accumulate(part.numel() // part.shape[1] for part in maps[:-1])]
