"""How far something long is, on a terminal; silent in files and pipes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress


@contextmanager
def progress_bar(name: str, is_shown: bool = True) -> Iterator[Callable[[float], None]]:
    """Gives a function that takes the share done, in [0, 1], and moves a bar; the bar goes when the block ends."""
    with Progress(transient=True, disable=not (is_shown and sys.stdout.isatty())) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda share: bar.update(task, completed=share)
