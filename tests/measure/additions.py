"""What each addition of the ResNet paper's appendix B gives and costs, as one table (Linux).

``python tests/measure/additions.py RUN --context RUN --members RUN RUN --scales 64 96 128 160 192``: RUN is a
checkpoint or a run folder; the set is that of the run. ``--context`` names a run trained with global context and
otherwise as the first, ``--members`` the runs of an ensemble. Every row is measured in a process of its own; the rows
come round `--rounds` times, so that a machine that grows slower does so for all of them, and each number is the median
over the rounds. A time is the median over the images, after three that warm up; "regions" is what trunk and proposal
network leave of all: pooling, head, NMS, voting. NMS is the run's own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WARM_UP = 3
SCORES = ("COCO AP", "COCO AP50", "VOC area mAP@0.5")
STAGES = ("trunk", "proposals", "regions", "all")
REFINE, FLIP = {"refine": True}, {"flip": True}
RATIOS = (
    ("refine", "regions", "plain", "refinement: region stage, times the plain one", 2.2),
    ("scales", "trunk", "plain", "image pyramid: trunk, times the plain one", 7.0),
    ("context", "all", "plain", "global context: whole prediction, times the plain one", 1.05),
)
"""Row, stage, row to compare with, words, largest value wanted."""


def main() -> None:
    """Measure all rows and print the table, or one row as JSON for the process that asks for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--context", help="a run trained with global context")
    parser.add_argument("--members", nargs="+", help="runs of an ensemble")
    parser.add_argument("--scales", nargs="+", type=int, default=[200, 400, 600, 800, 1000])
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON laid over every run's settings")
    parser.add_argument("--images", type=int, default=0, help="only so many; 0: the whole set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if 0 < given.images <= WARM_UP:
        parser.error(f"--images {given.images}: the first {WARM_UP} only warm up, so give more")
    if given.row:
        print(json.dumps(measure(given.row["runs"], given.row["settings"], given.images)))
        return
    found = defaultdict(list)
    for _ in range(given.rounds):
        for name, row in rows(given).items():
            found[name].append(in_own_process(row, given.images))
    print(table({name: medians(rounds) for name, rounds in found.items()}))


def rows(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The rows of the table: which runs with which settings."""
    vote, low = {"vote_iou": 0.8}, {"vote_iou": 0.5}
    scales = {"scales": given.scales}
    tests: dict[str, dict[str, Any]] = {
        "plain": {},
        "refine": REFINE,
        "refine, vote 0.5": REFINE | low,
        "refine, vote 0.8": REFINE | vote,
        "scales": scales,
        "flip": FLIP,
        "refine, vote 0.8, scales": REFINE | vote | scales,
    }
    made = {name: {"runs": [given.run], "test": test} for name, test in tests.items()}
    if given.context:
        made["context"] = {"runs": [given.context], "test": {}}
        made["context, refine, vote 0.8, scales"] = {"runs": [given.context], "test": REFINE | vote | scales}
    for number, member in enumerate(given.members or (), 1):
        made[f"member {number}"] = {"runs": [member], "test": {}}
        made[f"member {number}, refine"] = {"runs": [member], "test": REFINE}
        made[f"member {number}, refine, vote 0.5"] = {"runs": [member], "test": REFINE | low}
        made[f"member {number}, refine, vote 0.8"] = {"runs": [member], "test": REFINE | vote}
    if given.members:
        made["ensemble"] = {"runs": given.members, "test": {}}
        made["ensemble, refine, vote 0.8"] = {"runs": given.members, "test": REFINE | vote}
    settings = given.settings
    return {name: {"runs": row["runs"], "settings": settings | {"test": row["test"]}} for name, row in made.items()}


def in_own_process(row: dict[str, Any], images: int) -> dict[str, float]:
    """The numbers of one row, measured where nothing else was before."""
    words = [sys.executable, __file__, row["runs"][0], "--row", json.dumps(row), "--images", str(images)]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(runs: list[str], settings: dict[str, Any], images: int) -> dict[str, float]:
    """Scores, seconds of each stage for an image, and MB held while predicting."""
    import dataclasses

    import numpy as np
    import torch

    from detection.data import read_annotations
    from detection.data.loader import scoring_loader
    from detection.evaluation.detections import Detections
    from detection.evaluation.scores import score
    from detection.inference.devices import autocast
    from detection.inference.ensemble import detect, sizes_of
    from detection.inference.predictor import load_detector

    predictor = load_detector(runs, settings=settings)
    data = dataclasses.replace(predictor.config.data, classes=predictor.class_names)
    annotations = read_annotations(data, data.val)
    batches = scoring_loader(annotations, sizes_of(predictor.members), batch_size=1, workers=0)
    clock, parts, seconds = Clock(predictor.device), [], defaultdict(list)
    for member in predictor.members:
        clock.watch(member.detector.backbone, "trunk")
        clock.watch(member.detector.rpn, "proposals")
    reset_peak(predictor.device)
    for number, at_sizes in enumerate(batches):
        if images and number == images:
            break
        at_sizes = {size: batch.to(predictor.device) for size, batch in at_sizes.items()}
        with torch.inference_mode(), autocast(predictor.device, predictor.dtype), clock.time("all"):
            (found,) = detect(predictor.members, at_sizes)
        spent = clock.take()
        spent["regions"] = spent["all"] - spent["trunk"] - spent["proposals"]
        for stage in STAGES if number >= WARM_UP else ():
            seconds[stage].append(spent[stage])
        index = next(iter(at_sizes.values())).image_indices.item()
        found = {name: values.float().cpu().numpy() for name, values in found.items()}
        labels = found["labels"].astype(np.int64)
        parts.append(Detections(np.full(len(labels), index), labels, found["scores"], found["boxes"]))
    peak = peak_megabytes(predictor.device)
    headline = {} if images else score(Detections.concatenate(parts), annotations, predictor.config.metric).headline()
    times = {stage: statistics.median(values) for stage, values in seconds.items()}
    return {**{name: headline[name] for name in SCORES if name in headline}, **times, "MB": peak}


class Clock:
    """Seconds spent in parts of a program; on a GPU after everything asked of it is done."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.spent: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds what happens inside to `name`."""
        start = self.now()
        yield
        self.spent[name] += self.now() - start

    def watch(self, module: Any, name: str) -> None:
        """Adds every call of `module` to `name`."""
        starts: list[float] = []
        module.register_forward_pre_hook(lambda *_: starts.append(self.now()))
        module.register_forward_hook(lambda *_: self._add(name, starts.pop()))

    def _add(self, name: str, start: float) -> None:
        self.spent[name] += self.now() - start

    def take(self) -> dict[str, float]:
        """What was spent since the last time."""
        spent, self.spent = self.spent, defaultdict(float)
        return spent


def reset_peak(device: Any) -> None:
    """Begin anew with the highest memory use (Linux, or the GPU)."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes(device: Any) -> float:
    """Memory of the process at its highest since :func:`reset_peak`; on a GPU what tensors take there."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return peak * 1024 / 1e6


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each number over the rounds."""
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: a line for each row, then the ratios that are wanted small."""
    columns: dict[str, Callable[[float], str]] = {name: lambda share: f"{100 * share:.1f}" for name in SCORES}
    columns |= {stage: lambda seconds: f"{1000 * seconds:.0f} ms" for stage in STAGES}
    columns["MB"] = lambda megabytes: f"{megabytes:.0f}"
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | " + " | ".join(f(row[c]) if c in row else "-" for c, f in columns.items()) + " |")
    for row, stage, base, words, wanted in RATIOS:
        if row in found:
            lines.append(f"{words}: {found[row][stage] / found[base][stage]:.3f} (wanted: at most {wanted:g})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
