"""What one detector says of regions, from its feature maps of one or several sizes of the images.

With several sizes each region is pooled from the two adjacent ones that suit it best, and the two vectors are merged
by their elementwise maximum right before the sibling layers ("multi-scale testing" of the ResNet paper, appendix B).

Shapes: ``B`` images, ``R`` regions of an image, ``K`` classes, ``S`` sizes, ``C`` numbers that describe a region.
Regions and boxes are in pixels of the reference: the images at the size that the first detector's proposals come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from detection.batch import Batch
from detection.model.boxes import area
from detection.model.pooling import Source
from detection.model.roi_heads import RoIHeads, with_context
from detection.model.selection import RegionOutputs

CANONICAL_AREA = 224.0**2
"""Square pixels of the image that networks are trained on for ImageNet: a region is pooled best at about this area."""
SMALLEST_AREA = 1e-4
"""Square pixels of the reference below which regions count as this large, so that the logarithm stays finite."""

Scorer = Callable[[Tensor], RegionOutputs]
"""What a detector, or several, say of regions (B, R, 4) of the images at hand."""


class Level(NamedTuple):
    """One size of the images, seen by the trunk."""

    sources: list[Source]
    """What regions are pooled from."""
    context: Tensor | None
    """(B, C): vector of the whole image, with global context."""
    ratio: Tensor
    """(B, 4): pixels of this size in one of the reference, for x1, y1, x2, y2."""


class ImagePyramid:
    """One detector's outputs for regions; its trunk has run already, once for each size.

    Args:
        heads: the detector's region head.
        levels: the sizes, small to large; a single one is an ordinary detector.
    """

    def __init__(self, heads: RoIHeads, levels: Sequence[Level]) -> None:
        self.heads = heads
        self.levels = levels

    def __call__(self, regions: Tensor) -> RegionOutputs:
        """Class scores and regressed boxes of `regions` (B, R, 4)."""
        return self.heads.outputs(self.vectors(regions), regions)

    def vectors(self, regions: Tensor) -> Tensor:
        """(B, R, C): what the sibling layers read of `regions` (B, R, 4)."""
        if len(self.levels) == 1:
            (level,) = self.levels
            vectors = self.heads.vectors(level.sources, regions * level.ratio.unsqueeze(1))
            return vectors if level.context is None else with_context(vectors, level.context.unsqueeze(1))
        smaller = self._smaller(regions)
        merged = regions.new_full((*regions.shape[:2], self.heads.box_predictor.cls_score.in_features), -torch.inf)
        for number, level in enumerate(self.levels):
            image, row = ((smaller == number) | (smaller + 1 == number)).nonzero(as_tuple=True)
            boxes = regions[image, row] * level.ratio[image]
            vectors = self.heads.vectors_of(level.sources, boxes, image)
            vectors = vectors if level.context is None else with_context(vectors, level.context[image])
            merged[image, row] = torch.maximum(merged[image, row], vectors)
        return merged

    def _smaller(self, regions: Tensor) -> Tensor:
        """(B, R): the smaller of the two sizes that each region is pooled from."""
        growth = torch.stack([level.ratio[:, 0] * level.ratio[:, 1] for level in self.levels], dim=-1)
        return choose_pairs(area(regions).clamp(min=SMALLEST_AREA).unsqueeze(-1) * growth.unsqueeze(1))


def choose_pairs(areas: Tensor) -> Tensor:
    """The first (...) of the two adjacent sizes whose areas of a region (..., S) are together nearest to 224 x 224.

    Nearest is the smallest sum of |log(area / 224^2)|, so that half and double are equally far. The paper leaves open
    how the two are picked. Areas are above 0.
    """
    distance = (areas / CANONICAL_AREA).log().abs()
    return (distance[..., :-1] + distance[..., 1:]).argmin(dim=-1)


def mirrored(score: Scorer, widths: Tensor) -> Scorer:
    """A scorer of mirrored images as one of the images themselves, which have `widths` (B,)."""

    def score_mirrored(regions: Tensor) -> RegionOutputs:
        outputs = score(mirror_boxes(regions, widths))
        return outputs._replace(boxes=mirror_boxes(outputs.boxes, widths))

    return score_mirrored


def mirror_boxes(boxes: Tensor, widths: Tensor) -> Tensor:
    """Boxes (B, ..., 4) in images of `widths` (B,), left and right exchanged."""
    widths = widths.view(-1, *[1] * (boxes.dim() - 2))
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((widths - x2, y1, widths - x1, y2), dim=-1)


def mirror_images(batch: Batch) -> Batch:
    """The images with left and right exchanged; what fills up stays on the right."""
    columns = torch.arange(batch.images.shape[-1], device=batch.images.device)
    widths = batch.sizes[:, 1:].to(columns.dtype)
    source = torch.where(columns < widths, widths - 1 - columns, columns)
    images = batch.images.gather(3, source[:, None, None, :].expand_as(batch.images))
    return replace(batch, images=images)


def mean_of(scorers: Sequence[Scorer]) -> Scorer:
    """The scorers' mean class scores and mean boxes."""

    def score(regions: Tensor) -> RegionOutputs:
        found = [scorer(regions) for scorer in scorers]
        return RegionOutputs(*(torch.stack(parts).mean(dim=0) for parts in zip(*found, strict=True)))

    return scorers[0] if len(scorers) == 1 else score


def level_of(heads: RoIHeads, features: list[Tensor], batch: Batch, reference: Tensor) -> Level:
    """The level of a batch whose trunk's maps are `features`; `reference` (B, 2) holds the reference's sizes."""
    ratio = (batch.sizes / reference).flip(1).repeat(1, 2)
    sources = heads.sources(features)
    return Level(sources, heads.context(sources, batch.sizes), ratio)
