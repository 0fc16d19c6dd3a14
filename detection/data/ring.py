"""Memory through which worker processes hand batches to the main one.

A batch that crosses between processes in memory of its own costs fresh pages on both sides, which takes longer than
to decode its images (measured: docs/benchmarks.md). A ring is allocated once, before the workers are forked, and its
slots are used in turn. It is not of ``/dev/shm``, which is small in containers.
"""

import dataclasses
import math
import mmap
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from detection.batch import Batch

Content = Batch | dict[Hashable, Batch]
"""A batch, or several by their sizes."""
_ALIGNED = 64
"""Tensors begin at multiples of this many bytes."""


class Placed(NamedTuple):
    """Where a tensor lies in its slot."""

    start: int
    """Bytes from the beginning of the slot ..."""
    end: int
    """... to here."""
    shape: torch.Size
    dtype: torch.dtype


class Parcels(NamedTuple):
    """Batches of which only the places of their tensors travel."""

    is_single: bool
    """Whether it was a batch by itself, not a dictionary of them."""
    places: dict[Hashable, dict[str, Placed]]
    """Of each batch, the places by the names of its fields."""


class Ring:
    """Slots of equal size, in memory that this process shares with those it forks."""

    def __init__(self, slots: int, size: int) -> None:
        """Takes the number of slots, and bytes of each; memory that is never written to is never taken up."""
        size = math.ceil(max(size, 1) / mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = torch.frombuffer(mmap.mmap(-1, slots * size), dtype=torch.uint8).view(slots, size)

    def slot(self, number: int) -> "Slot":
        """An empty slot. What was there is overwritten when it is filled, taken out or not."""
        return Slot(self._memory[number])

    def take(self, number: int, parcels: Parcels, pin_memory: bool) -> Content:
        """A copy of what lies in a slot, in page-locked memory if wanted."""
        memory = self._memory[number]
        batches = {
            key: Batch(**{name: _copy(_view(memory, placed), pin_memory) for name, placed in fields.items()})
            for key, fields in parcels.places.items()
        }
        return batches[None] if parcels.is_single else batches


class Slot:
    """A place for one batch, or for several that belong together; filled from the front."""

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory
        self._filled = 0
        self._places: dict[int, Placed] = {}
        """Of each tensor that is in the slot, by its address."""

    def room(self, shape: tuple[int, ...]) -> Tensor:
        """A uint8 tensor of `shape`, whatever it holds, in the slot if there is room."""
        placed = self._place(torch.Size(shape), torch.uint8)
        return torch.empty(shape, dtype=torch.uint8) if placed is None else _view(self._memory, placed)

    def pack(self, content: Content) -> Parcels | None:
        """Brings a batch on the CPU, or a dictionary of them, into the slot; None when there is no room."""
        batches = {None: content} if isinstance(content, Batch) else content
        places = {
            key: {field.name: self._put(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
            for key, batch in batches.items()
        }
        if any(placed is None for fields in places.values() for placed in fields.values()):
            return None
        return Parcels(isinstance(content, Batch), places)

    def _put(self, tensor: Tensor) -> Placed | None:
        if tensor.data_ptr() in self._places:
            return self._places[tensor.data_ptr()]
        placed = self._place(tensor.shape, tensor.dtype)
        if placed is not None:
            _view(self._memory, placed).copy_(tensor)
        return placed

    def _place(self, shape: torch.Size, dtype: torch.dtype) -> Placed | None:
        start = math.ceil(self._filled / _ALIGNED) * _ALIGNED
        placed = Placed(start, start + shape.numel() * dtype.itemsize, shape, dtype)
        if placed.end > len(self._memory):
            return None
        self._filled = placed.end
        self._places[self._memory.data_ptr() + start] = placed
        return placed


def _view(memory: Tensor, placed: Placed) -> Tensor:
    return memory[placed.start : placed.end].view(placed.dtype).view(placed.shape)


def _copy(tensor: Tensor, pin_memory: bool) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pin_memory).copy_(tensor)
