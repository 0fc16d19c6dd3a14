"""Reading the next pictures and writing the last ones while the network computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 2
"""Decoding and encoding pictures leave Python to other threads; two keep up with any network."""
AHEAD = 4
"""Items that are begun before their results are asked for; so many are held in memory at most."""


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What `function` gives of each item, in order, computed by other threads.

    `items` are drawn by the thread that asks for the results. What `function` raises arrives in its turn.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        begun = deque()
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
