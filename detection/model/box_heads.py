"""What turns a pooled region into one vector, and what reads class and box from it.

Shapes: ``B`` images, ``h, w`` rows and columns of a map, ``R`` regions of all images, ``C, c`` channels, ``S`` rows and
columns of a pooled region, ``K`` classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from detection.config import RegionSettings
from detection.model.pooling import Source

POOL_SIZES = {"c4": 14, "fpn": 7, "fc": 7}
"""conv5 halves 14 to 7 (detectron2's C4); 7 is what VGG's fc6 was trained on and what the pyramid's head takes."""


class Conv5Head(nn.Module):
    """conv5 on each region, averaged over its 7x7 places (ResNet paper, appendix A).

    Args:
        tail: conv5, with `project`, `finish` and `steps`.
        is_linear: whether regions are pooled by RoIAlign. What of conv5 is linear at each place by itself then runs
            once on the map, before regions are pooled from it. This is the cheaper order from one region for each 78
            places of the map on, which 25 regions of an image of 600x800 pixels reach.
    """

    def __init__(self, tail: nn.Module, is_linear: bool) -> None:
        super().__init__()
        self.tail = tail
        self.is_linear = is_linear
        self.out_channels = tail.out_channels

    def sources(self, maps: list[Tensor]) -> list[Source]:
        """What regions are pooled from, given the trunk's one map (B, C, h, w)."""
        if not self.is_linear:
            return [Source(maps)]
        projected = self.tail.project(maps[0])
        return [Source([part], step) for part, step in zip(projected, self.tail.steps, strict=True)]

    def forward(self, *pooled: Tensor) -> Tensor:
        """Vectors (R, out_channels) of regions, pooled from each of :meth:`sources`: (R, c, 14, 14), (R, c, 7, 7)."""
        return (self.tail.finish(*pooled) if self.is_linear else self.tail(*pooled)).mean(dim=(2, 3))


class PyramidHead(TwoMLPHead):
    """Two layers on all values of a pooled region (Lin et al., arXiv 1612.03144, section 4.2); torchvision's tensors.

    The first layer's weights are stored channel by channel, as torchvision's are. Regions lie in memory place by place
    (see :mod:`detection.model.align`), so that the weights are sorted, and not the many regions.

    Args:
        channels: C.
        size: S.
        hidden: width of either layer.
    """

    def __init__(self, channels: int, size: int, hidden: int) -> None:
        super().__init__(channels * size**2, hidden)
        self.region = (channels, size, size)
        self.out_channels = hidden

    def forward(self, pooled: Tensor) -> Tensor:
        """Vectors (R, out_channels) of regions (R, C, S, S)."""
        weight = self._sorted_weight().flatten(1)
        hidden = F.relu(F.linear(pooled.permute(0, 2, 3, 1).flatten(1), weight, self.fc6.bias))
        return F.relu(self.fc7(hidden))

    def sort_weights(self) -> None:
        """Store the weights sorted, once, in four dimensions, so that no other head takes them for its own."""
        self.fc6.weight = nn.Parameter(self._sorted_weight().detach().contiguous())

    def _sorted_weight(self) -> Tensor:
        """(out_channels, S, S, C)"""
        weight = self.fc6.weight
        return weight if weight.dim() == 4 else weight.unflatten(1, self.region).permute(0, 2, 3, 1)


def box_head(kind: str, channels: int, tail: nn.Module | None, settings: RegionSettings, pool_size: int) -> nn.Module:
    """The head for `kind` (c4, fpn or fc) on maps of `channels`; `tail` is the part of the backbone it consists of."""
    if kind == "fpn":
        return PyramidHead(channels, pool_size, settings.hidden)
    return Conv5Head(tail, settings.pooling == "align") if kind == "c4" else tail


def box_predictor(channels: int, num_classes: int, settings: RegionSettings) -> FastRCNNPredictor:
    """The two sibling layers: K+1 class logits, and 4 offsets for each of them (or 4 for all when class-agnostic)."""
    predictor = FastRCNNPredictor(channels, num_classes + 1)
    if settings.class_agnostic:
        predictor.bbox_pred = nn.Linear(channels, 4)
    for layer, std in ((predictor.cls_score, settings.class_init_std), (predictor.bbox_pred, settings.box_init_std)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return predictor
