"""Box arithmetic: areas, overlaps, the encoding of one box relative to another.

Shapes: every function works on ``(..., 4)`` tensors of ``x1, y1, x2, y2`` in pixels and broadcasts over the leading
dimensions. No function adds 1 to a side: coordinates are continuous.
"""

import math

import torch
from torch import Tensor


def full_precision(values: Tensor) -> Tensor:
    """`values` in float32 when they are in half precision; boxes and losses are never computed in less."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4), in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Areas shared by two sets of boxes, broadcast against each other."""
    width = torch.minimum(first[..., 2], second[..., 2])
    width = width.sub_(torch.maximum(first[..., 0], second[..., 0])).clamp_(min=0)
    height = torch.minimum(first[..., 3], second[..., 3])
    height = height.sub_(torch.maximum(first[..., 1], second[..., 1])).clamp_(min=0)
    return width.mul_(height)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, N, 4) cut to their image; `sizes` (B, 2) holds rows and columns."""
    limit = sizes.flip(-1).repeat(1, 2).unsqueeze(1).to(boxes.dtype)
    return torch.minimum(boxes, limit).clamp(min=0)


def encode(targets: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Offsets that turn `references` into `targets`, the regression targets of Faster R-CNN (eq. 2 of the paper).

    Args:
        targets: (..., 4) boxes with positive sides.
        references: (..., 4) anchors or regions with positive sides.
        weights: factors of the four offsets.

    Returns:
        (..., 4): shift of the centre in units of the reference's sides, logarithms of the ratios of the sides.
    """
    width, height = references[..., 2] - references[..., 0], references[..., 3] - references[..., 1]
    target_width, target_height = targets[..., 2] - targets[..., 0], targets[..., 3] - targets[..., 1]
    shift_x = (targets[..., 0] + 0.5 * target_width - references[..., 0] - 0.5 * width) / width
    shift_y = (targets[..., 1] + 0.5 * target_height - references[..., 1] - 0.5 * height) / height
    offsets = (shift_x, shift_y, torch.log(target_width / width), torch.log(target_height / height))
    return torch.stack([offset * weight for offset, weight in zip(offsets, weights, strict=True)], dim=-1)


def decode(
    deltas: Tensor, references: Tensor, weights: tuple[float, float, float, float], max_side_ratio: float
) -> Tensor:
    """The inverse of :func:`encode`: boxes (..., 4) from offsets (..., 4) and their references (..., 4).

    A side grows at most by `max_side_ratio`, so that exp() stays finite however wrong a prediction is.
    """
    shift_x, shift_y, log_width, log_height = (deltas[..., i] / weights[i] for i in range(4))
    width, height = references[..., 2] - references[..., 0], references[..., 3] - references[..., 1]
    centre_x = references[..., 0] + 0.5 * width + shift_x * width
    centre_y = references[..., 1] + 0.5 * height + shift_y * height
    half_width = 0.5 * width * torch.exp(log_width.clamp(max=math.log(max_side_ratio)))
    half_height = 0.5 * height * torch.exp(log_height.clamp(max=math.log(max_side_ratio)))
    corners = (centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height)
    return torch.stack(corners, dim=-1)


def gather_boxes(boxes: Tensor, index: Tensor) -> Tensor:
    """Rows (B, S, 4) of `boxes` (B, N, 4) chosen by `index` (B, S)."""
    return boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))


def unit_boxes(like: Tensor, *shape: int) -> Tensor:
    """Boxes (0, 0, 1, 1) that stand for nothing, (*shape, 4), of the type and on the device of `like`."""
    boxes = like.new_zeros(*shape, 4)
    boxes[..., 2:] = 1
    return boxes
