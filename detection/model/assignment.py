"""Which object does an anchor or a region belong to? Matching by IoU, for all images at once.

Shapes: ``B`` images, ``A`` boxes of an image (anchors or regions), ``N`` objects of an image after padding.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from detection.model.boxes import area, intersection

CHUNK_ELEMENTS = 2**24
"""Elements of the largest temporary, which is held about four times over (16 images of 800x1344: below 512 MB)."""


class Matches(NamedTuple):
    """What matching found out about each box."""

    iou: Tensor
    """(B, A): the best IoU with any object, 0 without one."""
    index: Tensor
    """(B, A) int64: the object it is reached with, the first of equals."""
    is_best: Tensor
    """(B, A) bool: no other box has a larger IoU with some object (and that IoU is not 0)."""
    covered: Tensor
    """(B, A) bool: at least half of the box lies inside one ignored box."""


@torch.no_grad()
def match(boxes: Tensor, gt_boxes: Tensor, is_object: Tensor, is_ignored: Tensor, usable: Tensor) -> Matches:
    """Match boxes to objects, a few objects at a time so that the full IoU matrix is never held.

    Args:
        boxes: (B, A, 4), or (1, A, 4) when all images share them.
        gt_boxes: (B, N, 4) annotated boxes, padded.
        is_object: (B, N) bool, the rows that are targets; other rows match nothing.
        is_ignored: (B, N) bool, the rows that cover what is neither target nor background.
        usable: (B, A) bool, the boxes that take part; others get IoU 0 and are never best.
    """
    best = boxes.new_zeros(usable.shape)
    index = torch.zeros(usable.shape, dtype=torch.int64, device=boxes.device)
    is_best, covered = torch.zeros_like(usable), torch.zeros_like(usable)
    areas, gt_areas = area(boxes).unsqueeze(1), area(gt_boxes).unsqueeze(2)
    step = max(1, CHUNK_ELEMENTS // max(1, usable.numel()))
    for start in range(0, gt_boxes.shape[1], step):
        part = slice(start, start + step)
        shared = intersection(gt_boxes[:, part, None], boxes[:, None])
        covered |= ((shared >= 0.5 * areas) & is_ignored[:, part, None]).any(dim=1)
        iou = shared / (gt_areas[:, part] + areas - shared)
        iou = torch.where(is_object[:, part, None] & usable[:, None], iou, 0.0)
        top = iou.amax(dim=2, keepdim=True)
        is_best |= ((iou == top) & (top > 0)).any(dim=1)
        value, place = iou.max(dim=1)
        index = torch.where(value > best, place + start, index)
        best = torch.maximum(best, value)
    return Matches(best, index, is_best, covered)
