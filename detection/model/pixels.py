"""From stored pixels to what a network reads.

Shapes: ``B`` images, ``H, W`` rows and columns after padding.
"""

import torch
from torch import Tensor, nn

from detection.batch import Batch


class Normalizer(nn.Module):
    """Images less the mean, over the deviation; nothing of it is part of a network's weights.

    Args:
        mean, std: of red, green and blue, scaled to [0, 1].
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """(B, 3, H, W) floating point, 0 in the padding. Floating-point images are done already."""
        if batch.images.is_floating_point():
            return batch.images
        rows = torch.arange(batch.images.shape[2], device=batch.images.device)
        columns = torch.arange(batch.images.shape[3], device=batch.images.device)
        height, width = batch.sizes[:, 0].view(-1, 1, 1), batch.sizes[:, 1].view(-1, 1, 1)
        inside = (rows.view(1, -1, 1) < height) & (columns.view(1, 1, -1) < width)
        # In place: on a CPU, fresh memory for each of the three results takes longer than to compute them.
        return (batch.images - self.mean).div_(self.std).mul_(inside.unsqueeze(1))
