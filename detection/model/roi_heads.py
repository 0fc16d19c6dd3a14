"""The region head: what is in each proposed region, and where exactly?

Shapes: ``B`` images, ``N`` objects of an image after padding, ``P`` proposals, ``R`` regions of an image that are
computed (sampled ones in training, all proposals at test time), ``K`` classes, ``D`` detections of an image.
``*_logits`` before, ``*_scores`` after the softmax; label 0 is the background; ``*_deltas`` are encoded offsets.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads

from detection.batch import Batch
from detection.config import InferenceSettings, RegionSettings
from detection.model.assignment import match
from detection.model.boxes import clip, decode, encode, full_precision, gather_boxes, unit_boxes
from detection.model.losses import box_loss, class_loss, normalizer
from detection.model.nms import nms_by_group
from detection.model.pooling import RegionPooling
from detection.model.rpn import Proposals
from detection.model.sampling import random_keys, sample

STREAM = 2
"""Tells the draw of regions from the draw of anchors."""
SMALLEST_SIDE = 1e-2
"""Detections with a shorter side, in pixels, are dropped (torchvision)."""


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
        self.seed = seed

    def forward(
        self, features: list[Tensor], proposals: Proposals, batch: Batch
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image at test time, the two losses in training.

        Args:
            features: maps (B, C, h, w), fine to coarse.
        """
        if self.training:
            regions = self.select_regions(proposals, batch)
            logits, deltas = self.predict(features, regions.boxes)
            return [], self.losses(logits, deltas, regions)
        logits, deltas = self.predict(features, proposals.boxes)
        return self.detect(logits, deltas, proposals, batch), {}

    def predict(self, features: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, R, K+1) and offsets (B, R, K+1 or 1, 4) of the regions `boxes` (B, R, 4)."""
        pooled = self.box_roi_pool(features[: self.pooled_levels], boxes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        shape = boxes.shape[:2]
        return full_precision(logits).view(*shape, -1), full_precision(deltas).view(*shape, -1, 4)

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

    def detect(self, logits: Tensor, deltas: Tensor, proposals: Proposals, batch: Batch) -> list[dict[str, Tensor]]:
        """Detections of each image: `boxes` (D, 4) in pixels of the original image, `labels` and `scores` (D,)."""
        scores = logits.softmax(dim=-1)[..., 1:]
        is_likely = (scores > self.score_thresh) & proposals.is_valid.unsqueeze(-1)
        detections = []
        for image, likely in enumerate(is_likely):
            region, label = likely.nonzero(as_tuple=True)
            references, size = proposals.boxes[image, region], batch.sizes[image : image + 1]
            offsets = of_class(deltas[image, region].unsqueeze(0), label.unsqueeze(0) + 1)
            decoded = decode(offsets, references.unsqueeze(0), self.settings.box_weights, self.settings.max_side_ratio)
            boxes = clip(decoded, size).squeeze(0)
            found = self._suppress(boxes, scores[image, region, label], label)
            ratio = (batch.original_sizes[image] / batch.sizes[image]).flip(0).repeat(2).to(boxes.dtype)
            detections.append({**found, "boxes": found["boxes"] * ratio})
        return detections

    def _suppress(self, boxes: Tensor, scores: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The best of one image's candidates (n, 4), without empty ones and near-duplicates of their class."""
        place = ((boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= SMALLEST_SIDE).nonzero().squeeze(1)
        kept = nms_by_group(boxes[place], scores[place], label[place], self.nms_thresh, self.detections_per_img)
        kept = place[kept]
        return {"boxes": boxes[kept], "labels": label[kept] + 1, "scores": scores[kept]}


def of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Offsets (B, R, 4) that belong to `labels` (B, R), out of (B, R, K+1, 4), or (B, R, 1, 4) when class-agnostic."""
    if deltas.shape[2] == 1:
        return deltas.squeeze(2)
    return deltas.gather(2, labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
