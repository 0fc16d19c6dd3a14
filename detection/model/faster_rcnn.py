"""Faster R-CNN: features, proposals, regions.

Shapes: ``B`` images, ``N`` objects of an image after padding, ``H, W`` rows and columns after padding.
"""

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.ops import MultiScaleRoIAlign

from detection.batch import Batch
from detection.config import InferenceSettings, ModelSettings
from detection.model.anchors import Anchors
from detection.model.box_heads import POOL_SIZES, box_head, box_predictor
from detection.model.boxes import unit_boxes
from detection.model.pixels import Normalizer
from detection.model.pooling import RegionPooling
from detection.model.roi_heads import RoIHeads
from detection.model.rpn import RegionProposalNetwork, proposal_head


class FasterRCNN(TorchvisionFasterRCNN):
    """Torchvision's Faster R-CNN with batched assignment, sampling and losses.

    Called like torchvision's on a list of images (3, h, w) in [0, 1] of any size, with a list of targets in training;
    or on a prepared :class:`~detection.batch.Batch`. Returns a dictionary of four losses in training, and at test time
    for each image a dictionary of ``boxes`` (D, 4) in pixels of the original image, ``labels`` and ``scores`` (D,).
    That is the plain detector; :func:`detection.load_detector` gives one with refinement, scales and mirrored image.

    Args:
        trunk: images -> feature maps, with `strides`, `out_channels` and `pooled_levels`.
        tail: the part of the backbone that runs on each region (c4, fc), or None (fpn).
        num_classes: K, without the background.
        settings, test: see :mod:`detection.config`.
        image_size: shorter side and limit of the longer side, for lists of images.
        seed: of the samples that enter the losses.
    """

    def __init__(
        self,
        trunk: nn.Module,
        tail: nn.Module | None,
        num_classes: int,
        settings: ModelSettings,
        test: InferenceSettings,
        image_size: tuple[int, int] = (600, 1000),
        seed: int = 0,
    ) -> None:
        size = settings.roi.pool_size or POOL_SIZES[settings.head]
        anchors = Anchors(anchor_sizes(settings, trunk.strides), settings.rpn.anchor_ratios, trunk.strides)
        rpn_head = proposal_head(trunk.out_channels, anchors.num_anchors_per_location()[0], settings.rpn.channels)
        head = box_head(settings.head, trunk.out_channels, tail, settings.roi, size)
        width = head.out_channels * (2 if settings.global_context else 1)
        predictor = box_predictor(width, num_classes, settings.roi)
        super().__init__(
            trunk,
            min_size=image_size[0],
            max_size=image_size[1],
            image_mean=settings.image_mean,
            image_std=settings.image_std,
            size_divisible=settings.padding,
            rpn_anchor_generator=anchors,
            rpn_head=rpn_head,
            box_roi_pool=MultiScaleRoIAlign(["0"], size, settings.roi.sampling_ratio),
            box_head=head,
            box_predictor=predictor,
        )
        pooled = trunk.strides[: trunk.pooled_levels]
        pool = RegionPooling(pooled, size, settings.roi.pooling, settings.roi.sampling_ratio)
        self.rpn = RegionProposalNetwork(anchors, rpn_head, settings.rpn, seed)
        levels, has_context = trunk.pooled_levels, settings.global_context
        self.roi_heads = RoIHeads(pool, head, predictor, levels, settings.roi, test, has_context, seed)
        self.normalize = Normalizer(settings.image_mean, settings.image_std)

    def forward(
        self, images: Batch | list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """See the class. Targets hold ``boxes`` (n, 4), ``labels`` (n,) 1..K and optionally ``ignore`` (n,) bool.

        Raises:
            ValueError: training without targets.
        """
        batch = images if isinstance(images, Batch) else self.prepare(images, targets)
        features = self.features(batch)
        proposals, proposal_losses = self.rpn(features, batch)
        detections, region_losses = self.roi_heads(features, proposals, batch)
        return {**region_losses, **proposal_losses} if self.training else detections

    def features(self, batch: Batch) -> list[Tensor]:
        """The trunk's maps (B, C, h, w) of the images, fine to coarse."""
        return list(self.backbone(self.normalize(batch)).values())

    def prepare(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None) -> Batch:
        """Resize, normalize and pad a list of images and their targets, as torchvision does."""
        if self.training and targets is None:
            raise ValueError("training needs targets: a list with `boxes` and `labels` of each image")
        original = torch.tensor([image.shape[-2:] for image in images], dtype=torch.float32)
        prepared, targets = self.transform(images, targets)
        tensors, device = prepared.tensors, prepared.tensors.device
        targets = targets or [{"boxes": tensors.new_zeros(0, 4), "labels": torch.zeros(0, device=device)}] * len(images)
        length = max(1, *(len(target["boxes"]) for target in targets))
        gt_boxes = unit_boxes(tensors, len(images), length)
        gt_labels = torch.zeros(len(images), length, dtype=torch.int64, device=device)
        gt_ignore = torch.zeros_like(gt_labels, dtype=torch.bool)
        for row, target in enumerate(targets):
            count = len(target["boxes"])
            gt_boxes[row, :count] = target["boxes"].to(gt_boxes)
            gt_labels[row, :count] = target["labels"].to(gt_labels)
            gt_ignore[row, :count] = target.get("ignore", gt_ignore[row, :count])
        return Batch(
            images=tensors,
            sizes=torch.tensor(prepared.image_sizes, dtype=torch.float32, device=device),
            original_sizes=original.to(device),
            positions=torch.randint(2**31, (len(images),)).to(device),
            gt_boxes=gt_boxes,
            gt_labels=gt_labels,
            gt_ignore=gt_ignore,
            image_indices=torch.arange(len(images)),
        )


def anchor_sizes(settings: ModelSettings, strides: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Sizes for each map: all of them on a single one, one on each level of a pyramid.

    Raises:
        ValueError: a pyramid has another number of levels than there are sizes.
    """
    sizes = settings.rpn.anchor_sizes
    if len(strides) == 1:
        return (sizes,)
    if len(sizes) != len(strides):
        raise ValueError(f"model.rpn.anchor_sizes: a pyramid of {len(strides)} levels takes {len(strides)} sizes")
    return tuple((size,) for size in sizes)
