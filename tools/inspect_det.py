"""Show where a detector fails: a folder with a page of pictures, worst first, to open from the disk or send on."""

from pathlib import Path
from typing import Any

from detection.command_line import parse_for, parse_over_checkpoint, run_tool
from detection.errors import UserError

ARGUMENTS = {
    "--detections": {
        "default": "",
        "metavar": "PATH",
        "help": "COCO result JSON, or a folder of VOC files comp4_det_<set>_<class>.txt",
    },
    "--checkpoint": {"default": "", "metavar": "FILE", "help": "A trained detector to predict with, instead of a file"},
    "--versus": {"default": "", "metavar": "PATH", "help": "Another file of detections, to show beside the first"},
    "--images": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "Show the N worst pictures only; 0: all of them",
    },
}
READING = ("data.format", "data.root", "data.train", "data.val", "data.classes", "data.on_error")
GROUPS = (*READING, "metric", "output", "seed")
"""Settings for detections from a file; with a checkpoint those of its run are taken over and can be changed too."""


def main(argv: list[str]) -> None:
    """Detections and annotations from a file or a detector, then the page."""
    given, settings = parse_over_checkpoint("inspect_det.py", __doc__, argv, ARGUMENTS)
    if bool(given.detections) == bool(given.checkpoint):
        raise UserError("give either --detections PATH or --checkpoint FILE")
    if given.images < 0:
        raise UserError(f"--images {given.images}: give a number of pictures, or 0 for all")
    if given.checkpoint:
        from detection.inference.on_set import predict_set

        annotations, detections, config = predict_set(given.checkpoint, settings)
    else:
        annotations, detections, config = read(given.detections, argv)
    inspect(annotations, detections, config, given)


def read(path: str, argv: list[str]) -> tuple[Any, Any, Any]:
    """The set `data.val` and the detections in a file about it."""
    from detection.data import read_annotations
    from detection.data.checks import report
    from detection.evaluation.result_files import read_detections

    _, config = parse_for("inspect_det.py", __doc__, argv, ARGUMENTS, GROUPS)
    annotations = read_annotations(config.data, config.data.val)
    for line in report(annotations.dropped):
        print(line)
    return annotations, read_detections(path, annotations), config


def inspect(annotations: Any, detections: Any, config: Any, given: Any) -> None:
    """Score one result or two, and write the page."""
    from detection.evaluation.result_files import read_detections
    from detection.evaluation.scores import score
    from detection.files import unused
    from detection.inspection.report import Reported, write_report
    from detection.progress import progress_bar

    if not annotations.annotated:
        raise UserError(f"--data.val {config.data.val}: has no annotations to compare with; predict_det.py draws boxes")
    other = read_detections(given.versus, annotations) if given.versus else None
    intervals, versus_intervals, difference = bootstrapped(detections, other, annotations, config)
    first = Reported(
        short(given.detections or given.checkpoint),
        detections,
        score(detections, annotations, config.metric),
        intervals,
    )
    versus = other and Reported(short(given.versus), other, score(other, annotations, config.metric), versus_intervals)
    folder = Path(config.output or unused(Path("runs") / "report"))
    with progress_bar("copying pictures") as show:
        page = write_report(
            folder, annotations, first, versus, difference=difference, images=given.images, progress=show
        )
    print(f"open {page} in a browser; the folder can be sent on as it is")


def short(path: str) -> str:
    """What a result is called in the report: the last two names of its path, as `voc07/detections.json`."""
    return str(Path(*Path(path).parts[-2:]))


def bootstrapped(detections: Any, other: Any, annotations: Any, config: Any) -> tuple[Any, Any, Any]:
    """Intervals of the first result, of the other, and of their difference; nothing when none are asked for."""
    from detection.evaluation.bootstrap import Intervals, bootstrap
    from detection.progress import progress_bar

    if not config.metric.bootstrap:
        return None, None, {}
    with progress_bar("resampling images") as show:
        found = bootstrap(detections, annotations, config.metric, config.seed, other, show)
    return found, Intervals(found.versus, {}, {}), found.difference


if __name__ == "__main__":
    run_tool(main)
