"""The training loop: batches in, better weights out, by iterations.

Within a step nothing is read back from the device outside NMS: losses travel to the host while the next step is
computed and are looked at then. A step whose gradients are not finite is skipped on the device in the meantime.
"""

import contextlib
import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detection import distributed
from detection.batch import Batch
from detection.config import Config
from detection.data.dataset import Annotations
from detection.data.loader import pad_batch, training_loader
from detection.errors import UserError
from detection.inference.devices import autocast, choose_precision
from detection.model.faster_rcnn import FasterRCNN
from detection.training.log import RunLog
from detection.training.optim import Stepper, lr_factor, moving_average


@dataclass
class Outcome:
    """What one step computed; its values may still be on their way to the host."""

    step: int
    names: list[str]
    """Names of the values: the losses, then `gradient_norm`."""
    values: Tensor
    """On the host: each value, averaged over the processes."""
    arrived: torch.cuda.Event | None
    """Reached when `values` have arrived; None on the CPU."""
    parts: list[Batch]
    """The batches of the step, kept until its losses were read."""


class Loop:
    """Trains a detector; holds everything that a checkpoint needs to go on exactly.

    Args:
        detector: on the CPU; it is moved to `device`.
        config: finalized settings.
        device: of this process.
        log: of the run.
        folder: of the run.
    """

    def __init__(self, detector: FasterRCNN, config: Config, device: torch.device, log: RunLog, folder: Path) -> None:
        self.config = config
        self.device = device
        self.log = log
        self.folder = folder
        self.dtype = choose_precision(config.train.precision, device)
        memory = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self.detector = detector.to(device, memory_format=memory)
        self.model = parallel(self.detector, device)
        scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.stepper = Stepper(self.detector, config.train, scaler)
        self.average = moving_average(self.detector, config.train.ema_decay) if config.train.ema_decay else None
        self.done = 0
        self.best = -math.inf
        self._stop = False
        self._waited = 0.0
        self._timer = (0, time.monotonic())

    @property
    def scored_detector(self) -> FasterRCNN:
        """The weights to score and to hand out: the moving average if there is one."""
        return self.average.module if self.average else self.detector

    def run(self, annotations: Annotations, evaluate: Callable[[int], None], save: Callable[[], None]) -> bool:
        """Train to the end, or until SIGTERM or `train.stop_at`.

        Args:
            annotations: the training set.
            evaluate: called with the number of iterations done, every `eval_every` and at the end.
            save: writes ``last.pt``; called every `checkpoint_every`, at the end and before stopping.

        Returns:
            Whether the end was reached.

        Raises:
            UserError: a loss is not finite, or an image cannot be used.
        """
        train = self.config.train
        batches = iter(self._loader(annotations))
        files = annotations.image_paths
        outcome = None
        self._timer = (self.done, time.monotonic())
        self.detector.train()
        with self._stopping_on_sigterm():
            while self.done < train.iterations:
                following = self._advance(batches)
                self._settle(outcome, files)
                outcome = following
                self.done += 1
                is_last, is_stopped = self.done == train.iterations, self._stop or self.done == train.stop_at
                is_scored = is_last or (train.eval_every and self.done % train.eval_every == 0)
                if is_scored or is_stopped or (train.checkpoint_every and self.done % train.checkpoint_every == 0):
                    self._settle(outcome, files)
                    outcome = None
                    if is_scored:
                        evaluate(self.done)
                        self.detector.train()
                    save()
                    self._timer, self._waited = (self.done, time.monotonic()), 0.0
                if is_stopped and not is_last:
                    return False
        return True

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on exactly."""
        return {
            "model": self.detector.state_dict(),
            "ema": self.average.module.state_dict() if self.average else None,
            "ema_updates": int(self.average.n_averaged) if self.average else 0,
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "step": self.done,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned in another process (the detector's weights are loaded already)."""
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.module.load_state_dict(state["ema"])
            self.average.n_averaged.fill_(state["ema_updates"])
        self.done = state["step"]
        self.best = state["best"]

    def _loader(self, annotations: Annotations) -> Any:
        train, data = self.config.train, self.config.data
        return training_loader(
            annotations,
            data,
            batch_size=train.batch_size // train.accumulate,
            seed=self.config.seed,
            padding=self.config.model.padding,
            start=self.done * train.accumulate,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            pin_memory=self.device.type == "cuda",
        )

    def _advance(self, batches: Iterator[Batch]) -> Outcome:
        """One optimizer step on the next batch."""
        parts, totals = [], None
        for number in range(self.config.train.accumulate):
            batch = self._next(batches)
            # Dropout is the only generator in use; seeding it by the step makes a resumed run draw the same.
            part = self.done * self.config.train.accumulate + number
            torch.manual_seed((self.config.seed << 40) + part * distributed.world_size() + distributed.rank())
            is_last = number == self.config.train.accumulate - 1
            losses = self._backward(batch, is_last)
            values = torch.stack([loss.detach() for loss in losses.values()]) / self.config.train.accumulate
            totals = values if totals is None else totals + values
            parts.append(batch)
        norm = self.stepper.step(self.done)
        if self.average:
            self.average.update_parameters(self.detector)
        totals = distributed.sum_over_processes(totals) / distributed.world_size()
        return self._send([*losses, "gradient_norm"], torch.cat((totals, norm.view(1).to(totals))), parts)

    def _backward(self, batch: Batch, is_last: bool) -> dict[str, Tensor]:
        """Add the gradients of one part of the batch; the processes exchange them with the last part."""
        is_parallel = self.model is not self.detector
        with contextlib.nullcontext() if is_last or not is_parallel else self.model.no_sync():
            with autocast(self.device, self.dtype):
                losses = self.model(batch)
            loss = sum(losses.values()) / self.config.train.accumulate
            self.stepper.scaler.scale(loss).backward()
        return losses

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch on the device, as large as the largest of all processes'; agrees on stopping, too."""
        start = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - start
        height, width, stop = distributed.max_over_processes((*batch.images.shape[-2:], int(self._stop)))
        self._stop = bool(stop)
        return pad_batch(batch.to(self.device, non_blocking=True), height, width)

    def _send(self, names: list[str], values: Tensor, parts: list[Batch]) -> Outcome:
        """Start the values' way to the host."""
        host, arrived = values.to("cpu", non_blocking=True), None
        if self.device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
        return Outcome(self.done, names, host, arrived, parts)

    def _settle(self, outcome: Outcome | None, files: Any) -> None:
        """Look at a step's losses: stop if one is not finite, otherwise report them."""
        if outcome is None:
            return
        if outcome.arrived:
            outcome.arrived.synchronize()
        values = dict(zip(outcome.names, outcome.values.tolist(), strict=True))
        overflow_is_normal = self.stepper.scaler.is_enabled()
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad and not (overflow_is_normal and bad == ["gradient_norm"]):
            self._give_up(outcome, bad, files)
        step = outcome.step + 1
        shown = {"loss": sum(value for name, value in values.items() if name.startswith("loss")), **values}
        shown |= self._rates(step)
        self.log.progress(step, shown)
        if step % self.config.train.log_every == 0 or step == self.config.train.iterations:
            lr = self.config.train.lr * lr_factor(outcome.step, self.config.train)
            self.log.record(step, **shown, lr=lr)
            self._timer, self._waited = (step, time.monotonic()), 0.0

    def _rates(self, step: int) -> dict[str, float]:
        first, start = self._timer
        seconds = max(time.monotonic() - start, 1e-9)
        return {
            "images_per_second": (step - first) * self.config.train.batch_size / seconds,
            "waiting": self._waited / seconds,
            "memory": peak_memory(self.device),
        }

    def _give_up(self, outcome: Outcome, bad: list[str], files: Any) -> None:
        """Save the batch of a step that is not finite and say where it came from."""
        images = [str(files[index]) for part in outcome.parts for index in part.image_indices.tolist()]
        path = self.folder / f"nonfinite_batch_{distributed.rank()}.pt"
        torch.save([vars(part.to(torch.device("cpu"))) for part in outcome.parts], path)
        images = [image for part in distributed.gather_objects(images) for image in part]
        raise UserError(
            f"iteration {outcome.step + 1}: {' and '.join(bad)} not finite on {', '.join(images)}; the weights were "
            f"not updated and the batch is in {path}: lower train.lr, set train.clip_norm, or check these images"
        )

    @contextlib.contextmanager
    def _stopping_on_sigterm(self) -> Iterator[None]:
        """SIGTERM asks to stop after the current step; all processes then stop after the same one."""

        def ask(*_: object) -> None:
            self._stop = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def parallel(detector: FasterRCNN, device: torch.device) -> nn.Module:
    """The detector itself, or with several processes wrapped so that they average their gradients."""
    if distributed.world_size() == 1:
        return detector
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(detector, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: of the GPU, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
