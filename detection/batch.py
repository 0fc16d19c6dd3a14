"""What travels from the data to the detector: a batch of padded images with padded annotations.

Shapes: ``B`` images, ``N`` objects of an image after padding, ``H, W`` rows and columns after padding.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """Images and objects of one step, every tensor on one device and of a fixed size.

    Padding is told apart by values, never by shapes: an absent object has label 0 and the unit box (0, 0, 1, 1);
    the area of an image beyond its size holds zeros.
    """

    images: Tensor
    """(B, 3, H, W) RGB: uint8 as stored, or floating point and already normalized."""
    sizes: Tensor
    """(B, 2) float32: rows and columns of each image inside the padded area."""
    original_sizes: Tensor
    """(B, 2) float32: rows and columns of the image before resizing (after any crop)."""
    positions: Tensor
    """(B,) int64: place of the sample in the run, counted from 0; it decides what is sampled for the losses."""
    gt_boxes: Tensor
    """(B, N, 4) float32: x1, y1, x2, y2 in pixels of the resized image."""
    gt_labels: Tensor
    """(B, N) int64: 1..K, or 0 where there is no object."""
    gt_ignore: Tensor
    """(B, N) bool: objects that are neither target nor background."""
    image_indices: Tensor
    """(B,) int64: index of the image in its data set; stays on the host."""

    def _map(self, function) -> "Batch":
        moved = {f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "image_indices"}
        return Batch(**moved, image_indices=self.image_indices)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The batch on `device`; with `non_blocking` the copy of pinned memory overlaps with computation."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (called by the data loader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def __len__(self) -> int:
        return self.images.shape[0]
