"""Worker processes: how samples are asked of them, how batches come back, how they start and end.

Letters: ``B`` images of a batch.
"""

import copy
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from detection.batch import Batch
from detection.data.ring import Content, Parcels, Ring
from detection.errors import UserError

Key = tuple[int, int]
"""What a sample is asked for with: position in the run, index in the annotations."""


class BatchLoader(DataLoader):
    """A data loader that raises the mistakes which its guarded data set handed on, and whose batches come by a ring.

    Args:
        dataset, batches, collate, workers: as for any data loader.
        slot_size: bytes of the largest batch; a larger one travels as with any data loader.
        pin_memory: hand batches out in page-locked memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Iterable[list[Key]],
        collate: Callable[..., Content],
        workers: int,
        slot_size: int,
        pin_memory: bool,
    ) -> None:
        workers = min(workers, os.cpu_count() or 1)
        # At most 2 batches a worker are asked for and not handed out. The next one is asked for before the oldest of
        # these is taken out of its slot.
        self._slots = 2 * workers + 1
        self._slot_size = slot_size
        self._pins = pin_memory
        # Forked workers share the annotations; newer versions of Python send each a copy. Elsewhere forking is unsafe.
        self._forks = workers > 0 and sys.platform == "linux"
        super().__init__(
            _Guarded(dataset),
            batch_sampler=_Slotted(batches, self._slots),
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            multiprocessing_context="fork" if self._forks else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # it would otherwise draw from the global one, which dropout uses
        )

    def __iter__(self) -> Iterator[Content]:
        ring = self._ring()  # each iteration has workers of its own
        loader = copy.copy(self)
        loader.collate_fn = partial(_collate_guarded, collate=self.collate_fn, ring=ring)
        for slot, content in DataLoader.__iter__(loader):
            if isinstance(content, UserError):
                raise content
            yield ring.take(slot, content, self._pins) if isinstance(content, Parcels) else self._pinned(content)

    def _ring(self) -> Ring | None:
        """None where workers are not forked or the system promises no such memory: batches then travel as usual."""
        try:
            return Ring(self._slots, self._slot_size) if self._forks else None
        except OSError:
            return None

    def _pinned(self, content: Content) -> Content:
        if not self._pins:
            return content
        return content.pin_memory() if isinstance(content, Batch) else {s: b.pin_memory() for s, b in content.items()}


class _Slotted:
    """Batches of keys with the slots of the ring that they will lie in, one after another."""

    def __init__(self, batches: Iterable[list[Key]], slots: int) -> None:
        self._batches = batches
        self._slots = slots

    def __iter__(self) -> Iterator[tuple[int, list[Key]]]:
        return zip(itertools.cycle(range(self._slots)), self._batches, strict=False)

    def __len__(self) -> int:
        return len(self._batches)


class _Guarded(Dataset):
    """A data set that hands a user's mistake on as a value: raised in a worker, it would arrive inside a traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Key) -> Any:
        try:
            return self._dataset[key]
        except UserError as error:
            return error

    def __getitems__(self, slotted: tuple[int, list[Key]]) -> tuple[int, list[Any]]:
        """The slot of a batch, and its samples; the data loader asks for whole batches by this."""
        slot, keys = slotted
        return slot, [self[key] for key in keys]


def _collate_guarded(
    slotted: tuple[int, list[Any]], collate: Callable[..., Content], ring: Ring | None
) -> tuple[int, Any]:
    """The slot, and a mistake, or the batch, or (Parcels) where it lies in the slot, if it fits in there."""
    number, samples = slotted
    mistakes = [sample for sample in samples if isinstance(sample, UserError)]
    if mistakes:
        return number, mistakes[0]
    if ring is None:
        return number, collate(samples)
    slot = ring.slot(number)
    # One that does not fit is put together again: sent as it is, it would take the whole ring along.
    return number, slot.pack(collate(samples, room=slot.room)) or collate(samples)


def _start_worker(_: int) -> None:
    """One thread per worker; and only the main process ends it.

    A scheduler, torchrun or Ctrl-C signals all processes at once. A worker that obeyed would bring down the main
    process while that saves its state.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(multiprocessing.parent_process().pid,), daemon=True).start()


def _end_when_told(parent: int) -> None:
    """Waits for the SIGTERM that comes from the process `parent`; any other is without effect."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # from a thread, so that work in progress cannot delay it
