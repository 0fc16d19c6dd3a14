"""Score a file of detections, from any software, on any data set: both protocols, 95 % intervals, kinds of error."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from detection.command_line import parse_for, run_tool
from detection.config import Config
from detection.errors import UserError

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


class Judged(NamedTuple):
    """All that is known about one result; `record` is what ``--json`` holds of it."""

    scores: Any
    costs: Any
    record: dict[str, Any]


def main(argv: list[str]) -> None:
    """Read, score, print; then write what was asked for."""
    given, config = parse_for("score_det.py", __doc__, argv, ARGUMENTS, GROUPS)
    from detection.evaluation.result_files import read_detections

    annotations = read_set(config)
    paths = [path for path in (given.detections, given.versus) if path]
    results = [read_detections(path, annotations) for path in paths]
    if given.archive:
        write_archive(Path(given.archive), results[0], annotations, config)
    if annotations.annotated:
        score_all(paths, results, annotations, config, given.json)
    elif not given.archive:
        raise UserError(f"--data.val {config.data.val}: has no annotations to score against; --archive FOLDER packs it")


def read_set(config: Config) -> Any:
    """The set `data.val`; says what was left out because of faults."""
    from detection.data import read_annotations
    from detection.data.checks import report

    annotations = read_annotations(config.data, config.data.val)
    for line in report(annotations.dropped):
        print(line)
    return annotations


def write_archive(folder: Path, detections: Any, annotations: Any, config: Config) -> None:
    """The file for the evaluation server, read back and compared."""
    from detection.evaluation.result_files import write_server_archive

    print(f"for the evaluation server: {write_server_archive(folder, detections, annotations, config.data)}")


def score_all(paths: list[str], results: list[Any], annotations: Any, config: Config, json_path: str) -> None:
    """Scores, intervals and errors of one result or two: printed, and written where asked."""
    from rich.console import Console

    from detection.evaluation.tables import error_table, interval_table

    judged = [judge(path, found, annotations, config) for path, found in zip(paths, results, strict=True)]
    console, first = Console(), judged[0]
    for table in (*first.scores.tables(annotations.class_names), error_table(first.costs)):
        console.print(table)
    record = {"protocol": protocol(annotations, config), "results": [one.record for one in judged]}
    if config.metric.bootstrap:
        intervals = bootstrapped(results, annotations, config)
        console.print(interval_table(intervals, *(paths if len(paths) > 1 else ("value",))))
        record["intervals"] = dataclasses.asdict(intervals)
    if json_path:
        write_json(Path(json_path), record)
    if config.output:
        draw(Path(config.output) / "plots", results[0], annotations)


def judge(path: str, detections: Any, annotations: Any, config: Config) -> Judged:
    """Both protocols' scores, and what each kind of error costs."""
    from detection.evaluation.costs import error_costs
    from detection.evaluation.errors import find_errors
    from detection.evaluation.scores import score

    scores = score(detections, annotations, config.metric)
    costs = error_costs(detections, annotations, find_errors(detections, annotations))
    record = {
        "file": path,
        "detections": len(detections),
        "scores": scores.record(annotations.class_names),
        "errors at IoU 0.5": {kind: dataclasses.asdict(cost) for kind, cost in costs.items()},
    }
    return Judged(scores, costs, record)


def bootstrapped(results: list[Any], annotations: Any, config: Config) -> Any:
    """The 95 % intervals, with a bar while they are computed."""
    from detection.evaluation.bootstrap import bootstrap
    from detection.progress import progress_bar

    first, other = [*results, None][:2]
    with progress_bar("resampling images") as show:
        return bootstrap(first, annotations, config.metric, config.seed, other, show)


def protocol(annotations: Any, config: Config) -> dict[str, Any]:
    """What the numbers were measured on, and how."""
    data, metric = config.data, config.metric
    return {
        "data": {"format": data.format, "root": data.root, "set": data.val},
        "images": len(annotations),
        "objects": int((~annotations.ignore).sum()),
        "difficult or crowd": int(annotations.ignore.sum()),
        "PASCAL VOC": dataclasses.asdict(metric.voc),
        "COCO": {"engine": metric.coco_engine},
        "bootstrap": {"resamples": metric.bootstrap, "seed": config.seed, "interval": "2.5 % to 97.5 %"},
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    """NaN, which JSON does not have, is written as null."""
    from detection.files import replacing

    with replacing(path) as file:
        file.write_text(json.dumps(without_nan(record), indent=2) + "\n", encoding="utf-8")
    print(f"every number, unrounded, is in {path}")


def draw(folder: Path, detections: Any, annotations: Any) -> None:
    """The plots of errors, confusion, precision and recall."""
    from detection.evaluation.errors import find_errors
    from detection.inspection.plots import write_plots

    stems = write_plots(folder, detections, annotations, find_errors(detections, annotations))
    print(f"{', '.join(stems)} are in {folder}, each as PNG and SVG")


def without_nan(value: Any) -> Any:
    """The value with None in place of every NaN inside."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


if __name__ == "__main__":
    run_tool(main)
