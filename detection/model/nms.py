"""Non-maximum suppression within groups (classes, or levels of a pyramid) of one image."""

from torch import Tensor
from torchvision.ops import nms


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, limit: int) -> Tensor:
    """Indices (n <= limit,) of the boxes that are kept, highest score first.

    Boxes of different groups are moved apart so that they cannot overlap. The shift is added in float64: in float32
    it would round the coordinates of the later groups.

    Args:
        boxes: (R, 4). scores: (R,). groups: (R,) integers from 0.
        iou: a box that overlaps a better one by more than this is removed.
    """
    if len(boxes) == 0:
        return groups.new_zeros(0)
    boxes = boxes.double()
    apart = groups * (boxes.max() - boxes.min() + 1)
    return nms(boxes + apart.unsqueeze(1), scores.double(), iou)[:limit]
