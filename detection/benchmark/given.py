"""Torchvision's losses over the very anchors and regions that our detector has sampled.

Shapes: ``B`` images, ``A`` candidates of an image (anchors or regions), ``P`` proposals and ``S`` samples of an image.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN as Peer

from detection.batch import Batch
from detection.model.faster_rcnn import FasterRCNN
from detection.model.roi_heads import Regions
from detection.model.rpn import Proposals

Masks = tuple[list[Tensor], list[Tensor]]
"""Of each image (A,) which candidates are sampled as positives, and which as negatives."""


class Given:
    """A sampler for torchvision that returns what was sampled elsewhere."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def __call__(self, labels: list[Tensor]) -> Masks:
        """The masks, whatever the labels (A,) of each image."""
        return self.masks


@contextmanager
def same_samples(peer: Peer, anchors: Masks, regions: Masks) -> Iterator[None]:
    """The peer samples these anchors and regions for as long as the block runs."""
    parts = {peer.rpn: anchors, peer.roi_heads: regions}
    before = {part: part.fg_bg_sampler for part in parts}
    try:
        for part, masks in parts.items():
            part.fg_bg_sampler = Given(masks)
        yield
    finally:
        for part, sampler in before.items():
            part.fg_bg_sampler = sampler


def sampled_anchors(detector: FasterRCNN, features: list[Tensor], batch: Batch) -> Masks:
    """Which anchors our detector samples on maps of these shapes."""
    anchors = detector.rpn.anchor_generator([part.shape[-2:] for part in features], batch.gt_boxes)
    sampled, _ = detector.rpn.assign(anchors, batch)
    empty = torch.zeros(len(batch), len(anchors), dtype=torch.uint8, device=anchors.device)
    chosen = (sampled.is_positive & sampled.is_sampled, ~sampled.is_positive & sampled.is_sampled)
    positive, negative = (empty.scatter_add(1, sampled.index, mask.to(torch.uint8)) for mask in chosen)
    return list(positive), list(negative)


def sampled_regions(regions: Regions, proposals: Proposals, batch: Batch) -> Masks:
    """Which of an image's proposals and objects, in this order, our detector has sampled as `regions`."""
    positive, negative = [], []
    for image, boxes in enumerate(proposals.boxes):
        objects = batch.gt_boxes[image, batch.gt_labels[image] > 0]
        candidates = torch.cat((boxes[proposals.is_valid[image]], objects))
        drawn = (candidates.unsqueeze(1) == regions.boxes[image]).all(dim=2) & regions.is_sampled[image]
        first = (drawn.cumsum(0) == 1) & drawn  # of equal candidates one stands for the region
        is_object = regions.labels[image] > 0
        positive.append((first & is_object).any(dim=1).to(torch.uint8))
        negative.append((first & ~is_object).any(dim=1).to(torch.uint8))
    return positive, negative
