"""Sampling, grouping, sharding and collation; what arrives does not depend on workers or on stops."""

import itertools
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detection.batch import Batch
from detection.config import AugmentSettings, DataSettings
from detection.data import loader as loading
from detection.data.dataset import Annotations, ImageSize, Sample, for_training, read_decoded
from detection.data.loader import (
    ScoringDataset,
    TrainingBatches,
    collate,
    pad_batch,
    padded_size,
    scoring_loader,
    training_loader,
)
from detection.data.transforms import TrainTransform
from detection.data.voc import read_voc
from detection.errors import UserError

TENSORS = ("images", "sizes", "original_sizes", "positions", "gt_boxes", "gt_labels", "gt_ignore", "image_indices")
SIZE = ImageSize(36, 64, padding=16)
AUGMENT = AugmentSettings(crop=0.3, hflip=0.5, vflip=0.5, colour=0.3, scale_jitter=(0.8, 1.2))


def _settings(workers: int = 0, **changes: object) -> DataSettings:
    values = {"min_size": (32, 40), "max_size": 64, "augment": AUGMENT}
    return DataSettings(**{**values, "workers": workers, **changes})


@pytest.fixture
def data(tmp_path: Path, write_set: Callable[..., Path], xml_object: Callable[..., str]) -> Annotations:
    """Eleven images, four of them tall, with 0 to 10 objects."""
    rng = np.random.default_rng(0)
    images, sizes = {}, {}
    for number in range(11):
        rows, columns = (60, 44) if number % 3 == 1 else (40, 56 + number)
        corners = rng.integers(1, 30, (number, 2))
        images[str(number)] = [
            xml_object("ab"[k % 2], x, y, x + 8, y + 9, difficult=k % 3 // 2) for k, (x, y) in enumerate(corners)
        ]
        sizes[str(number)] = (rows, columns)
    return read_voc(write_set(tmp_path, images, sizes=sizes), "train", ("a", "b"))


def _take(batches: Iterable[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def _equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in TENSORS)


def _training(data: Annotations, workers: int = 0, **changes: object) -> Iterable[Batch]:
    return training_loader(
        data,
        _settings(workers),
        TrainTransform(_settings(workers), 3),
        **{"batch_size": 4, "seed": 3, "padding": 16, **changes},
    )


def test_workers_make_no_difference(data: Annotations) -> None:
    alone, helped = _take(_training(data), 7), _take(_training(data, workers=2), 7)
    assert all(map(_equal, alone, helped))
    assert len({batch.images.numpy().tobytes() for batch in alone}) == 7


def test_a_loader_started_later_goes_on_where_the_other_was(data: Annotations) -> None:
    whole = _take(_training(data), 12)
    for start in (1, 5, 9):
        assert all(map(_equal, _take(_training(data, start=start), 12 - start), whole[start:]))
    assert torch.cat([batch.positions for batch in whole]).tolist() == list(range(48))


def test_two_processes_together_take_the_batch_of_one(data: Annotations) -> None:
    whole = _take(_training(data), 6)
    parts = [_take(_training(data, rank=rank, world_size=2), 6) for rank in (0, 1)]
    for one, first, second in zip(whole, *parts, strict=True):
        height, width = one.images.shape[-2:]
        halves = [pad_batch(half, height, width) for half in (first, second)]
        slots = one.gt_labels.shape[1]
        for name in ("images", "sizes", "original_sizes", "positions", "image_indices"):
            assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(one, name))
        for row, half in enumerate(halves):
            count = half.gt_labels.shape[1]
            assert torch.equal(half.gt_boxes, one.gt_boxes[2 * row : 2 * row + 2, :count])
            assert count <= slots and not one.gt_labels[2 * row : 2 * row + 2, count:].any()


def test_every_image_comes_equally_often_and_batches_are_of_one_shape(data: Annotations) -> None:
    batches = _take(TrainingBatches(data.sizes, 2, 0, True), 110)
    counts = Counter(index for batch in batches for _, index in batch)
    assert (
        sum(counts.values()) == 220
        and set(counts) == set(range(11))
        and max(counts.values()) - min(counts.values()) <= 2
    )
    tall = data.sizes[:, 0] > data.sizes[:, 1]
    assert all(len({bool(tall[index]) for _, index in batch}) == 1 for batch in batches)
    mixed = _take(TrainingBatches(data.sizes, 2, 0, False), 60)
    assert any(len({bool(tall[index]) for _, index in batch}) == 2 for batch in mixed)
    first_epoch = [index for batch in mixed for _, index in batch][:11]
    assert sorted(first_epoch) == list(range(11)) and first_epoch != list(range(11))


def test_a_batch_may_be_larger_than_the_data_set(data: Annotations) -> None:
    batches = _take(TrainingBatches(data.sizes, 64, 0, True), 4)
    assert [len(batch) for batch in batches] == [64] * 4


def test_seeds_give_different_orders(data: Annotations) -> None:
    orders = [_take(TrainingBatches(data.sizes, 4, seed, True), 5) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_impossible_batches_are_refused(data: Annotations) -> None:
    with pytest.raises(UserError, match="batch of 4 cannot be split equally over 3"):
        _training(data, world_size=3)
    with pytest.raises(UserError, match="no usable image"):
        TrainingBatches(np.zeros((0, 2), np.int32), 1, 0, True)


def test_difficult_objects_are_treated_as_the_settings_say(data: Annotations) -> None:
    totals = {}
    for mode in ("ignore", "use", "drop"):
        settings = _settings(difficult=mode)
        loader = training_loader(
            for_training(data, settings), settings, TrainTransform(settings, 3), batch_size=4, seed=3, padding=16
        )
        batches = _take(loader, 5)
        totals[mode] = [sum(int((batch.gt_labels > 0).sum()) for batch in batches)]
        totals[mode] += [sum(int(batch.gt_ignore.sum()) for batch in batches)]
    assert totals["ignore"][1] > 0 and totals["use"] == [totals["ignore"][0], 0]
    assert totals["drop"] == [totals["ignore"][0] - totals["ignore"][1], 0]


def test_images_left_out_never_come_and_the_rest_keep_their_objects(data: Annotations) -> None:
    """Image 0 has no object: of 11 images 10 are left, and an epoch is as long as that."""
    settings = _settings(empty="drop", group_by_shape=False, augment=AugmentSettings(hflip=0.0))
    kept = for_training(data, settings)
    assert len(kept) == 10 and data.image_ids[0] not in kept.image_ids
    batches = _take(training_loader(kept, settings, TrainTransform(settings, 3), batch_size=2, seed=3, padding=16), 5)
    seen = torch.cat([batch.image_indices for batch in batches]).tolist()
    assert sorted(seen) == list(range(10))
    counts = torch.cat([(batch.gt_labels > 0).sum(dim=1) for batch in batches]).tolist()
    assert counts == [int(kept.image_ids[index]) for index in seen]  # the image with the name n has n objects


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_scoring_sees_every_image_once_in_its_own_padding(data: Annotations, world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        loader = scoring_loader(data, [SIZE], batch_size=3, workers=world_size - 1, rank=rank, world_size=world_size)
        indices = []
        for images in loader:
            batch = images[SIZE]
            for index, size in zip(batch.image_indices.tolist(), batch.sizes.tolist(), strict=True):
                expected = SIZE.resized(tuple(data.sizes[index].tolist()))
                assert tuple(size) == expected and tuple(batch.images.shape[-2:]) == padded_size(expected, 16)
            assert torch.equal(batch.positions, batch.image_indices) and len(batch) <= 3
            indices += batch.image_indices.tolist()
        assert sorted(indices) == list(range(min(indices), max(indices) + 1))  # a contiguous part
        assert len(list(loader)) == len(loader)  # and a second time
        seen += indices
    assert sorted(seen) == list(range(11))


# Several sizes at once


SIZES = [ImageSize(36, 64, padding=16), ImageSize(30, 45.5, padding=4), ImageSize(36, 64, padding=32)]
"""The second tells images apart that the first pads alike; the third is the first in wider padding."""


def test_each_size_is_what_a_loader_of_that_size_gives(data: Annotations) -> None:
    """Batches of one image, since which images share a batch is decided by all sizes together."""
    alone = {}
    for size in SIZES:
        for images in scoring_loader(data, [size], batch_size=1, workers=0):
            alone[size, images[size].image_indices.item()] = images[size]
    together = list(scoring_loader(data, SIZES, batch_size=1, workers=0))
    assert sum(list(images) == SIZES for images in together) == 11
    for images in together:
        for size, batch in images.items():
            assert _equal(batch, alone[size, batch.image_indices.item()])
    assert len(alone) == 33 and len({batch.images.shape for batch in alone.values()}) > 3


def test_an_image_is_read_once_for_all_sizes(data: Annotations, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    monkeypatch.setattr(loading, "read_decoded", lambda path, **how: paths.append(path) or read_decoded(path, **how))
    list(scoring_loader(data, SIZES, batch_size=2, workers=0))
    assert sorted(paths) == sorted(map(str, data.image_paths)) and len(set(paths)) == 11


@pytest.mark.parametrize("world_size", [1, 2])
def test_images_share_a_batch_when_they_share_all_padded_sizes(data: Annotations, world_size: int) -> None:
    seen, shapes = [], set()
    for rank in range(world_size):
        batches = list(scoring_loader(data, SIZES, batch_size=4, workers=0, rank=rank, world_size=world_size))
        assert any(len(images[SIZES[0]]) > 1 for images in batches)
        for images in batches:
            indices = images[SIZES[0]].image_indices.tolist()
            for size, batch in images.items():
                assert batch.image_indices.tolist() == indices  # the same images in the same order
                for index, resized in zip(indices, batch.sizes.tolist(), strict=True):
                    expected = size.resized(tuple(data.sizes[index].tolist()))
                    assert tuple(resized) == expected
                    assert tuple(batch.images.shape[-2:]) == padded_size(expected, size.padding)
            shapes.add(tuple(tuple(batch.images.shape[-2:]) for batch in images.values()))
            seen.append((rank, indices))
    assert sorted(index for _, indices in seen for index in indices) == list(range(11))
    half = 11 // 2
    assert all((index >= half) == rank for rank, indices in seen for index in indices if world_size == 2)
    # Equal padding at the first size does not do: some images are told apart by another size only.
    assert len(shapes) > len({shape[0] for shape in shapes})


@pytest.mark.parametrize("workers", [0, 1])
def test_mistakes_arrive_as_their_sentence_with_several_sizes(data: Annotations, workers: int) -> None:
    Path(data.image_paths[4]).write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        list(scoring_loader(data, SIZES, batch_size=2, workers=workers))
    assert str(error.value).startswith(f"{data.image_paths[4]}: the image does not decode")


# Collation


def _sample(rows: int, columns: int, objects: int, position: int = 0) -> Sample:
    rng = np.random.default_rng(position)
    image = rng.integers(1, 256, (rows, columns, 3), np.uint8)
    boxes = rng.uniform(0, 9, (objects, 4)).astype(np.float32)
    return Sample(image, (7, 9), boxes, np.arange(1, objects + 1), np.ones(objects, bool), position, position + 5)


def test_collation_pads_with_zeros_and_absent_objects() -> None:
    samples = [_sample(20, 33, 3, 0), _sample(40, 10, 9, 1), _sample(5, 5, 0, 2)]
    batch = collate(samples, 32)
    assert batch.images.shape == (3, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.gt_boxes.shape == (3, 16, 4) and batch.gt_labels.dtype == torch.int64
    for row, sample in enumerate(samples):
        rows, columns = sample.image.shape[:2]
        count = len(sample.labels)
        assert np.array_equal(batch.images[row, :, :rows, :columns].permute(1, 2, 0).numpy(), sample.image)
        assert int((batch.images[row] > 0).sum()) == rows * columns * 3
        assert np.array_equal(batch.gt_boxes[row, :count].numpy(), sample.boxes)
        assert batch.gt_boxes[row, count:].tolist() == [[0, 0, 1, 1]] * (16 - count)
        assert batch.gt_labels[row].tolist() == [*range(1, count + 1), *[0] * (16 - count)]
        assert batch.gt_ignore[row].tolist() == [True] * count + [False] * (16 - count)
    assert batch.sizes.tolist() == [[20, 33], [40, 10], [5, 5]] and batch.original_sizes.tolist() == [[7, 9]] * 3
    assert batch.positions.tolist() == [0, 1, 2] and batch.image_indices.tolist() == [5, 6, 7]


@pytest.mark.parametrize(("objects", "slots"), [(0, 8), (8, 8), (9, 16), (16, 16), (17, 24)])
def test_object_slots_are_multiples_of_eight(objects: int, slots: int) -> None:
    assert collate([_sample(8, 8, objects)], 8).gt_labels.shape == (1, slots)


def test_padding_further_equals_collating_larger() -> None:
    samples = [_sample(20, 33, 3, 0), _sample(30, 10, 2, 1)]
    small = collate(samples, 32)
    assert _equal(pad_batch(small, 96, 128), collate(samples, 32, (96, 128)))
    assert pad_batch(small, 32, 64) is small


@pytest.mark.parametrize("workers", [0, 2])
def test_mistakes_in_a_worker_arrive_as_their_sentence(data: Annotations, workers: int) -> None:
    Path(data.image_paths[4]).write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        list(scoring_loader(data, [SIZE], batch_size=2, workers=workers))
    assert str(error.value).startswith(f"{data.image_paths[4]}: the image does not decode")
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


_SIGNALLED = """
import multiprocessing, os, sys
from detection.config import DataSettings
from detection.data.loader import training_loader
from detection.data.transforms import TrainTransform
from detection.data.voc import read_voc

data = read_voc(sys.argv[1], "train", ("a", "b"))
settings = DataSettings(workers=2, min_size=(32,), max_size=64)
batches = iter(training_loader(data, settings, TrainTransform(settings, 0), batch_size=2, seed=0, padding=16))
next(batches)
workers = multiprocessing.active_children()
other = f"import os, signal; [os.kill(pid, signal.SIGTERM) for pid in {[worker.pid for worker in workers]}]"
assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", other]) == 0
positions = [next(batches).positions.tolist() for _ in range(20)]
print(len(workers), positions[-1], [worker.is_alive() for worker in workers])
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sent a signal")
def test_workers_outlive_a_signal_to_all_but_not_the_main_process(data: Annotations) -> None:
    root = str(Path(data.image_paths[0]).parents[1])
    done = subprocess.run([sys.executable, "-c", _SIGNALLED, root], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 [40, 41] [True, True]" and done.returncode == 0, done.stderr


def test_an_image_of_another_size_is_named(data: Annotations) -> None:
    data.sizes[2] = (10, 20)
    with pytest.raises(UserError, match=r"2\.jpg: the image has 58 x 40 pixels, its annotation says 20 x 10"):
        ScoringDataset(data, [SIZE])[0, 2]


def test_the_global_random_state_is_left_alone(data: Annotations) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _take(_training(data), 2)
    list(scoring_loader(data, [SIZE], batch_size=2, workers=0))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are not forked here")
def test_workers_are_forked_so_that_they_share_the_annotations(data: Annotations) -> None:
    """Python 3.14 would otherwise send each a copy."""
    assert _training(data, workers=2).multiprocessing_context.get_start_method() == "fork"
    assert _training(data, workers=0).multiprocessing_context is None


_SHARED = """
import os
import numpy as np
from detection.data.dataset import Annotations

images, each = 20_000, 10
names = np.array([f"folder/{number:012d}.jpg" for number in range(images)])
data = Annotations(
    ("a", "b"), names, names, np.ones((images, 2), np.int32), np.arange(images + 1) * each,
    np.random.rand(images * each, 4), np.ones(images * each, np.int64), np.zeros(images * each, bool),
    np.ones(images * each),
)

def private():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) / 1024

print(sum(value.nbytes for value in vars(data).values() if isinstance(value, np.ndarray)) / 2**20, flush=True)
if os.fork():
    os.wait()
else:
    before = private()
    for index in range(images):
        rows = data.objects(index)
        str(data.image_paths[index]), data.sizes[index].tolist()
        data.boxes[rows].sum(), data.labels[rows].sum(), data.ignore[rows].sum()
    print(private() - before, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell private memory")
def test_a_forked_worker_shares_what_it_reads() -> None:
    """Having touched the annotations of every image, it holds next to nothing of them for itself."""
    done = subprocess.run([sys.executable, "-c", _SHARED], capture_output=True, text=True, check=True)
    held, grown = map(float, done.stdout.split())
    assert held > 10 and grown < 0.2 * held


def test_the_data_set_can_be_sent_to_a_fresh_process(data: Annotations) -> None:
    """Python 3.14 starts workers without a copy of the parent's memory."""
    loader = _training(data)
    again = pickle.loads(pickle.dumps(loader.dataset))
    first, second = loader.dataset[(17, 3)], again[(17, 3)]
    assert first.image.tobytes() == second.image.tobytes()


def test_real_images_through_two_workers(shared_data: Path) -> None:
    data = read_voc(shared_data / "VOCdevkit", "2007/val")
    size = ImageSize(96, 160, padding=32)
    batches = [images[size] for images in scoring_loader(data, [size], batch_size=8, workers=2)]
    assert sorted(torch.cat([batch.image_indices for batch in batches]).tolist()) == list(range(80))
    assert sum(int((batch.gt_labels > 0).sum()) for batch in batches) == len(data.boxes)


def test_a_batch_that_does_not_fit_its_slot_travels_by_itself_and_harms_no_other(
    tmp_path: Path, write_set: Callable[..., Path], xml_object: Callable[..., str]
) -> None:
    """5000 objects in one of six images of 32 x 32 pixels: 125 kB beside 3 kB of pixels."""
    many = [xml_object("a", 8, 8, 24, 24)] * 5000
    images = {f"{number}": many if number == 3 else [xml_object("b", 4, 4, 20, 20)] for number in range(6)}
    data = read_voc(write_set(tmp_path, images, sizes={name: (32, 32) for name in images}), "train", ("a", "b"))
    settings = _settings(1, min_size=(32,), max_size=32, augment=AugmentSettings())
    loader = training_loader(data, settings, TrainTransform(settings, 3), batch_size=1, seed=3, padding=16)
    alone = replace(settings, workers=0)
    expected = training_loader(data, alone, TrainTransform(alone, 3), batch_size=1, seed=3, padding=16)
    taken = _take(loader, 24)
    assert sum(int((batch.gt_labels == 1).sum()) for batch in taken) == 4 * 5000
    assert all(map(_equal, taken, _take(expected, 24)))
