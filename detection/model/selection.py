"""From what a detector says of regions to the detections of an image: threshold, NMS, box voting.

Shapes: ``B`` images, ``R`` regions of an image, ``K`` classes, ``n`` candidates of one image, that is pairs of a region
and a class, ``D`` detections of one image.
"""

from typing import NamedTuple

from torch import Tensor
from torchvision.ops import box_iou

from detection.batch import Batch
from detection.config import InferenceSettings
from detection.model.boxes import clip
from detection.model.nms import nms_by_group

SMALLEST_SIDE = 1e-2
"""Detections with a shorter side, in pixels, are dropped (torchvision)."""


class RegionOutputs(NamedTuple):
    """What a detector says of regions."""

    boxes: Tensor
    """(B, R, K, 4): the region's box if it holds an object of the class; may reach beyond the image."""
    scores: Tensor
    """(B, R, K): probability of each class; what is missing to 1 is the background's."""


class Candidates(NamedTuple):
    """Pairs of a region and a class, of one image, that may become detections."""

    boxes: Tensor
    """(n, 4)."""
    scores: Tensor
    """(n,)."""
    labels: Tensor
    """(n,) from 0."""


def select_detections(
    outputs: RegionOutputs, is_valid: Tensor, batch: Batch, settings: InferenceSettings
) -> list[dict[str, Tensor]]:
    """The detections of each image.

    Args:
        outputs: of R regions, in pixels of the batch's images.
        is_valid: (B, R) bool: False for regions that only fill up.
        batch: the images' sizes.
        settings: threshold, NMS, voting, number of detections.

    Returns:
        For each image `boxes` (D, 4) in pixels of the original image, `labels` (D,) 1..K and `scores` (D,), best first.
    """
    boxes = clip_to_images(outputs.boxes, batch.sizes)
    is_candidate = (outputs.scores > settings.score_threshold) & is_valid.unsqueeze(-1)
    is_candidate &= (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) >= SMALLEST_SIDE
    ratios = (batch.original_sizes / batch.sizes).flip(1).repeat(1, 2).to(boxes.dtype)
    detections = []
    for image, chosen in enumerate(is_candidate):
        region, label = chosen.nonzero(as_tuple=True)
        candidates = Candidates(boxes[image, region, label], outputs.scores[image, region, label], label)
        kept = nms_by_group(*candidates, settings.nms_iou, settings.detections)
        found = vote(candidates, kept, settings.vote_iou) if settings.vote_iou else candidates.boxes[kept]
        labels, scores = candidates.labels[kept] + 1, candidates.scores[kept]
        detections.append({"boxes": found * ratios[image], "labels": labels, "scores": scores})
    return detections


def vote(candidates: Candidates, kept: Tensor, iou: float) -> Tensor:
    """Box voting (Gidaris and Komodakis, arXiv 1505.01749, section 3.3) with scores as weights.

    Args:
        candidates: all of one image, before NMS.
        kept: (D,) those of them that NMS has kept.
        iou: a candidate votes for the kept ones of its class that it overlaps by at least this.

    Returns:
        (D, 4): for each kept box the mean of its voters, itself among them.
    """
    boxes, is_same = candidates.boxes.double(), candidates.labels[kept].unsqueeze(1) == candidates.labels
    weights = candidates.scores * (is_same & (box_iou(boxes[kept], boxes) >= iou))
    return (weights.double() @ boxes / weights.double().sum(dim=1, keepdim=True)).to(candidates.boxes.dtype)


def clip_to_images(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, R, K, 4) cut to their images of `sizes` (B, 2)."""
    return clip(boxes.flatten(1, 2), sizes).view_as(boxes)
