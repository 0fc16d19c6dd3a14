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
    if not faults:
        return
    lines = [f"  {fault}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"  ... and {len(faults) - SHOWN} more")
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    fix = "mend the files, or leave out these objects and unusable images with --data.on_error drop"
    raise UserError("\n".join([f"{count} in the annotations; {fix}:", *lines]))


def summary(faults: Sequence[Fault]) -> str:
    """What was left out because of faults, as "2 objects and 0 images left out"."""
    objects = len({(fault.file, fault.object) for fault in faults if fault.object})
    images = len({fault.file for fault in faults if not fault.object})
    return f"{_counted(objects, 'object')} and {_counted(images, 'image')} left out"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
