"""Losses over a fixed number of samples, some of which count for nothing.

Shapes: ``B`` images, ``S`` samples of an image. Every loss is a sum over the samples that count, divided by how many
they are in the batch of all processes, so that the gradient does not depend on how the batch is distributed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detection import distributed


def normalizer(is_sampled: Tensor) -> Tensor:
    """What a process divides its sums by: the global count over the number of processes (DDP averages gradients).

    At least 1 over all processes, so that a batch without any sample has loss 0. Stays on the device.
    """
    count = distributed.sum_over_processes(is_sampled.sum().to(torch.float64))
    return count.clamp(min=1) / distributed.world_size()


def box_loss(deltas: Tensor, targets: Tensor, is_positive: Tensor, beta: float, count: Tensor) -> Tensor:
    """Smooth L1 (Fast R-CNN paper, eq. 3; quadratic below `beta`) over the positives of (B, S, 4) offsets."""
    terms = F.smooth_l1_loss(deltas, targets, beta=beta, reduction="none")
    return torch.where(is_positive.unsqueeze(-1), terms, 0.0).sum() / count.to(terms.dtype)


def objectness_loss(logits: Tensor, is_positive: Tensor, is_sampled: Tensor, count: Tensor) -> Tensor:
    """Binary cross-entropy of (B, S) logits."""
    terms = F.binary_cross_entropy_with_logits(logits, is_positive.to(logits.dtype), reduction="none")
    return torch.where(is_sampled, terms, 0.0).sum() / count.to(terms.dtype)


def class_loss(logits: Tensor, labels: Tensor, is_sampled: Tensor, count: Tensor) -> Tensor:
    """Cross-entropy of (B, S, K+1) logits against labels (B, S), 0 being the background."""
    terms = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return torch.where(is_sampled.flatten(), terms, 0.0).sum() / count.to(terms.dtype)
