"""Score a trained detector on the set data.val (or another, with --data.*), show its errors and what it finds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.command_line import parse_over_checkpoint, run_tool

if TYPE_CHECKING:
    from detection.data.dataset import Annotations
    from detection.evaluation.detections import Detections
    from detection.evaluation.scores import Scores
    from detection.inspection.results import Results

ARGUMENTS = {
    "--checkpoint": {"required": True, "metavar": "FILE", "help": "best.pt or last.pt of a run, or its folder"},
}


def main(argv: list[str]) -> None:
    """Parse first: torch takes seconds to import."""
    given, settings = parse_over_checkpoint("eval_det.py", __doc__, argv, ARGUMENTS)
    from detection import distributed
    from detection.inference.devices import choose_device

    distributed.init_from_environment(choose_device(settings.get("device", "auto")))
    try:
        evaluate(given.checkpoint, settings)
    finally:
        distributed.shutdown()


def evaluate(path: str, settings: dict[str, Any]) -> None:
    """Predict on all processes; score, write and print on the main one."""
    from detection import checkpoint, distributed
    from detection.files import unused
    from detection.inference.on_set import predict_set
    from detection.inspection.results import write_results

    annotations, detections, config = predict_set(path, settings)
    if not distributed.is_main():
        return
    folder = Path(settings.get("output") or unused(checkpoint.resolve(path).parent / "eval"))
    results = write_results(folder, detections, annotations, config)
    files = results.files
    if results.scores:
        show(results, annotations.class_names)
        files += keep(results.scores, folder, detections, annotations)
    print(f"{', '.join(files)} are in {folder}")


def show(results: "Results", class_names: tuple[str, ...]) -> None:
    """Print the tables, and the means once more in one line."""
    from rich.console import Console

    for table in results.tables(class_names):
        Console().print(table)
    print(results.headline())


def keep(scores: "Scores", folder: Path, detections: "Detections", annotations: "Annotations") -> tuple[str, ...]:
    """Write every number, unrounded, and the plots; returns what was written."""
    from detection.evaluation.errors import find_errors
    from detection.files import replacing
    from detection.inspection.plots import write_plots

    with replacing(folder / "metrics.json") as file:
        file.write_text(json.dumps(scores.record(annotations.class_names), indent=2) + "\n")
    write_plots(folder / "plots", detections, annotations, find_errors(detections, annotations))
    return "metrics.json", "plots"


if __name__ == "__main__":
    run_tool(main)
