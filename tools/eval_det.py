"""Score a trained detector, or an ensemble, on the set data.val (or another, with --data.*) and show its errors."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from detection.command_line import CHECKPOINTS, parse_over_checkpoint, run_tool

if TYPE_CHECKING:
    from detection.data.dataset import Annotations
    from detection.inspection.results import Judged

GROUPS = ("data", "test", "metric", "device", "compile", "output", "train.precision", "train.channels_last")


def main(argv: list[str]) -> None:
    """Parse first: torch takes seconds to import."""
    given, settings = parse_over_checkpoint("eval_det.py", __doc__, argv, CHECKPOINTS, GROUPS)
    from detection import distributed
    from detection.inference.devices import choose_device

    distributed.init_from_environment(choose_device(settings.get("device", "auto")))
    try:
        evaluate(given.checkpoint, settings)
    finally:
        distributed.shutdown()


def evaluate(paths: list[str], settings: dict[str, Any]) -> None:
    """Predict on all processes; score, write and print on the main one."""
    from detection import checkpoint, distributed
    from detection.files import require_writable, unused
    from detection.inference.on_set import predict_set
    from detection.inspection.results import write_results

    beside = Path("runs") / "ensemble" if len(paths) > 1 else checkpoint.resolve(paths[0]).parent / "eval"
    folder = require_writable(Path(settings.get("output") or unused(beside)))
    annotations, detections, config = predict_set(paths, settings)
    if not distributed.is_main():
        return
    keep_settings(folder, paths, settings)
    judged, files = write_results(folder, detections, annotations, config)
    if judged:
        show(judged, annotations.class_names)
        files += keep(judged, folder, annotations)
    print(f"{', '.join(files)} are in {folder}")


def keep_settings(folder: Path, paths: list[str], settings: dict[str, Any]) -> None:
    """Write what was asked for, so that the scores can be made again: ``config.yaml`` is a recipe for this tool."""
    from detection.files import replacing

    with replacing(folder / "config.yaml") as file:
        file.write_text(f"# eval_det.py --checkpoint {' '.join(paths)}\n{yaml.safe_dump(settings, sort_keys=False)}")


def show(judged: "Judged", class_names: tuple[str, ...]) -> None:
    """Print the tables, and the means once more in one line."""
    from detection.console import Console

    for table in judged.tables(class_names):
        Console().print(table)
    print(judged.headline())


def keep(judged: "Judged", folder: Path, annotations: "Annotations") -> list[str]:
    """Write every score, unrounded, and the plots; returns what was written."""
    from detection.files import replacing
    from detection.inspection.plots import write_plots

    with replacing(folder / "metrics.json") as file:
        file.write_text(json.dumps(judged.scores.record(annotations.class_names), indent=2) + "\n")
    write_plots(folder / "plots", judged.detections, annotations, judged.errors, judged.costs)
    return ["metrics.json", "plots"]


if __name__ == "__main__":
    run_tool(main)
