"""Non-maximum suppression within groups (classes, or levels of a pyramid) of one image."""

from torch import Tensor
from torchvision.ops import nms

FIRST = 2
"""So many times the boxes that are wanted are looked at first: usually enough of them are kept."""


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, limit: int) -> Tensor:
    """Indices (n <= limit,) of the boxes that are kept, highest score first.

    Boxes of different groups are moved apart so that they cannot overlap. The shift is added in float64: in float32
    it would round the coordinates of the later groups. Only better boxes remove a box, so that the first ones kept
    are found among the best: with thousands of boxes, whose pairs are all compared, that saves nearly everything.

    Args:
        boxes: (R, 4). scores: (R,); among equals the first counts as better. groups: (R,) integers from 0.
        iou: a box that overlaps a better one by more than this is removed.
    """
    if len(boxes) == 0:
        return groups.new_zeros(0)
    boxes = boxes.double()
    apart = groups * (boxes.max() - boxes.min() + 1)
    order = scores.double().argsort(descending=True, stable=True)
    boxes, scores, count = (boxes + apart.unsqueeze(1))[order], scores.double()[order], FIRST * limit
    while len(kept := nms(boxes[:count], scores[:count], iou)) < limit and count < len(boxes):
        count *= FIRST
    return order[kept[:limit]]
