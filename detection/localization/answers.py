"""What localizers say of images: boxes of the asked classes with scores, in pixels of the original images.

Shapes: ``B`` images, ``n`` asked classes of an image, ``A`` answers to each (anchors of all maps, or proposals), ``N``
candidates, ``R`` regions of all images, ``S`` side of a crop, ``h, w`` rows and columns of a map.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import roi_align

from detection.batch import Batch
from detection.data.dataset import ImageSize
from detection.localization.localizer import Localizer
from detection.model.boxes import area, intersection

CANDIDATES = 20
"""An ensemble chooses among so many boxes of each member."""
AGREEMENT = 0.5
"""Boxes of two members that overlap by this IoU are of one mind: ILSVRC's own threshold."""
REGIONS = 128
"""Warped regions that are looked at together: with ResNet-101 at 224 pixels about 2 GB of memory."""
SAMPLING_RATIO = 2
"""Sampling points of a warped region's pixel in each direction."""


class AsStored(ImageSize):
    """The size that an image has."""

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """`size` itself."""
        return size


AS_STORED = AsStored(0, 0, 1)


class Answers(NamedTuple):
    """Boxes for the asked classes."""

    boxes: Tensor
    """(B, n, A, 4) float32: x1, y1, x2, y2 in pixels of the original image, inside it."""
    scores: Tensor
    """(B, n, A) float64 in [0, 1]; 0: does not count. In float32 the logistic function would make 17 and 20 equal."""


def on_map(localizer: Localizer, batch: Batch, labels: Tensor) -> Answers:
    """One answer for each anchor of whole images; those centred beyond an image, in its padding, do not count.

    Args:
        labels: (B, n) 1..K.
    """
    features = localizer.features(localizer.normalize(batch))
    logits, boxes = localizer.outputs(features, labels, tuple(batch.images.shape[-2:]))
    scores = logits.double().sigmoid()
    inside = _centred_inside(batch.sizes, features.shape[-2:], localizer.stride, scores.shape[-1])
    return _in_original(boxes, torch.where(inside, scores, 0.0), batch)


def on_centre(localizer: Localizer, batch: Batch, labels: Tensor, side: int) -> Answers:
    """The answers for the square of `side` pixels in the middle of images of one size without padding."""
    top, left = ((length - side) // 2 for length in batch.images.shape[-2:])
    middle = batch.images[:, :, top : top + side, left : left + side]
    crop = dataclasses.replace(batch, images=middle, sizes=torch.full_like(batch.sizes, side))
    logits, boxes = localizer.outputs(localizer.features(localizer.normalize(crop)), labels, (side, side))
    return _in_original(boxes + boxes.new_tensor([left, top, left, top]), logits.double().sigmoid(), batch)


def look_again(localizer: Localizer, batch: Batch, proposals: Answers, labels: Tensor, side: int) -> Answers:
    """Each proposal warped to a square of `side` pixels, scored and regressed anew (ResNet paper, appendix C).

    Each pixel of the square is the mean of 2 x 2 bilinear samples (RoIAlign), as :func:`~.crops.warp` makes it for
    training. That one rounds to whole colours and to 1/32 pixel; this one does not.

    Args:
        batch: the images as stored.
        proposals: those with score 0 are not looked at.
        labels: (B, n) 1..K.
        side: S.
    """
    images = localizer.normalize(batch)
    where = torch.nonzero(proposals.scores > 0)
    scores, boxes = torch.zeros_like(proposals.scores), torch.zeros_like(proposals.boxes)
    for image, asked, place in (part.unbind(1) for part in where.split(REGIONS) if len(part)):
        regions = proposals.boxes[image, asked, place]
        # aligned: coordinates are counted from the outer corner of the first pixel, as everywhere in this project.
        rows = torch.cat((image.to(regions.dtype).unsqueeze(1), regions), dim=1)
        crops = roi_align(images, rows, side, sampling_ratio=SAMPLING_RATIO, aligned=True)
        logits, found = localizer.outputs(localizer.features(crops), labels[image, asked].unsqueeze(1), (side, side))
        scores[image, asked, place] = logits[:, 0, 0].double().sigmoid()
        boxes[image, asked, place] = _out_of(regions, found[:, 0, 0] / side)
    return _in_original(boxes, scores, batch)


def join(answers: Sequence[Answers]) -> Answers:
    """All answers of one localizer to the same questions."""
    return Answers(*(torch.cat(parts, dim=2) for parts in zip(*answers, strict=True)))


def best(answers: Answers, count: int) -> Answers:
    """The best `count` answers or all of them, best first; among equals the first."""
    order = answers.scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    boxes = answers.boxes.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, 4))
    return Answers(boxes, answers.scores.gather(2, order))


def agree(answers: Sequence[Answers]) -> Answers:
    """The members of an ensemble as one.

    The paper does not say how localizers are combined; this is ours. Each member names its 20 best boxes of a class.
    Each of these is scored by the mean, over the members, of the member's best score among those of its boxes that
    overlap it by IoU >= 0.5 (0 if none does). Of equal means the one that its own member likes most comes first, so
    that a member given twice says what it says alone.
    """
    if len(answers) == 1:
        return answers[0]
    named = join([best(each, CANDIDATES) for each in answers])
    candidates = best(named, named.scores.shape[-1]).boxes
    return Answers(candidates, torch.stack([_supports(candidates, each) for each in answers]).mean(dim=0))


def _in_original(boxes: Tensor, scores: Tensor, batch: Batch) -> Answers:
    """Boxes (B, n, A, 4) in pixels of the batch's images, in those of the original images and cut to them.

    One that lies beyond its image does not count.
    """
    sides = (batch.original_sizes / batch.sizes, batch.original_sizes)
    ratio, limit = (each.flip(1).repeat(1, 2)[:, None, None] for each in sides)
    boxes = torch.minimum(boxes * ratio, limit).clamp(min=0)
    is_box = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    return Answers(boxes, torch.where(is_box, scores, 0.0))


def _centred_inside(sizes: Tensor, shape: tuple[int, int], stride: int, count: int) -> Tensor:
    """Whether each anchor's centre is on its image: (B, 1, A), in the order row, column, anchor."""
    rows, columns = (torch.arange(length, device=sizes.device) * stride for length in shape)
    inside = (rows < sizes[:, :1]).unsqueeze(2) & (columns < sizes[:, 1:]).unsqueeze(1)
    return inside.flatten(1).repeat_interleave(count // inside[0].numel(), dim=1).unsqueeze(1)


def _out_of(regions: Tensor, boxes: Tensor) -> Tensor:
    """Boxes (R, 4) in shares of the sides of their regions (R, 4), in pixels."""
    corner, sides = regions[:, :2], regions[:, 2:] - regions[:, :2]
    return corner.repeat(1, 2) + boxes * sides.repeat(1, 2)


def _supports(candidates: Tensor, answers: Answers) -> Tensor:
    """:func:`_support` image by image: all at once would take gigabytes."""
    images = zip(candidates.split(1), *(values.split(1) for values in answers), strict=True)
    return torch.cat([_support(part, Answers(*others)) for part, *others in images])


def _support(candidates: Tensor, answers: Answers) -> Tensor:
    """The best score (B, n, N) among the answers that overlap each candidate (B, n, N, 4)."""
    first, second = candidates.unsqueeze(3), answers.boxes.unsqueeze(2)
    shared = intersection(first, second)
    is_near = shared >= AGREEMENT * (area(first) + area(second) - shared)
    return torch.where(is_near, answers.scores.unsqueeze(2), 0.0).amax(dim=-1)
