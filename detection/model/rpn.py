"""The region proposal network: which places of the image may hold an object?

Shapes: ``B`` images, ``A`` anchors of an image over all feature maps, ``N`` objects of an image after padding, ``P``
proposals of an image, ``S`` sampled anchors of an image. ``*_logits`` before, ``*_scores`` after the sigmoid;
``*_deltas`` are encoded offsets, ``*_boxes`` decoded boxes in pixels of the resized image.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.models.detection.rpn import RPNHead

from detection.batch import Batch
from detection.config import ProposalSettings
from detection.model.anchors import Anchors
from detection.model.assignment import match
from detection.model.boxes import clip, decode, encode, full_precision, gather_boxes, unit_boxes
from detection.model.losses import box_loss, normalizer, objectness_loss
from detection.model.nms import nms_by_group
from detection.model.sampling import Sampled, random_keys, sample

WEIGHTS = (1.0, 1.0, 1.0, 1.0)
"""Anchors' offsets are not scaled (Faster R-CNN)."""
MAX_SIDE_RATIO = 1000 / 16
"""Largest growth of a side (torchvision): an anchor of 16 pixels may fill an image of 1000."""
STREAM = 1
"""Tells the draw of anchors from the draw of regions."""


class Proposals(NamedTuple):
    """Regions proposed for each image, padded with unit boxes."""

    boxes: Tensor
    """(B, P, 4), highest score first, inside the image."""
    scores: Tensor
    """(B, P) in [0, 1]; 0 in the padding."""
    is_valid: Tensor
    """(B, P) bool: False in the padding."""


def proposal_head(in_channels: int, anchors_per_place: int, channels: int) -> RPNHead:
    """Torchvision's head (3x3 convolution, then scores and offsets side by side), `channels` wide; 0: as its input."""
    head = RPNHead(channels or in_channels, anchors_per_place)
    if channels not in (0, in_channels):
        head.conv[0][0] = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)
        nn.init.normal_(head.conv[0][0].weight, std=0.01)
        nn.init.zeros_(head.conv[0][0].bias)
    return head


class RegionProposalNetwork(TorchvisionRPN):
    """Torchvision's parameters; assignment, sampling, losses and selection for all images at once.

    Args:
        anchors: anchors of the feature maps.
        head: scores (B, a, h, w) and offsets (B, 4a, h, w) of each map, a anchors at each place.
        settings: see :class:`detection.config.ProposalSettings`.
        seed: of the anchors that are sampled for the losses.
    """

    def __init__(self, anchors: Anchors, head: nn.Module, settings: ProposalSettings, seed: int) -> None:
        super().__init__(
            anchors,
            head,
            fg_iou_thresh=settings.fg_iou,
            bg_iou_thresh=settings.bg_iou,
            batch_size_per_image=settings.samples,
            positive_fraction=settings.fg_fraction,
            pre_nms_top_n={"training": settings.pre_nms_train, "testing": settings.pre_nms_test},
            post_nms_top_n={"training": settings.post_nms_train, "testing": settings.post_nms_test},
            nms_thresh=settings.nms_iou,
            score_thresh=settings.score_threshold,
        )
        self.settings = settings
        self.seed = seed

    def forward(self, features: list[Tensor], batch: Batch) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals for each image and, in training, the two losses.

        Args:
            features: maps (B, C, h, w), fine to coarse.
            batch: sizes and objects of the images.
        """
        logits, deltas = self.head(features)
        per_map = [part[0].numel() for part in logits]
        anchors = self.anchor_generator([part.shape[-2:] for part in logits], batch.gt_boxes)
        logits = full_precision(torch.cat([part.permute(0, 2, 3, 1).flatten(1) for part in logits], dim=1))
        deltas = full_precision(torch.cat([per_anchor(part) for part in deltas], dim=1))
        proposals = self.select(logits, deltas, anchors, per_map, batch)
        return proposals, self.losses(logits, deltas, anchors, batch) if self.training else {}

    def losses(self, logits: Tensor, deltas: Tensor, anchors: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Objectness and box loss of `logits` (B, A) and `deltas` (B, A, 4) over a sample of `anchors` (A, 4)."""
        sampled, matched = self.assign(anchors, batch)
        logits = logits.gather(1, sampled.index)
        deltas = gather_boxes(deltas, sampled.index)
        references = anchors[sampled.index]
        objects = gather_boxes(batch.gt_boxes, matched)
        objects = torch.where(sampled.is_positive.unsqueeze(-1), objects, references)
        targets = encode(objects, references, WEIGHTS)
        count = normalizer(sampled.is_sampled)
        regression = box_loss(deltas, targets, sampled.is_positive, self.settings.beta, count)
        return {
            "loss_objectness": objectness_loss(logits, sampled.is_positive, sampled.is_sampled, count),
            "loss_rpn_box_reg": self.settings.box_weight * regression,
        }

    @torch.no_grad()
    def assign(self, anchors: Tensor, batch: Batch) -> tuple[Sampled, Tensor]:
        """The sampled anchors of each image and the object (B, S) that each is matched to.

        An anchor is positive from `fg_iou` on or when no anchor is better for some object, negative below `bg_iou`
        unless an ignored box covers half of it, and otherwise neither (Faster R-CNN, section 3.1.2).
        """
        settings, is_object = self.settings, (batch.gt_labels > 0) & ~batch.gt_ignore
        usable = self._usable(anchors, batch)
        matches = match(anchors.unsqueeze(0), batch.gt_boxes, is_object, batch.gt_ignore, usable)
        is_positive = usable & ((matches.iou >= settings.fg_iou) | matches.is_best)
        is_negative = usable & ~is_positive & (matches.iou < settings.bg_iou) & ~matches.covered
        keys = random_keys(self.seed, STREAM, batch.positions, len(anchors))
        sampled = sample(is_positive, is_negative, keys, settings.samples, int(settings.samples * settings.fg_fraction))
        return sampled, matches.index.gather(1, sampled.index)

    def _usable(self, anchors: Tensor, batch: Batch) -> Tensor:
        """(B, A) bool: anchors that may be sampled; with `ignore_border` those inside the unpadded image."""
        if not self.settings.ignore_border:
            return torch.ones(len(batch), len(anchors), dtype=torch.bool, device=anchors.device)
        inside = (anchors[:, :2] >= 0).all(dim=1)
        limit = batch.sizes.flip(1).unsqueeze(1)
        return inside & (anchors[:, 2:] <= limit).all(dim=2)

    @torch.no_grad()
    def select(self, logits: Tensor, deltas: Tensor, anchors: Tensor, per_map: list[int], batch: Batch) -> Proposals:
        """The best anchors of each map, regressed, cut to the image, without small ones and near-duplicates."""
        index, level = self._top(logits, per_map)
        scores = logits.gather(1, index).sigmoid()
        boxes = clip(decode(gather_boxes(deltas, index), anchors[index], WEIGHTS, MAX_SIDE_RATIO), batch.sizes)
        smallest = self.settings.min_size * (batch.sizes / batch.original_sizes).amin(dim=1).to(boxes.dtype)
        sides = (boxes[..., 2:] - boxes[..., :2]).amin(dim=2)
        keep = (sides >= smallest.clamp(min=1e-3).unsqueeze(1)) & (scores >= self.settings.score_threshold)
        limit = self.post_nms_top_n()
        kept = []
        for image_boxes, image_scores, image_keep in zip(boxes, scores, keep, strict=True):
            place = image_keep.nonzero().squeeze(1)
            chosen = nms_by_group(image_boxes[place], image_scores[place], level[place], self.nms_thresh, limit)
            kept.append(place[chosen])
        return pad_proposals(boxes, scores, kept, limit if self.training else max(1, *map(len, kept)))

    def _top(self, logits: Tensor, per_map: list[int]) -> tuple[Tensor, Tensor]:
        """Indices (B, T) of the highest logits of each map, and the number (T,) of the map."""
        indices, levels, first = [], [], 0
        for number, part in enumerate(logits.split(per_map, dim=1)):
            top = part.topk(min(self.pre_nms_top_n(), part.shape[1]), dim=1).indices
            indices.append(top + first)
            levels.append(torch.full_like(top[0], number))
            first += part.shape[1]
        return torch.cat(indices, dim=1), torch.cat(levels)


def per_anchor(deltas: Tensor) -> Tensor:
    """Offsets (B, 4a, h, w) of one map as (B, h*w*a, 4)."""
    batch, channels, height, width = deltas.shape
    deltas = deltas.view(batch, channels // 4, 4, height, width)
    return deltas.permute(0, 3, 4, 1, 2).reshape(batch, -1, 4)


def pad_proposals(boxes: Tensor, scores: Tensor, kept: list[Tensor], length: int) -> Proposals:
    """The rows `kept` of each image's `boxes` (B, T, 4) and `scores` (B, T), filled up to `length` with unit boxes."""
    padded = unit_boxes(boxes, len(boxes), length)
    padded_scores = scores.new_zeros(len(boxes), length)
    is_valid = torch.zeros_like(padded_scores, dtype=torch.bool)
    for image, rows in enumerate(kept):
        padded[image, : len(rows)] = boxes[image, rows]
        padded_scores[image, : len(rows)] = scores[image, rows]
        is_valid[image, : len(rows)] = True
    return Proposals(padded, padded_scores, is_valid)
