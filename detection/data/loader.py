"""From annotations to batches: seeded and resumable sampling, shape grouping, collation, worker processes.

Letters: ``B`` images of a batch, ``N`` objects of an image after padding, ``H, W`` rows and columns after padding,
``I`` images of a data set.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detection.batch import Batch
from detection.config import DataSettings
from detection.data.dataset import Annotations, Decoded, ImageSize, Sample, read_decoded
from detection.data.transforms import TestTransform, TrainingTransform
from detection.data.workers import BatchLoader, Key
from detection.errors import UserError

Images = dict[ImageSize, Batch]
"""The same images at one or several sizes."""
Room = Callable[[tuple[int, ...]], Tensor]
"""Gives a uint8 tensor of a shape, whatever it holds."""
SLOT_REST = 65536
"""Bytes for the objects of an image (there may be more than a thousand) and all else of a batch but its pixels."""


def training_loader(
    annotations: Annotations,
    settings: DataSettings,
    transform: TrainingTransform,
    *,
    batch_size: int,
    seed: int,
    padding: int,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Endless batches of images, drawn by (seed, epoch) and transformed by position.

    The batches are the same for any number of workers, and together the same for any number of processes.

    Args:
        annotations: the training set, as :func:`~detection.data.dataset.for_training` gives it.
        settings: grouping, workers.
        transform: what happens to an image; it follows from the position alone.
        batch_size: images of a batch over all processes.
        seed: of the order of the images.
        padding: padded rows and columns are multiples of this, and large enough for this process's images;
            :func:`pad_batch` makes them larger when another process has a larger image.
        start: how many batches of the endless sequence are left out.
        rank: this process, which takes the `rank`-th of `world_size` equal parts of each batch.
        world_size: number of processes.
        pin_memory: hand batches out in page-locked memory.

    Raises:
        UserError: there is no image, or the batch cannot be split equally. While iterating: an image cannot be used.
    """
    batches = TrainingBatches(
        annotations.sizes, batch_size, seed, settings.group_by_shape, start=start, rank=rank, world_size=world_size
    )
    dataset = DetectionDataset(annotations, transform)
    side, _ = padded_size((transform.longest,) * 2, padding)
    slot_size = batch_size // world_size * (3 * side * side + SLOT_REST)
    return BatchLoader(dataset, batches, partial(collate, padding=padding), settings.workers, slot_size, pin_memory)


def scoring_loader(
    annotations: Annotations,
    sizes: Sequence[ImageSize],
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    reduced_decoding: bool = False,
) -> DataLoader[Images]:
    """Every image once over all processes, unaugmented, at one or several sizes; position and index are the same.

    The processes take contiguous parts of the list of images. Within a part, images of equal padded sizes share
    batches, so that the padding of an image, and with it its scores, follows from the image alone.

    Args:
        annotations: the set to score; it may be without objects.
        sizes: the sizes that are wanted of every image; each image is read once.
        batch_size: at most this many images of a batch of this process.
        workers: processes that read and prepare images.
        rank: this process.
        world_size: number of processes.
        pin_memory: hand batches out in page-locked memory.
        reduced_decoding: decode JPEGs no larger than the largest of `sizes` needs.

    Raises:
        UserError: while iterating, an image cannot be used.
    """
    padded = [
        tuple(padded_size(size.resized((rows, columns)), size.padding) for size in sizes)
        for rows, columns in annotations.sizes.tolist()
    ]
    part = range(rank * len(padded) // world_size, (rank + 1) * len(padded) // world_size)
    batches = scoring_batches(padded, part, batch_size)
    dataset = ScoringDataset(annotations, sizes, reduced_decoding)
    slot_size = max((len(batch) * _bytes_of(padded[batch[0][1]]) for batch in batches), default=0)
    return BatchLoader(dataset, batches, partial(collate_sizes, sizes=sizes), workers, slot_size, pin_memory)


def _bytes_of(sizes: tuple[tuple[int, int], ...]) -> int:
    """Of one image at several padded sizes, with its objects."""
    return sum(3 * rows * columns + SLOT_REST for rows, columns in sizes)


class TrainingBatches(Sampler[list[Key]]):
    """The endless sequence of batches of one process, as lists of (position, index).

    Each epoch is a permutation of all images. With grouping, wide and tall images collect in two buckets, and a bucket
    that is full becomes a batch. What is left in the buckets is carried over to the next epoch, so that every image
    comes equally often.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        batch_size: int,
        seed: int,
        group_by_shape: bool,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Takes the sizes (I, 2) of all images; the rest as for :func:`training_loader`."""
        if not len(sizes):
            raise UserError("the training set has no usable image; name another by --data.train")
        if batch_size % world_size:
            raise UserError(
                f"a batch of {batch_size} cannot be split equally over {world_size} processes; "
                f"make --train.batch_size a multiple of it"
            )
        self._buckets = (sizes[:, 0] > sizes[:, 1]) & group_by_shape
        self._batch_size = batch_size
        self._seed = seed
        self._start = start
        share = batch_size // world_size
        self._part = slice(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[Key]]:
        batches = zip(itertools.count(0, self._batch_size), self._indices(), strict=False)
        for position, indices in itertools.islice(batches, self._start, None):
            yield list(enumerate(indices, start=position))[self._part]

    def _indices(self) -> Iterator[list[int]]:
        buckets: tuple[list[int], list[int]] = ([], [])
        for epoch in itertools.count():
            # The third number keeps the sequence apart from those of the transforms, which take (seed, position).
            order = np.random.default_rng([self._seed, epoch, 1]).permutation(len(self._buckets))
            for index, number in zip(order.tolist(), self._buckets[order].tolist(), strict=True):
                bucket = buckets[number]
                bucket.append(index)
                if len(bucket) == self._batch_size:
                    yield bucket.copy()
                    bucket.clear()


def scoring_batches(sizes: Sequence[tuple], part: Sequence[int], batch_size: int) -> list[list[Key]]:
    """Batches of (index, index) of the images in `part`, each of images whose padded `sizes` are equal."""
    ordered = sorted(part, key=lambda index: sizes[index])  # stable: in the order of the list within a size
    batches = []
    for _, group in itertools.groupby(ordered, key=lambda index: sizes[index]):
        keys = [(index, index) for index in group]
        batches += [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
    return batches


class DetectionDataset(Dataset[Sample]):
    """Annotations seen through a transform; a sample is asked for by (position in the run, index of the image)."""

    def __init__(self, annotations: Annotations, transform: TrainingTransform) -> None:
        self._annotations = annotations
        self._transform = transform

    def __getitem__(self, key: Key) -> Sample:
        """Reads and transforms an image.

        Raises:
            UserError: the image does not decode, or is not of the annotated size.
        """
        image = read_annotated(self._annotations, key[1], self._transform.enough)
        return as_sample(self._annotations, key, image, self._transform)


class ScoringDataset(Dataset[list[Sample]]):
    """Annotations at one or several sizes; samples are asked for as those of :class:`DetectionDataset`."""

    def __init__(self, annotations: Annotations, sizes: Sequence[ImageSize], reduced_decoding: bool = False) -> None:
        self._annotations = annotations
        self._transforms = [TestTransform(size) for size in sizes]
        self._reduced_decoding = reduced_decoding

    def __getitem__(self, key: Key) -> list[Sample]:
        """Reads an image, and resizes it to each size.

        Raises:
            UserError: as for :class:`DetectionDataset`.
        """
        image = read_annotated(self._annotations, key[1], self._enough)
        return [as_sample(self._annotations, key, image, transform) for transform in self._transforms]

    def _enough(self, size: tuple[int, int]) -> tuple[int, int]:
        return max(transform.enough(size) for transform in self._transforms) if self._reduced_decoding else size


def read_annotated(
    annotations: Annotations, index: int, enough: Callable[[tuple[int, int]], tuple[int, int]]
) -> Decoded:
    """The image `index`.

    Args:
        enough: how many rows and columns will do of an image, given those that it has.

    Raises:
        UserError: the image does not decode, or is not of the annotated size.
    """
    path = str(annotations.image_paths[index])
    rows, columns = annotations.sizes[index].tolist()
    image = read_decoded(path, enough=enough((rows, columns)))
    if image.size != (rows, columns):
        raise UserError(
            f"{path}: the image has {image.size[1]} x {image.size[0]} pixels, its annotation "
            f"says {columns} x {rows}; correct the annotation, or restore the image that its boxes were drawn on"
        )
    return image


def as_sample(annotations: Annotations, key: Key, image: Decoded, transform: TrainingTransform) -> Sample:
    """The image with its objects, transformed."""
    position, index = key
    objects = annotations.objects(index)
    boxes = annotations.boxes[objects].astype(np.float32)
    done = transform(image, boxes, annotations.labels[objects], annotations.ignore[objects], position, index)
    return Sample(done.image, done.original_size, done.boxes, done.labels, done.ignore, position, index)


def padded_size(size: tuple[int, int], padding: int) -> tuple[int, int]:
    """The smallest multiples of `padding` that hold `size` rows and columns."""
    return math.ceil(size[0] / padding) * padding, math.ceil(size[1] / padding) * padding


def new_room(shape: tuple[int, ...]) -> Tensor:
    """A uint8 tensor of `shape` in memory of its own."""
    return torch.empty(shape, dtype=torch.uint8)


def collate(
    samples: Sequence[Sample], padding: int, size: tuple[int, int] | None = None, room: Room = new_room
) -> Batch:
    """Puts samples into one batch.

    Args:
        samples: B of them, of any size.
        padding: H and W are multiples of this.
        size: H and W; none takes the smallest that hold every image.
        room: where the pixels go.

    Returns:
        A batch whose N is the largest number of objects rounded up to a multiple of 8, at least 8: few different
        sizes, so that compiled code is compiled few times.
    """
    tallest, widest = (max(sample.image.shape[axis] for sample in samples) for axis in (0, 1))
    height, width = size or padded_size((tallest, widest), padding)
    slots = max(8, math.ceil(max(len(sample.labels) for sample in samples) / 8) * 8)
    batch = _empty_batch(samples, room((len(samples), 3, height, width)), slots)
    for row, sample in enumerate(samples):
        (rows, columns), count = sample.image.shape[:2], len(sample.labels)
        cv2.split(sample.image, [plane[:rows, :columns] for plane in batch.images[row].numpy()])
        batch.images[row, :, rows:] = 0
        batch.images[row, :, :rows, columns:] = 0
        batch.gt_boxes[row, :count] = torch.from_numpy(sample.boxes)
        batch.gt_labels[row, :count] = torch.from_numpy(sample.labels)
        batch.gt_ignore[row, :count] = torch.from_numpy(sample.ignore)
    return batch


def collate_sizes(samples: Sequence[Sequence[Sample]], sizes: Sequence[ImageSize], room: Room = new_room) -> Images:
    """Puts images into one batch for each of `sizes`; `samples` holds B images, each at all the sizes in this order."""
    by_size = zip(sizes, zip(*samples, strict=True), strict=True)
    return {size: collate(of_size, size.padding, room=room) for size, of_size in by_size}


def pad_batch(batch: Batch, height: int, width: int) -> Batch:
    """The batch with images padded further to `height` rows and `width` columns, for the size of a global batch."""
    rows, columns = batch.images.shape[-2:]
    if (rows, columns) == (height, width):
        return batch
    return dataclasses.replace(batch, images=F.pad(batch.images, (0, width - columns, 0, height - rows)))


def _empty_batch(samples: Sequence[Sample], images: Tensor, slots: int) -> Batch:
    count = len(samples)
    return Batch(
        images=images,
        sizes=_rows([sample.image.shape[:2] for sample in samples]),
        original_sizes=_rows([sample.original_size for sample in samples]),
        positions=torch.tensor([sample.position for sample in samples], dtype=torch.int64),
        gt_boxes=torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, slots, 1),
        gt_labels=torch.zeros(count, slots, dtype=torch.int64),
        gt_ignore=torch.zeros(count, slots, dtype=torch.bool),
        image_indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
    )


def _rows(sizes: list[tuple[int, int]]) -> Tensor:
    return torch.tensor(sizes, dtype=torch.float32)
