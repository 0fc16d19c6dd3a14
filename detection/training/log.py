"""What a run says: to the console, into ``log.txt`` and ``metrics.jsonl``, and to Weights & Biases if asked.

``metrics.jsonl`` holds one JSON object a line: the step and values under their names, unrounded. A value that is not
finite is written as null, and its name is listed under ``non_finite``, so that every line is valid JSON.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from detection.errors import UserError
from detection.files import replacing

WIDTH = 120
"""Columns of ``log.txt``, and of the console when it is no terminal."""


class RunLog:
    """The records of one run; only the main process's is enabled, all others are silent.

    Args:
        folder: the run folder; it exists.
        total_iterations: length of the whole run.
        log_every: a line of progress is written every so many iterations.
        wandb: where Weights & Biases logs to; it is imported only when it is not disabled.
        config: the run's settings, for Weights & Biases.
        enabled: whether to write anything at all.
    """

    def __init__(
        self,
        folder: str | Path,
        total_iterations: int,
        log_every: int = 20,
        wandb: Literal["online", "offline", "disabled"] = "disabled",
        config: Mapping[str, Any] | None = None,
        enabled: bool = True,
    ) -> None:
        self.enabled = enabled
        self._folder = Path(folder)
        self._total = total_iterations
        self._log_every = log_every
        self._console = _console()
        self._bar: tuple[Progress, TaskID] | None = None
        self._started: tuple[int, float] | None = None
        self._step = 0
        self._wandb = self._start_wandb(wandb, dict(config or {})) if enabled and wandb != "disabled" else None

    def say(self, content: RenderableType) -> None:
        """Print a text, or a table of rich, and append it to ``log.txt`` as plain text."""
        if self.enabled:
            _print(self._console, content)
            self._append(content)

    def record(self, step: int, **values: Any) -> None:
        """Append a line to ``metrics.jsonl``: numbers, or lists and dictionaries of them."""
        if not self.enabled:
            return
        lost: list[str] = []
        line = {"step": step} | {name: _json_value(value, name, lost) for name, value in values.items()}
        if lost:
            line["non_finite"] = lost
        with self._appending("metrics.jsonl") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self._step = step
        if self._wandb:
            self._wandb.log({name: value for name, value in line.items() if value is not None})

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Show how far the run is: a bar on a terminal, elsewhere a line every `log_every` iterations.

        Args:
            step: iterations done so far.
            values: what to show, in this order: losses and rates under their names, and ``waiting`` (share of the
                time spent waiting for data, 0..1) and ``memory`` (bytes).
        """
        if not self.enabled:
            return
        shown = ", ".join([*(_shown(name, value) for name, value in values.items()), self._time_left(step)])
        if self._console.is_terminal:
            self._move_bar(step, shown)
        if step % self._log_every == 0 or step == self._total:
            line = f"iteration {step}/{self._total}: {shown}"
            self._append(line) if self._console.is_terminal else self.say(line)

    def share(self, name: str) -> Callable[[float], None]:
        """A function that takes the share done (0..1) of something long and says each further quarter."""
        said = 0

        def tell(done: float) -> None:
            nonlocal said
            if int(4 * done) > said:
                said = int(4 * done)
                self.say(f"{name} {said * 25} %")

        return tell

    def pictures(self, name: str, path: str | Path) -> None:
        """Send a picture of the run folder to Weights & Biases, at the step recorded last."""
        if self._wandb:
            import wandb

            self._wandb.log({name: wandb.Image(str(path)), "step": self._step})

    def rewind(self, step: int) -> None:
        """Forget the records after `step`, which a resumed run writes again, and a line cut short by a kill."""
        path = self._folder / "metrics.jsonl"
        if not self.enabled or not path.exists():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        with replacing(path) as beside:
            beside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def close(self) -> None:
        """End the progress bar and the upload; an upload without a network gives up after a minute."""
        self._stop_bar()
        if self._wandb:
            self._wandb.finish()
            self._wandb = None

    def _append(self, content: RenderableType) -> None:
        with self._appending("log.txt") as file:
            _print(_console(file), content)

    @contextmanager
    def _appending(self, name: str) -> Iterator[TextIO]:
        path = self._folder / name
        try:
            with open(path, "a", encoding="utf-8") as file:
                yield file
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path}: cannot be written ({reason}); make room, and go on with --resume") from error

    def _time_left(self, step: int) -> str:
        now = time.monotonic()
        self._started = self._started or (step, now)
        first, start = self._started
        if step == first:
            return "time left unknown"
        seconds = (now - start) / (step - first) * (self._total - step)
        return f"{timedelta(seconds=round(seconds))} left"

    def _move_bar(self, step: int, shown: str) -> None:
        if self._bar is None:
            text = TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1)
            )  # may take several lines
            columns = BarColumn(bar_width=None, table_column=Column(width=20)), MofNCompleteColumn(), text
            bar = Progress(*columns, console=self._console, expand=True)
            self._bar = bar, bar.add_task("", total=self._total)
            bar.start()
        bar, task = self._bar
        bar.update(task, completed=step, description=shown)
        if step == self._total:
            self._stop_bar()

    def _stop_bar(self) -> None:
        if self._bar:
            self._bar[0].stop()
            self._bar = None

    def _start_wandb(self, mode: str, config: dict[str, Any]) -> Any:
        """A run of Weights & Biases: as asked, else offline, else none; what was not possible is said in one line."""
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        if mode == "online" and (obstacle := _no_login(wandb)):
            mode = "offline"
            self.say(f"wandb: {obstacle}; logging to {self._folder / 'wandb'} instead, `wandb sync` uploads it later")
        try:
            settings = wandb.Settings(init_timeout=30, finish_timeout=60, console="off", silent=True)
            name = self._folder.name
            run = wandb.init(
                project="residet", name=name, dir=self._folder, config=config, mode=mode, settings=settings
            )
        except Exception as error:  # whatever goes wrong in there, the training is worth more
            self.say(f"wandb: {_first_line(error)}; going on without it, every record is in metrics.jsonl")
            return None
        run.define_metric("*", step_metric="step")
        return run


def _no_login(wandb: Any) -> str:
    """Why Weights & Biases cannot be used online, or nothing. It never asks: a run may have nobody to answer."""
    try:
        return "" if wandb.login(prompt=False) else "no login was found (`wandb login` makes one)"
    except wandb.Error as error:
        return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _console(file: Any = None) -> Console:
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def _print(console: Console, content: RenderableType) -> None:
    console.print(content, soft_wrap=isinstance(content, str))  # texts may hold paths, which must stay whole


def _shown(name: str, value: float) -> str:
    if name == "waiting":
        return f"waiting {value:.0%}"
    if name == "memory":
        return f"memory {value / 2**30:.1f} GiB"
    return f"{name} {value:.4g}"


def _json_value(value: Any, name: str, lost: list[str]) -> Any:
    """`value` as JSON has it; names of values that are not finite are added to `lost`."""
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _json_value(item, f"{name}.{key}", lost) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, f"{name}.{index}", lost) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(name)
        return None
    return value


def _step_of(line: str) -> float:
    """Step of a record; a line that is no record is after every step."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
