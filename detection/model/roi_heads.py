"""The region head: what is in each proposed region, and where exactly?

Shapes: ``B`` images, ``N`` objects of an image after padding, ``P`` proposals, ``R`` regions of an image that are
computed (sampled ones in training, all proposals at test time), ``K`` classes, ``C`` numbers that describe a region,
``D`` detections of an image.
``*_logits`` before, ``*_scores`` after the softmax; label 0 is the background; ``*_deltas`` are encoded offsets.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads

from detection.batch import Batch
from detection.config import InferenceSettings, RegionSettings
from detection.model.assignment import match
from detection.model.box_heads import Conv5Head
from detection.model.boxes import decode, encode, full_precision, gather_boxes, unit_boxes
from detection.model.losses import box_loss, class_loss, normalizer
from detection.model.pooling import RegionPooling, Source
from detection.model.rpn import Proposals
from detection.model.sampling import random_keys, sample
from detection.model.selection import RegionOutputs, select_detections

STREAM = 2
"""Tells the draw of regions from the draw of anchors."""


class Regions(NamedTuple):
    """Sampled regions of each image with what they should become."""

    boxes: Tensor
    """(B, R, 4); the unit box where an image has too few regions."""
    labels: Tensor
    """(B, R) int64: 1..K, or 0 for background."""
    gt_boxes: Tensor
    """(B, R, 4): the object of a foreground region; the region itself otherwise."""
    is_sampled: Tensor
    """(B, R) bool: False where an image has too few regions."""


class RoIHeads(TorchvisionRoIHeads):
    """Torchvision's parameters; assignment, sampling and losses for all images at once.

    Args:
        pool: pooled features of regions.
        head: vector of a pooled region.
        predictor: class logits and offsets of a vector.
        pooled_levels: how many of the first feature maps regions are pooled from.
        settings, test: see :mod:`detection.config`.
        global_context: put the vector of the whole image beside that of each region.
        seed: of the regions that are sampled for the losses.
    """

    def __init__(
        self,
        pool: RegionPooling,
        head: nn.Module,
        predictor: nn.Module,
        pooled_levels: int,
        settings: RegionSettings,
        test: InferenceSettings,
        global_context: bool,
        seed: int,
    ) -> None:
        super().__init__(
            pool,
            head,
            predictor,
            fg_iou_thresh=settings.fg_iou,
            bg_iou_thresh=settings.bg_iou_high,
            batch_size_per_image=settings.samples,
            positive_fraction=settings.fg_fraction,
            bbox_reg_weights=settings.box_weights,
            score_thresh=test.score_threshold,
            nms_thresh=test.nms_iou,
            detections_per_img=test.detections,
        )
        self.pooled_levels = pooled_levels
        self.settings = settings
        self.test = test
        self.global_context = global_context
        self.seed = seed

    def forward(
        self, features: list[Tensor], proposals: Proposals, batch: Batch
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image at test time, the two losses in training.

        These are the plain detector's, with threshold, NMS and voting; what else `test` asks for (refinement, scales,
        the mirrored image) is done by :mod:`detection.inference.ensemble`.

        Args:
            features: maps (B, C, h, w), fine to coarse.
        """
        if self.training:
            regions = self.select_regions(proposals, batch)
            logits, deltas = self.predict(self.describe(features, regions.boxes, batch.sizes))
            return [], self.losses(logits, deltas, regions)
        outputs = self.outputs(self.describe(features, proposals.boxes, batch.sizes), proposals.boxes)
        return select_detections(outputs, proposals.is_valid, batch, self.test), {}

    def sources(self, features: list[Tensor]) -> list[Source]:
        """What regions are pooled from, given the trunk's maps (B, C, h, w), fine to coarse; once for all regions."""
        maps = features[: self.pooled_levels]
        return self.box_head.sources(maps) if isinstance(self.box_head, Conv5Head) else [Source(maps)]

    def describe(self, features: list[Tensor], boxes: Tensor, sizes: Tensor) -> Tensor:
        """What the two sibling layers read of the regions `boxes` (B, R, 4): vectors (B, R, C).

        With global context the image itself, of rows and columns `sizes` (B, 2), is one region more. It takes part in
        the same call, so that batch normalization in the head sees it among the regions.
        """
        sources = self.sources(features)
        if not self.global_context:
            return self.vectors(sources, boxes)
        vectors = self.vectors(sources, torch.cat((boxes, whole_images(sizes, boxes.dtype)), dim=1))
        return with_context(vectors[:, :-1], vectors[:, -1:])

    def context(self, sources: list[Source], sizes: Tensor) -> Tensor | None:
        """The whole images' vectors (B, C), which go beside each region's; None without global context.

        The image is pooled as one region and passes the same head (ResNet paper, appendix B).
        """
        if not self.global_context:
            return None
        dtype = torch.promote_types(sources[0].maps[0].dtype, torch.float32)
        return self.vectors(sources, whole_images(sizes, dtype)).squeeze(1)

    def vectors(self, sources: list[Source], boxes: Tensor) -> Tensor:
        """The head's vectors (B, R, C) of the regions `boxes` (B, R, 4), without context."""
        images = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
        return self.vectors_of(sources, boxes.flatten(0, 1), images).unflatten(0, boxes.shape[:2])

    def vectors_of(self, sources: list[Source], regions: Tensor, images: Tensor) -> Tensor:
        """The head's vectors (n, C) of `regions` (n, 4) in `images` (n,), without context."""
        return self.box_head(*(self.box_roi_pool(source, regions, images) for source in sources))

    def predict(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, R, K+1) and offsets (B, R, K+1 or 1, 4) of regions with the given vectors (B, R, C)."""
        shape = vectors.shape[:2]
        logits, deltas = self.box_predictor(vectors.flatten(0, 1))
        return full_precision(logits).view(*shape, -1), full_precision(deltas).view(*shape, -1, 4)

    def outputs(self, vectors: Tensor, boxes: Tensor) -> RegionOutputs:
        """Class scores and regressed boxes of the regions `boxes` (B, R, 4) with the given vectors (B, R, C)."""
        logits, deltas = self.predict(vectors)
        scores = logits.softmax(dim=-1)[..., 1:]
        deltas = deltas if deltas.shape[2] == 1 else deltas[:, :, 1:]
        decoded = decode(deltas, boxes.unsqueeze(2), self.settings.box_weights, self.settings.max_side_ratio)
        return RegionOutputs(decoded.expand(*scores.shape, 4), scores)

    @torch.no_grad()
    def select_regions(self, proposals: Proposals, batch: Batch) -> Regions:
        """Sample regions among the proposals (and the objects themselves) and give each its target.

        Foreground from `fg_iou` on; background in [`bg_iou_low`, `bg_iou_high`) unless an ignored box covers half.
        """
        settings, is_object = self.settings, (batch.gt_labels > 0) & ~batch.gt_ignore
        boxes, usable = proposals.boxes, proposals.is_valid
        if settings.add_gt:
            boxes, usable = torch.cat((boxes, batch.gt_boxes), dim=1), torch.cat((usable, is_object), dim=1)
        matches = match(boxes, batch.gt_boxes, is_object, batch.gt_ignore, usable)
        is_positive = usable & (matches.iou >= settings.fg_iou)
        in_band = (matches.iou >= settings.bg_iou_low) & (matches.iou < settings.bg_iou_high)
        is_negative = usable & ~is_positive & in_band & ~matches.covered
        keys = random_keys(self.seed, STREAM, batch.positions, boxes.shape[1])
        limit = int(settings.samples * settings.fg_fraction)
        index, is_positive, is_sampled = sample(is_positive, is_negative, keys, settings.samples, limit)

        boxes = gather_boxes(boxes, index)
        boxes = torch.where(is_sampled.unsqueeze(-1), boxes, unit_boxes(boxes, *index.shape))
        matched = matches.index.gather(1, index)
        labels = torch.where(is_positive, batch.gt_labels.gather(1, matched), 0)
        gt_boxes = torch.where(is_positive.unsqueeze(-1), gather_boxes(batch.gt_boxes, matched), boxes)
        return Regions(boxes, labels, gt_boxes, is_sampled)

    def losses(self, logits: Tensor, deltas: Tensor, regions: Regions) -> dict[str, Tensor]:
        """Class loss and, over the foreground, the loss of the offsets for the region's own class."""
        targets = encode(regions.gt_boxes, regions.boxes, self.settings.box_weights)
        count = normalizer(regions.is_sampled)
        regression = box_loss(of_class(deltas, regions.labels), targets, regions.labels > 0, self.settings.beta, count)
        return {
            "loss_classifier": class_loss(logits, regions.labels, regions.is_sampled, count),
            "loss_box_reg": self.settings.box_weight * regression,
        }


def of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Offsets (B, R, 4) that belong to `labels` (B, R), out of (B, R, K+1, 4), or (B, R, 1, 4) when class-agnostic."""
    if deltas.shape[2] == 1:
        return deltas.squeeze(2)
    return deltas.gather(2, labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)


def whole_images(sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """Each image as a region (B, 1, 4), from rows and columns (B, 2)."""
    return torch.cat((torch.zeros_like(sizes), sizes.flip(1)), dim=1).unsqueeze(1).to(dtype)


def with_context(vectors: Tensor, context: Tensor) -> Tensor:
    """Vectors (..., C) of regions and behind each the context (..., C) of its image: (..., 2C)."""
    return torch.cat((vectors, context.expand_as(vectors)), dim=-1)
