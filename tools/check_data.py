"""Check a data set before anyone trains on it: data.train and data.val with all their pictures.

Faults end with status 1: unusable pictures, sizes and boxes that cannot be right, sets that share images. Notes and a
summary of classes, boxes and anchors (those of the recipe) do not.
"""

import json
import shlex
import sys
from typing import TYPE_CHECKING

from detection.command_line import parse_for, run_tool

if TYPE_CHECKING:
    from detection.data.examination import Examined

ARGUMENTS = {
    "--json": {"metavar": "FILE", "help": "Write every number, fault and note"},
    "--write_clean": {"metavar": "FILE", "help": "Write a COCO file without what is faulty"},
    "--clean_set": {
        "choices": ["train", "val"],
        "metavar": "{train,val}",
        "default": "train",
        "help": "The set that --write_clean writes; train comes without images that val has too",
    },
}

SHOWN = 50
"""Faults that are listed; the rest is counted, and --json has all."""


def main(argv: list[str]) -> None:
    """Parse first: what reads pictures takes half a second to import."""
    given, config = parse_for("check_data.py", __doc__, argv, ARGUMENTS, ("data", "model.head", "model.rpn"))
    from rich.progress import Progress

    from detection.console import Console
    from detection.data.examination import examine
    from detection.data.tables import tables

    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("reading", total=1.0)
        sets = examine(config, lambda what, share: bar.update(task, description=what, completed=share))
    console = Console()
    for table in tables(sets, config):
        console.print(table, "")
    for line in listing(sets):
        print(line)
    if given.json:
        write_json(given.json, sets)
        print(f"{given.json}: every number, fault and note")
    if given.write_clean:
        print(write_clean(given.write_clean, sets[given.clean_set], given.clean_set))
    is_faulty = any(found.faults for found in sets.values())
    console.print(verdict(sets), style="bold red" if is_faulty else "bold green", highlight=False, soft_wrap=True)
    if is_faulty:
        sys.exit(1)


def listing(sets: "dict[str, Examined]") -> list[str]:
    """A line for each fault, of which there may be too many."""
    lines = [f"  {role}: {fault}" for role, found in sets.items() for fault in found.faults]
    rest = [f"  ... and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return ["Faults", "", *lines[:SHOWN], *rest, ""] if lines else []


def verdict(sets: "dict[str, Examined]") -> str:
    """The one line that somebody in a hurry reads."""
    faults, notes = (sum(len(getattr(found, what)) for found in sets.values()) for what in ("faults", "notes"))
    images, objects = (sum(getattr(found.survey, what) for found in sets.values()) for what in ("images", "objects"))
    found = f"{faults or 'no'} fault{'' if faults == 1 else 's'} and {notes or 'no'} note{'' if notes == 1 else 's'}"
    return f"{found} in {images:,} images with {objects:,} objects"


def write_json(path: str, sets: "dict[str, Examined]") -> None:
    """Everything that was found, with faults as file, object and reason."""
    from detection.files import replacing

    content = {role: found.as_record() for role, found in sets.items()}
    content["faults"] = sum(len(found.faults) for found in sets.values())
    with replacing(path) as file:
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_clean(path: str, found: "Examined", role: str) -> str:
    """Write the COCO file; says how to use it."""
    from detection.data.write_coco import write_coco

    spec = shlex.quote(write_coco(path, found.annotations, found.is_sound))
    count = f"{int(found.is_sound.sum()):,} images without faults"
    return f"{path}: {count}; read it by --data.format coco --data.{role} {spec}"


if __name__ == "__main__":
    run_tool(main)
