"""Anchors: the boxes that proposals are regressed from.

Shapes: ``L`` feature maps, ``A`` anchors of an image over all maps, in the order map, row, column, size x ratio.
"""

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


class Anchors(AnchorGenerator):
    """Torchvision's anchor shapes on grids of known stride.

    Torchvision infers strides from the padded image's size, which goes wrong where a convolution rounds up; here they
    are the trunk's constants. Anchor (row, column) is centred on pixel (row, column) x stride.

    Args:
        sizes: square roots of the areas, one tuple a map.
        ratios: height over width, the same on each map.
        strides: pixels between neighbouring anchors of each map.
    """

    def __init__(
        self, sizes: tuple[tuple[float, ...], ...], ratios: tuple[float, ...], strides: tuple[int, ...]
    ) -> None:
        super().__init__(sizes, (ratios,) * len(sizes))
        self.strides = strides

    def forward(self, shapes: list[tuple[int, int]], like: Tensor) -> Tensor:
        """Anchors (A, 4) in pixels for maps with the given rows and columns, of the type and device of `like`."""
        self.set_cell_anchors(like.dtype, like.device)
        grids = zip(shapes, self.strides, self.cell_anchors, strict=True)
        return torch.cat([self._on_grid(shape, stride, cell) for shape, stride, cell in grids])

    @staticmethod
    def _on_grid(shape: tuple[int, int], stride: int, cell: Tensor) -> Tensor:
        rows = torch.arange(shape[0], device=cell.device, dtype=cell.dtype) * stride
        columns = torch.arange(shape[1], device=cell.device, dtype=cell.dtype) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
        return (centres + cell).reshape(-1, 4)
