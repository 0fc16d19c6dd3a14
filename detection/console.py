"""The terminal: what tools print there, and how far something long is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
from rich.progress import Progress


class Console(rich.console.Console):
    """rich's console, which for a pipe whose reader has gone would end the program with a status of its own."""

    def on_broken_pipe(self) -> None:
        """Leaves it to `run_tool`, which knows the status that shells expect."""
        raise BrokenPipeError


@contextmanager
def progress_bar(name: str, is_shown: bool = True) -> Iterator[Callable[[float], None]]:
    """Gives a function that takes the share done, in [0, 1], and moves a bar; the bar goes when the block ends.

    In files and pipes nothing is shown.
    """
    with Progress(transient=True, disable=not (is_shown and sys.stdout.isatty())) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda share: bar.update(task, completed=share)
