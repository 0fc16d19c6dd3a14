"""Score a file of detections, from any software, on any data set: both protocols, 95 % intervals, kinds of error."""

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.command_line import parse_for, run_tool
from detection.config import Config
from detection.errors import UserError

if TYPE_CHECKING:
    from detection.data.dataset import Annotations
    from detection.evaluation.bootstrap import Intervals
    from detection.evaluation.detections import Detections
    from detection.inspection.results import Judged

ARGUMENTS = {
    "--detections": {
        "required": True,
        "metavar": "PATH",
        "help": "COCO result JSON, or a folder of VOC files comp4_det_<set>_<class>.txt",
    },
    "--versus": {"default": "", "metavar": "PATH", "help": "Another result on the same set, to compare with"},
    "--json": {"default": "", "metavar": "FILE", "help": "Write every number there, unrounded, with its protocol"},
    "--archive": {
        "default": "",
        "metavar": "FOLDER",
        "help": "Write there what the evaluation servers take; only then may the set be without annotations",
    },
}
GROUPS = (
    *("data.format", "data.root", "data.train", "data.val", "data.classes", "data.on_error"),
    *("metric", "output", "seed"),
)


def main(argv: list[str]) -> None:
    """Read, score, print; then write what was asked for."""
    given, config = parse_for("score_det.py", __doc__, argv, ARGUMENTS, GROUPS)
    from detection.evaluation.names import result_names
    from detection.evaluation.result_files import read_detections, write_server_archive
    from detection.files import require_writable, write_json

    for place in filter(None, [config.output, given.archive, str(Path(given.json).parent)]):
        require_writable(Path(place))
    annotations = read_set(config)
    paths = [given.detections, *filter(None, [given.versus])]
    results = [read_detections(path, annotations) for path in paths]
    if given.archive:
        archive = write_server_archive(given.archive, results[0], annotations, config.data)
        print(f"for the evaluation server: {archive}")
    if annotations.annotated:
        record = score_all(dict(zip(result_names(paths), results, strict=True)), annotations, config)
        if given.json:
            write_json(Path(given.json), {"protocol": protocol(annotations, config), **record})
            print(f"every number, unrounded, is in {given.json}")
    elif not given.archive:
        raise UserError(f"--data.val {config.data.val}: has no annotations to score against; --archive FOLDER packs it")


def read_set(config: Config) -> "Annotations":
    """The set `data.val`, for which no picture is needed; says what was left out because of faults."""
    from detection.data import read_annotations
    from detection.data.checks import report

    annotations = read_annotations(config.data, config.data.val, pictures=False)
    for line in report(annotations.dropped):
        print(line)
    return annotations


def score_all(results: "dict[str, Detections]", annotations: "Annotations", config: Config) -> dict[str, Any]:
    """Scores, errors and intervals of one result or two, by name: printed, drawn, and returned for ``--json``."""
    from detection.console import Console
    from detection.evaluation.tables import interval_table
    from detection.inspection.results import Judged, intervals_of

    record: dict[str, Any] = {"results": []}
    for number, (name, detections) in enumerate(results.items()):
        judged = Judged.of(detections, annotations, config)
        record["results"].append({"name": name} | show(judged, annotations, name if len(results) > 1 else ""))
        if config.output:
            draw(Path(config.output) / ("plots", "plots_versus")[number], judged, annotations)
    if config.metric.bootstrap or len(results) > 1:
        intervals = intervals_of(list(results.values()), annotations, config)
        Console().print(interval_table(intervals, *results))
        record |= interval_record(intervals)
    return record


def show(judged: "Judged", annotations: "Annotations", name: str) -> dict[str, Any]:
    """Print one result under its name; returns every number of it."""
    from detection.console import Console
    from detection.evaluation.diagnostics import diagnose
    from detection.evaluation.tables import diagnostic_tables

    console, names = Console(), annotations.class_names
    diagnostics = diagnose(judged.detections, annotations)
    if name:
        console.rule(name)
    for table in (*judged.tables(names), *diagnostic_tables(diagnostics, names)):
        console.print(table)
    return {
        "detections": len(judged.detections),
        "scores": judged.scores.record(()),
        "classes": judged.scores.classes(names),
        "errors at IoU 0.5": {
            kind: {"count": cost.count, "COCO AP50 gained": cost.ap50} for kind, cost in judged.costs.items()
        },
        **diagnostics.record(names),
    }


def draw(folder: Path, judged: "Judged", annotations: "Annotations") -> None:
    """The plots of errors, confusion, precision and recall."""
    from detection.inspection.plots import write_plots

    stems = write_plots(folder, judged.detections, annotations, judged.errors, judged.costs)
    print(f"{', '.join(stems)} are in {folder}, each as PNG and SVG")


def interval_record(intervals: "Intervals") -> dict[str, Any]:
    """The intervals for ``--json``; those of a comparison only where there is one."""
    parts = {"intervals": intervals.scores, "intervals of versus": intervals.versus, "difference": intervals.difference}
    return {
        name: {number: dataclasses.asdict(interval) for number, interval in part.items()}
        for name, part in parts.items()
        if part
    }


def protocol(annotations: "Annotations", config: Config) -> dict[str, Any]:
    """What the numbers were measured on, and how."""
    data, metric = config.data, config.metric
    interval = "2.5 and 97.5 % of resampled images, moved so that they are centred on the score"
    return {
        "data": {"format": data.format, "root": data.root, "set": data.val},
        "images": len(annotations),
        "objects": int((~annotations.ignore).sum()),
        "difficult or crowd": int(annotations.ignore.sum()),
        "PASCAL VOC": dataclasses.asdict(metric.voc),
        "COCO": {"engine": metric.coco_engine, "version": version(metric.coco_engine)},
        "bootstrap": {"resamples": metric.bootstrap, "seed": config.seed, "interval": interval},
    }


if __name__ == "__main__":
    run_tool(main)
