"""What a training step reads back from the device: on the CPU, by the operations whose result the host waits for."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detection.config import from_dict, overlay
from detection.data import read_annotations
from detection.data.loader import training_loader
from detection.data.transforms import TrainTransform
from detection.finalize import finalize
from detection.model.build import build_detector
from detection.training.optim import Stepper

WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::lift_fresh")
"""Their result is a value or has a size that the host has to know, or is made from values of the host."""


class Waits(TorchDispatchMode):
    """Counts the operations that the host waits for, and those of NMS."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition(".")[0]
        is_masked = name in ("aten::index", "aten::index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in (*WAITING, "torchvision::nms"):
            self.seen[name] += 1
        if is_masked:
            self.seen["index by a mask"] += 1
        return function(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing_but_the_boxes_that_enter_nms_and_those_that_leave_it(tiny_config):
    """Twice an image: the size of what is kept of the proposals before NMS, and NMS itself."""
    config, _ = finalize(from_dict(overlay(tiny_config, {"train": {"clip_norm": 1.0}})))
    data = read_annotations(config.data, config.data.train)
    torch.manual_seed(0)
    detector, _ = build_detector(config, 4)
    stepper = Stepper(detector.train(), config.train, torch.amp.GradScaler("cpu", enabled=False))
    transform = TrainTransform(config.data, config.seed)
    batches = iter(training_loader(data, config.data, transform, batch_size=2, seed=0, padding=64))
    sum(detector(next(batches)).values()).backward()  # the first step moves the anchors' shapes to the device
    stepper.step(0)
    batch = next(batches)
    with Waits() as waits:
        sum(detector(batch).values()).backward()
        stepper.step(1)
    assert waits.seen == {"aten::nonzero": 2, "torchvision::nms": 2}
