"""Which anchors and regions enter the loss: a random draw without a random generator.

The draw takes the smallest keys, a key being an integer hash of (seed, position of the sample in the run, index of
the anchor). It needs no state, runs on the device, and is the same for any number of processes.

Shapes: ``B`` images, ``A`` candidates of an image (anchors or regions), ``S`` samples of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

INDEX_BITS = 24
WORD = 0xFFFFFFFF


class Sampled(NamedTuple):
    """A fixed number of candidates of each image, positives first."""

    index: Tensor
    """(B, S) int64 into the candidates."""
    is_positive: Tensor
    """(B, S) bool."""
    is_sampled: Tensor
    """(B, S) bool: False fills up an image that has fewer candidates than samples."""


def mix(word: Tensor) -> Tensor:
    """The 32-bit finalizer of MurmurHash3 (A. Appleby, public domain), on int64 tensors that hold 32-bit words."""
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & WORD
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & WORD
    return word ^ (word >> 16)


def random_keys(seed: int, stream: int, positions: Tensor, count: int) -> Tensor:
    """Distinct pseudo-random keys (B, count) for samples at `positions` (B,), int64 in [0, 2**56).

    `stream` tells apart the draws of one step (anchors, regions). The index is part of the key, so no two are equal.
    """
    index = torch.arange(count, device=positions.device)
    start = mix((positions & WORD) ^ mix(positions >> 32) ^ ((seed * 0x9E3779B1 + stream * 0x7F4A7C15) & WORD))
    return (mix((index * 0x9E3779B1 & WORD) ^ start.unsqueeze(1)) << INDEX_BITS) | index


def sample(is_positive: Tensor, is_negative: Tensor, keys: Tensor, samples: int, max_positive: int) -> Sampled:
    """Draw up to `max_positive` positives of each image and fill up with negatives to `samples`.

    Args:
        is_positive, is_negative: (B, A) bool, disjoint; what is neither is never drawn.
        keys: (B, A) from :func:`random_keys`.
    """
    never = torch.full_like(keys, 1 << 60)
    drawn = torch.where(is_positive, keys, never).topk(min(max_positive, keys.shape[1]), largest=False)
    chosen = torch.zeros_like(is_positive).scatter(1, drawn.indices, drawn.values < never[:, :1])
    order = torch.where(chosen, keys, torch.where(is_negative, keys + (1 << 58), never))
    taken = order.topk(min(samples, keys.shape[1]), largest=False)
    return Sampled(taken.indices, taken.values < (1 << 58), taken.values < never[:, :1])
