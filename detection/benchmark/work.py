"""Where the time of a step goes, how much work it is, and what a GPU makes of it."""

import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detection.benchmark.timing import in_words, settle

SIDE = 8192
"""Rows and columns of the matrices that the card's rate is measured on."""
REPEATS = 10
SYNCHRONIZATION = "synchronizing CUDA operation"
"""What torch's warning says of an operation that the host waits for."""
INSIDE, OUTSIDE = "inside", "outside"
SELECTION = {
    "select": "detection/model/rpn.py",
    "select_detections": "detection/model/selection.py",
    "filter_proposals": "torchvision/models/detection/rpn.py",
    "postprocess_detections": "torchvision/models/detection/roi_heads.py",
}
"""The functions, ours and torchvision's, that select the boxes of one image after another, and where they are."""


class Stages:
    """One side's turns with the time of each stage, by hooks on modules that both sides have and that are not compiled.

    The trunk is what comes before the proposal network, the copy to the device included; losses are part of the
    stage that they belong to. Waiting is the end of a training step, after the optimizer: on a GPU the time in which it
    has nothing to do while the host looks at the losses of the step before.

    Args:
        work: a prediction or a training step of `detector`.
        detector: with torchvision's `rpn` and `roi_heads`.
        optimizer: of a training step; None for predictions.
    """

    def __init__(
        self,
        work: Callable[[], object],
        detector: nn.Module,
        device: torch.device,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.work = work
        self.device = device
        self.turns: list[dict[str, float]] = []
        """Seconds of the stages of each turn so far."""
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self._handles = [
            detector.rpn.register_forward_pre_hook(lambda *_: self._mark("trunk")),
            detector.rpn.register_forward_hook(lambda *_: self._mark("proposals")),
        ]
        if optimizer:
            self._handles += [
                detector.roi_heads.register_forward_hook(lambda *_: self._mark("region head")),
                optimizer.register_step_pre_hook(lambda *_: self._mark("backward")),
                optimizer.register_step_post_hook(lambda *_: self._mark("optimizer")),
            ]
        self._last = "waiting" if optimizer else "region head"

    def __call__(self) -> float:
        """One turn; its seconds, until the device is done."""
        settle(self.device)
        self._marks = []
        start = time.perf_counter()
        self._mark("")
        self.work()
        self._mark(self._last)
        settle(self.device)
        taken = time.perf_counter() - start
        stages: dict[str, float] = {}
        for (_, begin), (name, end) in pairwise(self._marks):
            stages[name] = stages.get(name, 0.0) + between(begin, end)
        self.turns.append(stages)
        return taken

    def medians(self, rounds: int) -> dict[str, float]:
        """Seconds of each stage over the last `rounds` turns; takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        last = self.turns[-rounds:]
        return {name: statistics.median(turn[name] for turn in last) for name in last[0]}

    def _mark(self, name: str) -> None:
        """The stage `name` ends here."""
        if self.device.type != "cuda":
            self._marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((name, event))


def between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    """Seconds between two marks."""
    return end - start if isinstance(end, float) else start.elapsed_time(end) / 1000


def operations(work: Callable[[], object]) -> int:
    """Floating point operations of the convolutions and matrix products in `work`, two for a multiplication and sum.

    Compiled code runs uncompiled in it, for there they cannot be seen.
    """
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16, side: int = SIDE) -> float:
    """Floating point operations a second in the product of two square matrices: the most that a step could reach."""
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(2 * REPEATS):  # the first half warms up
        settle(device)
        start = time.perf_counter()
        first @ second
        settle(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds[REPEATS:])


def peak_memory(work: Callable[[], object], held: Iterable[Tensor], device: torch.device) -> int:
    """The most bytes of a GPU that a side needs in `work`; what the other side holds at the same time does not count.

    Memory of recorded CUDA graphs, which the allocator hands out but once, is added whole.

    Args:
        held: what the side holds all the time: weights, gradients, the optimizer's state, batches.
    """
    own = sum(tensor.nbytes for tensor in held if tensor.is_cuda)
    settle(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    settle(device)
    graphs = sum(each["total_size"] for each in torch.cuda.memory_snapshot() if each["segment_pool_id"] != (0, 0))
    return torch.cuda.max_memory_allocated(device) - before + own + graphs


def synchronizations(work: Callable[[], object]) -> Counter[str]:
    """How often the host waits for the GPU in `work`, :data:`INSIDE` and :data:`OUTSIDE` NMS and the loop around it."""
    with counted_warnings() as found, counted_events(found):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found


@contextmanager
def counted_warnings() -> Iterator[Counter[str]]:
    """Counts torch's warnings of synchronizations by where they come from; all others are dropped."""
    found: Counter[str] = Counter()

    def note(message: Warning | str, *_: object) -> None:
        if SYNCHRONIZATION in str(message):
            found[INSIDE if any(map(is_selection, traceback.extract_stack())) else OUTSIDE] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield found


def is_selection(frame: traceback.FrameSummary) -> bool:
    """Whether it is one of :data:`SELECTION`."""
    return frame.name in SELECTION and Path(frame.filename).as_posix().endswith(SELECTION[frame.name])


@contextmanager
def counted_events(found: Counter[str]) -> Iterator[None]:
    """Adds the waits for an event, of which torch does not warn; they are all :data:`OUTSIDE`."""
    wait = torch.cuda.Event.synchronize

    def counted(event: torch.cuda.Event) -> None:
        found[OUTSIDE] += 1
        wait(event)

    torch.cuda.Event.synchronize = counted
    try:
        yield
    finally:
        torch.cuda.Event.synchronize = wait


def write_trace(path: Path, work: Callable[[], object]) -> None:
    """A trace of `work` for chrome://tracing or ui.perfetto.dev."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile() as profile:
        work()
    profile.export_chrome_trace(str(path))


def shares(seconds: dict[str, float]) -> dict[str, str]:
    """Each stage's time and share of all, in words: `120 ms (48%)`."""
    whole = sum(seconds.values())
    return {name: f"{in_words(value)} ({value / whole:.0%})" for name, value in seconds.items()}
