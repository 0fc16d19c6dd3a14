"""What is put in a slot comes out the same, and only copies come out."""

import dataclasses

import numpy as np
import pytest
import torch

from detection.batch import Batch
from detection.data.dataset import Sample
from detection.data.loader import collate
from detection.data.ring import Ring


def _samples(seed: int, rows: int = 20) -> list[Sample]:
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 256, (rows, 30, 3), np.uint8)
    return [Sample(image, (7, 9), rng.random((3, 4), np.float32), np.arange(3), np.ones(3, bool), seed, seed + 5)]


def _equal(first: Batch, second: Batch) -> bool:
    names = [field.name for field in dataclasses.fields(Batch)]
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_batches_come_out_as_they_were_and_stay_when_the_slot_is_used_again() -> None:
    ring, taken = Ring(2, 100_000), []
    for number in range(6):
        slot = ring.slot(number % 2)
        parcels = slot.pack(collate(_samples(number), 32, room=slot.room))
        taken.append(ring.take(number % 2, parcels, pin_memory=False))
    assert all(_equal(batch, collate(_samples(number), 32)) for number, batch in enumerate(taken))


@pytest.mark.parametrize("are_in_slot", [False, True])
def test_several_sizes_lie_side_by_side(are_in_slot: bool) -> None:
    ring = Ring(1, 100_000)
    slot = ring.slot(0)
    place = {"room": slot.room} if are_in_slot else {}
    images = {name: collate(_samples(name, rows), 32, **place) for name, rows in ((1, 20), (2, 40))}
    taken = ring.take(0, slot.pack(images), pin_memory=False)
    assert list(taken) == [1, 2] and all(_equal(taken[name], collate(_samples(name, 20 * name), 32)) for name in taken)


def test_what_is_too_large_is_not_put() -> None:
    slot = Ring(1, 4096).slot(0)
    batch = collate(_samples(0), 32, room=slot.room)  # 3 x 32 x 32 bytes of pixels, and the rest beside them
    assert slot.pack(batch) is not None
    assert slot.pack(collate(_samples(0, 64), 32, room=slot.room)) is None
