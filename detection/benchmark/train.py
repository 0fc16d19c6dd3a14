"""A training step: from a batch on the host to new weights.

Shapes: ``B`` images, ``N`` objects of an image, ``H, W`` rows and columns.
"""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN as Peer

from detection.batch import Batch
from detection.benchmark.agreement import ABSOLUTE, NORM, RELATIVE, Check, Disagreement, require_close, require_some
from detection.benchmark.calibrated import calibrated_peer
from detection.benchmark.case import Case
from detection.benchmark.given import same_samples, sampled_anchors, sampled_regions
from detection.benchmark.peer import as_torchvision_takes
from detection.benchmark.pictures import draw_samples
from detection.benchmark.predict import FEATURES, Seen, exact_arithmetic, valid
from detection.benchmark.report import Measured
from detection.benchmark.sides import Side, compare, name_of
from detection.config import Config
from detection.data.dataset import Sample
from detection.data.loader import collate
from detection.data.transforms import TrainTransform
from detection.inference.compilation import begin_step
from detection.inference.devices import autocast, choose_device, choose_precision
from detection.model.build import build_detector, load_state
from detection.model.faster_rcnn import FasterRCNN
from detection.training.log import RunLog
from detection.training.loop import Loop

LOSSES = 1e-5
"""Largest difference of a loss over the same samples."""
GRADIENTS = 1e-2
"""Largest difference of a gradient from the same features, or of a trunk's from the same gradient above it, as a share
of its norm. Rounding decides on which side of 0 a few inputs of ReLUs are, and so whether anything flows there."""
COMPILED = 0.02
"""The same for losses of compiled code, whose roundings may change which regions are proposed and so sampled."""


def train_stage(case: Case) -> Measured:
    """Seconds of a training step of either side, once losses and gradients are the same.

    Raises:
        Disagreement: they are not.
    """
    device, config = choose_device(case.config.device), case.config
    samples = draw_samples(config.seed, case.batch_size, case.size, len(config.data.classes))
    images, targets = reference_batch(samples)
    peer = calibrated_peer(config, len(config.data.classes), [image.to(device) for image in images])
    with TemporaryDirectory() as folder:
        ours = OurTraining(config, peer.state_dict(), samples, Path(folder), device)
        checks = check_training(ours.loop.detector, peer, ours.batch.to(device), images, targets)
        checks += [ours.check_compiled()] if config.compile else []
        dtype = choose_precision(config.train.precision, device)
        precisions = {"peer": torch.float32} | ({} if dtype == torch.float32 else {f"peer in {name_of(dtype)}": dtype})
        sides = {"ours": ours.side()}
        for name, precision in precisions.items():
            sides[name] = PeerTraining(copy.deepcopy(peer), config, images, targets, precision).side()
        del peer
        return compare("train", sides, case, checks, device)


class OurTraining:
    """The loop of a training run, one step a call, always on the same batch."""

    def __init__(
        self, config: Config, state: Mapping[str, Tensor], samples: Sequence[Sample], folder: Path, device: torch.device
    ) -> None:
        detector, _ = build_detector(config, len(config.data.classes), load_weights=False)
        load_state(detector, dict(state), "the peer")
        log = RunLog(folder, config.train.iterations, enabled=False)
        self.loop = Loop(detector, config, device, log, folder, TrainTransform(config.data, config.seed))
        self.loop.detector.train()
        self.batch = collate(samples, config.model.padding)
        self._batches = itertools.repeat(self.batch.pin_memory() if device.type == "cuda" else self.batch)
        self._outcome = None

    def __call__(self) -> None:
        """One step; as in a run, the losses of the step before are looked at after it."""
        following = self.loop.advance(self._batches)
        self.loop.settle(self._outcome, ())
        self._outcome = following
        self.loop.done += 1

    @torch.no_grad()
    def check_compiled(self) -> Check:
        """Compiled code gives the losses of the code that it was made from."""
        device, dtype = self.loop.device, self.loop.dtype
        begin_step(device)
        with autocast(device, dtype):
            compiled = torch.stack(list(self.loop.detector(self.batch.to(device)).values())).clone()
            with torch.compiler.set_stance("force_eager"):
                eager = torch.stack(list(self.loop.detector(self.batch.to(device)).values()))
        return require_close("losses, compiled", [compiled], [eager], COMPILED, RELATIVE)

    def side(self) -> Side:
        """For the comparison."""
        optimizer = self.loop.stepper.optimizer
        return Side(self, self.loop.detector, optimizer, lambda: [part.images for part in self._outcome.parts])


class PeerTraining:
    """torchvision's reference training (references/detection/engine.py), one step a call, always on the same batch.

    Args:
        images: (3, H, W) float in [0, 1], on the host, as the reference's loader has them.
        targets: `boxes` (N, 4) and `labels` (N,) of each.
        dtype: float32 as shipped; another one is that of the reference's `--amp`, and brings channels last with it.
    """

    def __init__(
        self,
        peer: Peer,
        config: Config,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]],
        dtype: torch.dtype,
    ) -> None:
        layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
        self.peer, self.targets, self.dtype = peer.train(), targets, dtype
        self.peer.to(memory_format=layout)
        self.device = next(peer.parameters()).device
        is_pinned = dtype != torch.float32 and self.device.type == "cuda"  # not to measure the reference's loader
        self.images = [image.pin_memory() for image in images] if is_pinned else images
        trained = [parameter for parameter in peer.parameters() if parameter.requires_grad]
        train = config.train
        self.optimizer = torch.optim.SGD(trained, train.lr, momentum=train.momentum, weight_decay=train.weight_decay)

    def __call__(self) -> None:
        """One step.

        Raises:
            FloatingPointError: the loss is not finite (the reference ends then, too).
        """
        images = [image.to(self.device) for image in self.images]
        targets = [{name: values.to(self.device) for name, values in target.items()} for target in self.targets]
        with autocast(self.device, self.dtype):
            loss = sum(self.peer(images, targets).values())
        if not math.isfinite(loss.item()):
            raise FloatingPointError("the peer's loss is not finite")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def side(self) -> Side:
        """For the comparison."""
        return Side(self, self.peer, self.optimizer)


def reference_batch(samples: Sequence[Sample]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images and targets in the form that torchvision takes."""
    images = as_torchvision_takes([sample.image for sample in samples], torch.device("cpu"))
    targets = [
        {"boxes": torch.from_numpy(sample.boxes), "labels": torch.from_numpy(sample.labels)} for sample in samples
    ]
    return [image.contiguous() for image in images], targets


def check_training(
    detector: FasterRCNN, peer: Peer, batch: Batch, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
) -> list[Check]:
    """Trained tensors, features, losses over the same samples, and gradients; leaves no gradient behind.

    Raises:
        Disagreement: one of them differs.
    """
    detector.train(), peer.train()
    device = batch.gt_boxes.device
    targets = [{name: values.to(device) for name, values in target.items()} for target in targets]
    checks = [check_trained(detector, peer)]
    with exact_arithmetic(), torch.compiler.set_stance("force_eager"):
        prepared, resized = peer.transform([image.to(device) for image in images], targets)
        mine = detector.features(batch)
        theirs = dict(peer.backbone(prepared.tensors))
        checks.append(require_close("features", mine, list(theirs.values()), FEATURES, RELATIVE))
        seen = Seen(prepared, {name: values.detach().requires_grad_() for name, values in theirs.items()})
        checks += check_losses(detector, peer, batch, seen, resized)
        above = [torch.zeros_like(part) if part.grad is None else part.grad for part in seen.features.values()]
        torch.autograd.backward(mine, above)
        torch.autograd.backward(list(theirs.values()), above)
        checks.append(check_gradients("gradients of the trunk", detector.backbone, peer.backbone))
    detector.zero_grad(), peer.zero_grad()
    return checks


def check_trained(detector: FasterRCNN, peer: Peer) -> Check:
    """Both sides train the same tensors."""
    names = [{name for name, value in side.named_parameters() if value.requires_grad} for side in (detector, peer)]
    if names[0] != names[1]:
        raise Disagreement(f"trained tensors: {', '.join(sorted(names[0] ^ names[1])[:3])} on one side only")
    require_some("trained tensors", len(names[0]))
    return Check("trained tensors", f"the same {len(names[0])}")


def check_losses(
    detector: FasterRCNN, peer: Peer, batch: Batch, seen: Seen, targets: list[dict[str, Tensor]]
) -> list[Check]:
    """Losses from the same features, proposals and samples, and what they say to the features and to the heads.

    Leaves the gradients of the peer's features in `seen`.
    """
    features = [values.detach().requires_grad_() for values in seen.features.values()]
    proposals, losses = detector.rpn(features, batch)
    regions = detector.roi_heads.select_regions(proposals, batch)
    _, region_losses = detector.roi_heads(features, proposals, batch)
    anchors, drawn = sampled_anchors(detector, features, batch), sampled_regions(regions, proposals, batch)
    with same_samples(peer, anchors, drawn):
        _, expected = peer.rpn(seen.images, seen.features, targets)
        _, region_expected = peer.roi_heads(seen.features, valid(proposals), seen.images.image_sizes, targets)
    losses, expected = losses | region_losses, expected | region_expected
    checks = [check_loss(name, losses[name], value) for name, value in expected.items()]
    torch.autograd.backward(list(losses.values()))
    torch.autograd.backward(list(expected.values()))
    pairs = [(mine.grad, other.grad) for mine, other in zip(features, seen.features.values(), strict=True)]
    reached = [pair for pair in pairs if pair[1] is not None]
    checks.append(require_close("gradients of the features", *map(list, zip(*reached, strict=True)), GRADIENTS, NORM))
    checks.append(check_gradients("gradients of the proposal network", detector.rpn, peer.rpn))
    checks.append(check_gradients("gradients of the region head", detector.roi_heads, peer.roi_heads))
    return checks


def check_loss(name: str, ours: Tensor, theirs: Tensor) -> Check:
    """A loss is the same, and not 0: where no object was sampled it would say nothing."""
    value = theirs.item()
    require_some(name, int(value > 0))
    check = require_close(name, [ours.to(theirs)], [theirs], LOSSES, ABSOLUTE)
    return replace(check, words=f"{value:.4g}, {check.words}")


def check_gradients(stage: str, ours: torch.nn.Module, theirs: torch.nn.Module) -> Check:
    """Gradients of the same name are the same."""
    expected = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    mine = {name: value.grad for name, value in ours.named_parameters() if value.grad is not None}
    if set(mine) != set(expected):
        raise Disagreement(f"{stage}: {', '.join(sorted(set(mine) ^ set(expected))[:3])} on one side only")
    return require_close(stage, [mine[name] for name in expected], list(expected.values()), GRADIENTS, NORM)
