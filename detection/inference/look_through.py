"""Every image of a set once, over all processes.

Letters: ``B`` images of a batch.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from detection import distributed
from detection.data.dataset import Annotations, ImageSize
from detection.data.loader import Images, scoring_loader

Part = TypeVar("Part")


def look_through(
    annotations: Annotations,
    sizes: Sequence[ImageSize],
    answer: Callable[[Images, list[int]], Part],
    progress: Callable[[float], None],
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
    reduced_decoding: bool = False,
) -> tuple[list[Part], list[int]]:
    """What `answer` says of this process's images, batch by batch, and the indices of all of them in the same order.

    Each process has a contiguous part of the set; :mod:`detection.distributed` brings the parts together.

    Args:
        sizes: the sizes that are wanted of every image.
        answer: takes the images of a batch on `device` and their B indices.
        progress: called after each batch with the share of this process's images that is done.
        batch_size, workers, reduced_decoding: see :func:`~detection.data.loader.scoring_loader`.

    Raises:
        UserError: an image cannot be used.
    """
    loader = scoring_loader(
        annotations,
        sizes,
        batch_size=batch_size,
        workers=workers,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        pin_memory=device.type == "cuda",
        reduced_decoding=reduced_decoding,
    )
    parts, seen, images = [], [], sum(len(keys) for _, keys in loader.batch_sampler)
    for batch in loader:
        indices = next(iter(batch.values())).image_indices.tolist()
        parts.append(answer({size: each.to(device, non_blocking=True) for size, each in batch.items()}, indices))
        seen += indices
        progress(len(seen) / images)
    return parts, seen
