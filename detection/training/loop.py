"""The training loop: batches in, better weights out, by iterations.

Within a step nothing is read back from the device outside NMS: losses travel to the host while the next step is
computed and are looked at then. A step whose gradients are not finite is skipped on the device in the meantime.
"""

import contextlib
import inspect
import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from detection import distributed
from detection.batch import Batch
from detection.config import Config
from detection.data.dataset import Annotations
from detection.data.loader import pad_batch, training_loader
from detection.data.transforms import TrainingTransform
from detection.errors import UserError
from detection.inference.compilation import begin_step, compile_parts, returns_to_sizes
from detection.inference.devices import autocast, choose_precision, place
from detection.training.log import RunLog
from detection.training.optim import MovingAverage, Stepper, lr_factor

MOST_OVERFLOWS = 50
"""Steps in a row that fp16 may skip while its scaler looks for a scale; torch's starts at 2**16 and halves it."""

_DDP_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_ARGUMENTS else "broadcast_buffers"
"""What torch calls the exchange of buffers in every step, which is of no use here: torch 2.15 gave it a new name."""


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
    clock: tuple[float, float]
    """When the step was handed to the device, and the seconds of the run spent waiting for data until then."""


class Loop:
    """Trains a network; holds everything that a checkpoint needs to go on exactly.

    Args:
        detector: what is trained, on the CPU; it is moved to `device`. Given a batch it returns its losses.
        config: finalized settings.
        device: of this process.
        log: of the run.
        folder: of the run.
        transform: what happens to a training image.
    """

    def __init__(
        self,
        detector: nn.Module,
        config: Config,
        device: torch.device,
        log: RunLog,
        folder: Path,
        transform: TrainingTransform,
    ) -> None:
        self.config = config
        self.transform = transform
        self.device = device
        self.log = log
        self.folder = folder
        self.dtype = choose_precision(config.train.precision, device)
        self.detector = place(detector, device, config.train.channels_last)
        if config.compile:
            compile_parts(self.detector, device, is_graphed=returns_to_sizes(config, is_training=True))
        self.model = parallel(self.detector)
        scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.stepper = Stepper(self.detector, config.train, scaler)
        self.average = MovingAverage(self.detector, config.train.ema_decay) if config.train.ema_decay else None
        self.done = 0
        self.best = -math.inf
        self.scored_at = -1
        self._asked, self._stop = False, False  # by a signal to this process; agreed on by all processes
        self._overflows = 0
        self._waited = 0.0
        self._since = (0, 0.0, 0.0)  # step and clock from which rates are measured

    @property
    def scored_detector(self) -> nn.Module:
        """The weights to score and to hand out: the moving average if there is one."""
        return self.average.module if self.average else self.detector

    def run(self, annotations: Annotations, evaluate: Callable[[int], None], save: Callable[[], None]) -> bool:
        """Train to the end, or until SIGTERM, Ctrl-C or `train.stop_at`.

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
        self._since = (self.done, time.monotonic(), self._waited)
        self.detector.train()
        with self._stopping_on_signals():
            while self.done < train.iterations:
                following = self.advance(batches)
                self.settle(outcome, files)
                outcome = following
                self.done += 1
                is_last, is_stopped = self.done == train.iterations, self._stop or self.done == train.stop_at
                is_scored = is_last or is_due(self.done, train.eval_every)
                if is_scored or is_stopped or is_due(self.done, train.checkpoint_every):
                    self.settle(outcome, files)
                    outcome = None
                    self._pause(evaluate if is_scored else None, save)
                if is_stopped and not is_last:
                    return False
            if self.scored_at < self.done:  # a run that was ended while it was scored
                self._pause(evaluate, save)
        return True

    def _pause(self, evaluate: Callable[[int], None] | None, save: Callable[[], None]) -> None:
        """Save; then score, which can take long and fail, and save what came of it."""
        share_statistics(self.detector, self.scored_detector)
        save()
        if evaluate:
            evaluate(self.done)
            self.scored_at = self.done
            save()
            self.detector.train()
        self._since = (self.done, time.monotonic(), self._waited)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on exactly."""
        return {
            "model": self.detector.state_dict(),
            "ema": self.average.module.state_dict() if self.average else None,
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "step": self.done,
            "best": self.best,
            "scored_at": self.scored_at,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned in another process (the detector's weights are loaded already).

        Raises:
            UserError: the run used another optimizer.
        """
        self.stepper.restore(state["optimizer"], state["scaler"])
        if self.average:
            self.average.module.load_state_dict(state["ema"] or state["model"])
        self.done, self.best, self.scored_at = state["step"], state["best"], state["scored_at"]

    def _loader(self, annotations: Annotations) -> Any:
        train, data = self.config.train, self.config.data
        return training_loader(
            annotations,
            data,
            self.transform,
            batch_size=train.batch_size // train.accumulate,
            seed=self.config.seed,
            padding=self.config.model.padding,
            start=self.done * train.accumulate,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            pin_memory=self.device.type == "cuda",
        )

    def advance(self, batches: Iterator[Batch]) -> Outcome:
        """One optimizer step on the next batch."""
        parts, totals = [], None
        if self.config.compile:
            begin_step(self.device)
        for number in range(self.config.train.accumulate):
            batch = self._next(batches)
            # Dropout is the only generator in use; seeding it by the step makes a resumed run draw the same.
            torch.manual_seed(dropout_seed(self.config.seed, self.done, number, distributed.rank()))
            is_last = number == self.config.train.accumulate - 1
            losses = self._backward(batch, is_last)
            values = torch.stack([loss.detach() for loss in losses.values()]) / self.config.train.accumulate
            totals = values if totals is None else totals + values
            parts.append(batch)
        norm = self.stepper.step(self.done)
        if self.average:
            self.average.update()
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
        """The next batch on the device, as large as the largest of all processes'.

        The processes agree here on whether to stop, and on whether one of them met an image that cannot be used.
        """
        start, mistake, size = time.monotonic(), None, (0, 0)
        try:
            batch = next(batches)
            size = batch.images.shape[-2:]
        except UserError as error:
            mistake = error
        self._waited += time.monotonic() - start
        height, width, stop, failed = distributed.max_over_processes((*size, self._asked, mistake is not None))
        if failed:
            raise UserError(next(filter(None, distributed.gather_objects(mistake and str(mistake)))))
        self._stop = bool(stop)
        return pad_batch(batch.to(self.device, non_blocking=True), height, width)

    def _send(self, names: list[str], values: Tensor, parts: list[Batch]) -> Outcome:
        """Start the values' way to the host."""
        host, arrived = values.to("cpu", non_blocking=True), None
        if self.device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
        return Outcome(self.done, names, host, arrived, parts, (time.monotonic(), self._waited))

    def settle(self, outcome: Outcome | None, files: Any) -> None:
        """Look at a step's losses: stop if one is not finite, otherwise report them."""
        if outcome is None:
            return
        if outcome.arrived:
            outcome.arrived.synchronize()
        values = dict(zip(outcome.names, outcome.values.tolist(), strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        is_overflow = self.stepper.scaler.is_enabled() and bad == ["gradient_norm"]
        self._overflows = self._overflows + 1 if is_overflow else 0
        if self._overflows > MOST_OVERFLOWS or (bad and not is_overflow):
            self._give_up(outcome, bad, files)
        step = outcome.step + 1
        shown = {"loss": sum(value for name, value in values.items() if name.startswith("loss")), **values}
        shown |= self._rates(step, *outcome.clock)
        self.log.progress(step, shown)
        if step % self.config.train.log_every == 0 or step == self.config.train.iterations:
            lr = self.config.train.lr * lr_factor(outcome.step, self.config.train)
            self.log.record(step, **shown, lr=lr)
            self._since = (step, *outcome.clock)

    def _rates(self, step: int, now: float, waited: float) -> dict[str, float]:
        first, start, waited_before = self._since
        return {
            "images/s": (step - first) * self.config.train.batch_size / (now - start),
            "waiting": (waited - waited_before) / (now - start),
            "memory": peak_memory(self.device),
        }

    def _give_up(self, outcome: Outcome, bad: list[str], files: Any) -> None:
        """Save the batch of a step that is not finite and say where it came from."""
        images = [str(files[index]) for part in outcome.parts for index in part.image_indices.tolist()]
        path = self.folder / f"nonfinite_batch_{distributed.rank()}.pt"
        try:
            torch.save([vars(part.to(torch.device("cpu"))) for part in outcome.parts], path)
            place = f"is in {path}"
        except (OSError, RuntimeError):
            place = f"could not be written to {path}"
        images = [image for part in distributed.gather_objects(images) for image in part]
        raise UserError(
            f"iteration {outcome.step + 1}: {' and '.join(bad)} not finite on {', '.join(images)}; the step changed "
            f"no weights and its batch {place}: lower train.lr, set train.clip_norm, or check these images"
        )

    @contextlib.contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C ask to stop after the current step, all processes after the same.

        A second Ctrl-C ends at once. A second SIGTERM does not: a scheduler and torchrun may each send one.
        """
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def ask(number: int, _: object) -> None:
            self._asked = True
            if number == signal.SIGINT:
                signal.signal(number, before[number])

        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def is_due(step: int, interval: int) -> bool:
    """Whether something that is done every `interval` steps (0: never) is done after `step`."""
    return bool(interval) and step % interval == 0


def share_statistics(*detectors: nn.Module) -> None:
    """Give every process the mean of the processes' batch statistics, which each has from its own images."""
    if distributed.world_size() == 1:
        return
    for layer in chain.from_iterable(detector.modules() for detector in detectors):
        if isinstance(layer, _BatchNorm):
            for statistic in (layer.running_mean, layer.running_var):
                statistic.copy_(distributed.sum_over_processes(statistic) / distributed.world_size())


def dropout_seed(*key: int) -> int:
    """A seed of 64 bits that follows from (seed, step, part, process) alone."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def parallel(detector: nn.Module) -> nn.Module:
    """The detector itself, or with several processes wrapped so that they average their gradients."""
    if distributed.world_size() == 1:
        return detector
    # Without `device_ids` the batch is left as it is: it is on the device already, but for the indices of its images.
    return DistributedDataParallel(detector, gradient_as_bucket_view=True, **{SYNC_BUFFERS: False})


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: of the GPU, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
