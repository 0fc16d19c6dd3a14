"""What is wrong with a data set: file, object, reason; all faults are told together."""

from collections.abc import Sequence
from dataclasses import dataclass

from detection.errors import UserError

SHOWN = 20
"""How many faults a message lists before it only counts."""


@dataclass(frozen=True)
class Fault:
    """One mistake in a data set, written as "VOC2007/Annotations/000017.xml: object 3 (dog): xmax 12 <= xmin 12"."""

    file: str
    """The file, relative to the data root."""
    object: str
    """The object within it, as "object 3 (dog)"; empty when the whole image is unusable."""
    reason: str
    """What is wrong."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.object, self.reason) if part)


def require_clean(faults: Sequence[Fault]) -> None:
    """Stops when there are faults.

    Raises:
        UserError: there is a fault; the message lists the first 20, counts the rest and says how to go on without them.
    """
    if faults:
        fix = "mend the files, or leave out these objects and unusable images with --data.on_error drop"
        first = f"{counted(len(faults), 'fault')} in the annotations; {fix}:"
        raise UserError("\n".join([first, *_listing(faults)]))


def report(faults: Sequence[Fault]) -> list[str]:
    """Lines on what was left out because of faults: a first one with the counts, then as :func:`require_clean`.

    The first is "left out: 2 objects and 0 images". Without faults there are no lines.
    """
    if not faults:
        return []
    objects = len({(fault.file, fault.object) for fault in faults if fault.object})
    images = len({fault.file for fault in faults if not fault.object})
    return [f"left out: {counted(objects, 'object')} and {counted(images, 'image')}", *_listing(faults)]


def _listing(faults: Sequence[Fault]) -> list[str]:
    rest = [f"  ... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return [f"  {fault}" for fault in faults[:SHOWN]] + rest


def counted(number: int, noun: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
