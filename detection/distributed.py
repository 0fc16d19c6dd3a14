"""Ranks, sums and gathering over ``torch.distributed``; each function does nothing when there is one process.

Numbers that live on the device travel over its own backend (NCCL on GPUs), everything on the host over gloo.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from detection.errors import UserError

T = TypeVar("T")


def init_from_environment(device: torch.device) -> torch.device:
    """Join the processes that ``torchrun`` has started, if it has; each takes a GPU of its own.

    Returns:
        The device of this process.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.type == "cuda":
        device = _own_gpu(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return device


def shutdown() -> None:
    """Leave the group; every process calls it at its end."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # a tensor of the host: the wait never reaches the GPU


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block before the others begin it: it may have files to make or fetch.

    A user's mistake that the main process meets in it is raised on the others as well.
    """
    if not is_main() and (mistake := broadcast_object("")):
        raise UserError(mistake)
    try:
        yield
    except UserError as error:
        if is_main():
            broadcast_object(str(error))
        raise
    if is_main():
        broadcast_object("")


def on_main(action: Callable[[], T]) -> T:
    """What `action` returns on the main process, on every process; a user's mistake is raised on all of them."""
    result, mistake = None, None
    if is_main():
        try:
            result = action()
        except UserError as error:
            mistake = str(error)
    result, mistake = broadcast_object((result, mistake))
    if mistake is not None:
        raise UserError(mistake)
    return result


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of the processes' tensors of one shape, on the tensor's device, without gradient.

    Nothing is read back to the host: on a GPU the sum is queued like any other operation.
    """
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def max_over_processes(values: tuple[int, ...]) -> tuple[int, ...]:
    """The largest of each value over the processes, agreed on between the hosts."""
    if world_size() == 1:
        return values
    largest = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return tuple(largest.tolist())


def gather_objects(part: T) -> list[T]:
    """The objects of all processes in the order of their ranks, on every process; anything that pickles."""
    if world_size() == 1:
        return [part]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, part)
    return parts


def broadcast_object(value: T) -> T:
    """The main process's object, on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _own_gpu(local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(f"process {local_rank} has no GPU: this machine has {count}; use --nproc_per_node {count}")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
