"""Ours beside stock torchvision, in turns on the same work: loading, training, prediction, scoring, start-up.

Both sides are checked to do the same before anything is timed. Where they do not, the tool says so, shows what it had
measured before, and ends with status 1.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detection.command_line import parse_over_checkpoint, run_tool

if TYPE_CHECKING:
    from detection.benchmark.case import Case
    from detection.benchmark.report import Measured

STAGES = ("loader", "train", "predict", "score", "startup", "eval", "growth")
BATCHES = {"loader": 8, "train": 2}
"""Images of a batch where none are asked for; otherwise 1."""
ARGUMENTS = {
    "--stage": {
        "choices": [*STAGES, "all"],
        "metavar": f"{{{','.join(STAGES)},all}}",
        "default": "all",
        "help": "What is measured; eval: the whole of eval_det.py; growth: 100,000 images against 10,000",
    },
    "--head": {
        "choices": ["c4", "fpn", "fc"],
        "metavar": "{c4,fpn,fc}",
        "help": "Region head; without it fc for a VGG and c4 for a ResNet",
    },
    "--batch_size": {
        "type": int,
        "metavar": "N",
        "help": "Images of a batch; without it 8 to load, 2 to train, else 1",
    },
    "--size": {"default": "600x800", "metavar": "HxW", "help": "Rows and columns of the images"},
    "--rounds": {"type": int, "default": 7, "metavar": "N", "help": "Turns of each side"},
    "--pictures": {"metavar": "FOLDER", "help": "loader: JPEGs to load; without it some are drawn"},
    "--json": {"metavar": "FILE", "help": "Write every number"},
    "--profile": {"metavar": "FOLDER", "help": "Write traces of train and predict, for ui.perfetto.dev"},
}
GROUPS = ("backbone", "device", "seed", "compile", "train.precision", "train.channels_last", "data.workers")


def main(argv: list[str]) -> None:
    """Parse first: torch takes seconds to import."""
    given, settings = parse_over_checkpoint("benchmark.py", __doc__, argv, ARGUMENTS, GROUPS)
    from detection.benchmark.agreement import Disagreement
    from detection.benchmark.case import make_case, size_from

    require_places(given.json, given.profile)
    size, chosen = size_from(given.size), STAGES if given.stage == "all" else (given.stage,)
    measured = []
    try:
        for stage in chosen:
            batch = BATCHES.get(stage, 1) if given.batch_size is None else given.batch_size
            case = make_case(
                settings, given.head, size, batch, given.rounds, pictures=given.pictures, profile=given.profile
            )
            measured.append(measure(stage, case))
    except Disagreement as difference:
        sys.exit(f"benchmark.py: {stage}: the sides do not do the same work: {difference}")
    finally:  # whatever happened, what was measured before is not lost
        if measured:
            leave(measured, given.json, argv, is_complete=len(measured) == len(chosen))


def require_places(json_file: str | None, profile: str | None) -> None:
    """Raises a UserError, before minutes of measuring, when a result could not be written."""
    from detection.errors import UserError
    from detection.files import require_writable

    if json_file and Path(json_file).is_dir():
        raise UserError(f"--json {json_file}: that is a folder; name a file in it")
    for folder in filter(None, (json_file and Path(json_file).parent, profile and Path(profile))):
        require_writable(folder)


def measure(stage: str, case: "Case") -> "Measured":
    """One stage; says at once what was checked."""
    from detection.benchmark.stages import STAGES

    print(f"{stage}: measuring {case}", flush=True)
    measured = STAGES[stage](case)
    for check in measured.checks:
        print(f"  the same on both sides: {check}", flush=True)
    return measured


def leave(measured: "list[Measured]", path: str | None, argv: list[str], is_complete: bool) -> None:
    """Print the tables, and write every number if there is a place for them."""
    show(measured)
    if path:
        write(Path(path), measured, argv, is_complete)


def show(measured: "list[Measured]") -> None:
    """Print the tables: what else was seen in each stage, then all comparisons."""
    from detection.benchmark.report import details_table, table
    from detection.console import Console

    console = Console()
    for part in measured:
        if part.details:
            console.print(details_table(part), "")
    console.print(table([row for part in measured for row in part.rows]))


def write(path: Path, measured: "list[Measured]", argv: list[str], is_complete: bool) -> None:
    """Every number, with the machine, the date, the command, and whether all stages that were asked for are there."""
    from detection.benchmark.report import machine, record
    from detection.files import replacing

    command = shlex.join(["tools/benchmark.py", *argv])
    content = {"command": command, "complete": is_complete, "machine": machine(), **record(measured)}
    with replacing(path) as file:
        file.write_text(json.dumps(content, indent=2) + "\n")
    print(f"{path}: every number")


if __name__ == "__main__":
    run_tool(main)
