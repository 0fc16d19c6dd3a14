"""Show where a detector fails: a folder with a page of pictures, worst first, to open from the disk or send on."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.command_line import parse_over_checkpoint, run_tool
from detection.config import Config, from_dict
from detection.errors import UserError
from detection.finalize import check

if TYPE_CHECKING:
    from detection.data.dataset import Annotations
    from detection.evaluation.bootstrap import Interval
    from detection.evaluation.detections import Detections
    from detection.inspection.report import Reported

ARGUMENTS = {
    "--detections": {
        "default": "",
        "metavar": "PATH",
        "help": "COCO result JSON, or a folder of VOC files comp4_det_<set>_<class>.txt",
    },
    "--checkpoint": {
        "nargs": "+",
        "action": "extend",
        "default": [],
        "metavar": "FILE",
        "help": "A trained detector to predict with, instead of a file; several are an ensemble",
    },
    "--versus": {"default": "", "metavar": "PATH", "help": "Another file of detections, to show beside the first"},
    "--images": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "Show the N worst pictures only; 0: all of them",
    },
}
GROUPS = ("data", "metric", "test", "device", "output", "seed")


def main(argv: list[str]) -> None:
    """Detections and annotations from a file or a detector, then the page."""
    given, settings = parse_over_checkpoint("inspect_det.py", __doc__, argv, ARGUMENTS, GROUPS)
    if bool(given.detections) == bool(given.checkpoint):
        raise UserError("give either --detections PATH or --checkpoint FILE")
    if given.images < 0:
        raise UserError(f"--images {given.images}: give a number of pictures, or 0 for all")
    folder = target(settings.get("output"))
    collect = predicted if given.checkpoint else read
    annotations, detections, config = collect(given, settings)
    if not annotations.annotated:
        raise UserError(f"--data.val {config.data.val}: has no annotations to compare with; predict_det.py draws boxes")
    page = inspect(annotations, detections, config, given, folder)
    print(f"open {page} in a browser; the folder can be sent on as it is")


def target(output: str | None) -> Path:
    """The folder for the report: new, empty, or that of an earlier report.

    Raises:
        UserError: it holds something else, or cannot be written to.
    """
    from detection.files import require_writable, unused

    folder = Path(output or unused(Path("runs") / "report"))
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "data.js").is_file():
        raise UserError(f"--output {folder}: holds something other than a report; name a new folder")
    return require_writable(folder)


def predicted(given: Namespace, settings: dict[str, Any]) -> "tuple[Annotations, Detections, Config]":
    """What a detector finds in the set `data.val`."""
    from detection.inference.on_set import predict_set

    return predict_set(given.checkpoint, settings)


def read(given: Namespace, settings: dict[str, Any]) -> "tuple[Annotations, Detections, Config]":
    """The set `data.val` and the detections in a file about it."""
    from detection.data import read_annotations
    from detection.data.checks import report
    from detection.evaluation.result_files import read_detections

    config = from_dict(settings)
    check(config)
    annotations = read_annotations(config.data, config.data.val)
    for line in report(annotations.dropped):
        print(line)
    return annotations, read_detections(given.detections, annotations), config


def inspect(
    annotations: "Annotations", detections: "Detections", config: Config, given: Namespace, folder: Path
) -> Path:
    """Score one result or two, and write the page."""
    from detection.console import progress_bar
    from detection.evaluation.names import result_names
    from detection.evaluation.result_files import read_detections
    from detection.inspection.report import write_report

    paths = [given.detections or given.checkpoint[0], *filter(None, [given.versus])]
    results = [detections, *(read_detections(path, annotations) for path in paths[1:])]
    names = result_names(paths)
    if len(given.checkpoint) > 1:
        names[0] = f"ensemble of {', '.join(result_names(given.checkpoint))}"
    sides, difference = reported(dict(zip(names, results, strict=True)), annotations, config)
    with progress_bar("copying pictures") as show:
        return write_report(folder, annotations, *sides, difference=difference, images=given.images, progress=show)


def reported(
    results: "dict[str, Detections]", annotations: "Annotations", config: Config
) -> "tuple[list[Reported], dict[str, Interval]]":
    """One result or two with scores and intervals, by name, and the intervals of their difference."""
    from detection.evaluation.bootstrap import Intervals
    from detection.inspection.report import Reported
    from detection.inspection.results import Judged, intervals_of

    found = intervals_of(list(results.values()), annotations, config) if config.metric.bootstrap else None
    shown = [found, Intervals(found.versus, {}, {})] if found else [None, None]
    sides = [
        Reported(name, Judged.of(detections, annotations, config), intervals)
        for (name, detections), intervals in zip(results.items(), shown, strict=False)
    ]
    return sides, found.difference if found else {}


if __name__ == "__main__":
    run_tool(main)
