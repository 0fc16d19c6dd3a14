"""Every image of a set once, over all processes.

Letters: ``I`` images of the set, ``B`` images of a batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from detection import distributed
from detection.data.dataset import Annotations, ImageSize
from detection.data.loader import Images
from detection.errors import UserError
from detection.inference.look_through import look_through

Columns = tuple[np.ndarray, ...]
"""Arrays with one row for each image."""


def over_set(
    annotations: Annotations,
    sizes: Sequence[ImageSize],
    answer: Callable[[Images, np.ndarray], Columns],
    progress: Callable[[float], None],
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
    reduced_decoding: bool = False,
) -> Columns:
    """What `answer` says of the images, in their order, on every process; each has a contiguous part to answer.

    Args:
        sizes: the sizes that are wanted of every image.
        answer: takes the images of a batch on `device` and their indices (B,); returns arrays of B rows.
        progress: called after each batch with the share of this process's images that is done.
        batch_size, workers, reduced_decoding: see :func:`~detection.data.loader.scoring_loader`.

    Raises:
        UserError: there is no image, or one cannot be used.
    """
    if not len(annotations):
        raise UserError("the data set has no usable image to look at; name another set")
    parts, seen = look_through(
        annotations,
        sizes,
        lambda images, indices: answer(images, np.array(indices)),
        progress,
        device=device,
        batch_size=batch_size,
        workers=workers,
        reduced_decoding=reduced_decoding,
    )
    return gather(parts, seen, len(annotations))


def gather(parts: Sequence[Columns], seen: list[int], images: int) -> Columns:
    """Every process's rows in the order of the images.

    Args:
        parts: those of this process, batch by batch.
        seen: the image of each row.
        images: I.

    Raises:
        RuntimeError: an image was computed twice or not at all.
    """
    own = [np.concatenate(column) for column in zip(*parts, strict=True)]
    everywhere = distributed.gather_objects((own, seen))
    indices = np.array([index for _, part in everywhere for index in part], np.int64)
    order = np.argsort(indices)
    if not np.array_equal(indices[order], np.arange(images)):
        raise RuntimeError(f"{len(indices)} results for {images} images: each image must be computed exactly once")
    columns = zip(*(columns for columns, part in everywhere if part), strict=True)
    return tuple(np.concatenate(column)[order] for column in columns)
