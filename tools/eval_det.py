"""Score a trained detector on the set data.val (or another, with --data.*) and draw what it finds."""

import json
from pathlib import Path
from typing import Any

from detection.command_line import parse_over_checkpoint, run_tool

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
    import dataclasses
    import sys

    from rich.progress import Progress

    from detection import checkpoint, distributed, load_detector
    from detection.data import read_annotations
    from detection.data.checks import report as report_faults
    from detection.files import unused
    from detection.inspection.results import write_results

    predictor = load_detector(path, settings.pop("device", "auto"), settings)
    data = dataclasses.replace(predictor.config.data, classes=predictor.class_names)
    annotations = read_annotations(data, data.val)
    for line in report_faults(annotations.dropped) if distributed.is_main() else ():
        print(line)
    is_shown = distributed.is_main() and sys.stdout.isatty()
    with Progress(transient=True, disable=not is_shown) as bar:
        task = bar.add_task("predicting", total=1.0)
        detections = predictor.predict(annotations, lambda share: bar.update(task, completed=share))
    if not distributed.is_main():
        return
    folder = Path(settings.get("output") or unused(checkpoint.resolve(path).parent / "eval"))
    report(write_results(folder, detections, annotations, data.val), annotations.class_names, folder)


def report(scores: Any, class_names: tuple[str, ...], folder: Path) -> None:
    """Print the table and keep its numbers, unrounded, in ``metrics.json``."""
    from rich.console import Console

    from detection.evaluation.tables import voc_table
    from detection.evaluation.voc import as_record
    from detection.files import replacing

    if scores is None:
        print(f"the set has no annotations: detections are in {folder}, in the devkit's form in {folder / 'results'}")
        return
    Console().print(voc_table(scores, class_names))
    with replacing(folder / "metrics.json") as file:
        file.write_text(json.dumps(as_record(scores, class_names), indent=2) + "\n")
    print(f"detections.json, predictions.png and metrics.json are in {folder}")


if __name__ == "__main__":
    run_tool(main)
