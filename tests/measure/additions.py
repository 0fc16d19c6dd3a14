"""What each addition of the ResNet paper's appendix B gives and costs, as one table (Linux).

``python tests/measure/additions.py RUN --context RUN --members RUN RUN --scales 64 96 128 160 192``: RUN is a
checkpoint or a run folder; the set is that of the run. ``--context`` names a run trained with global context and
otherwise as the first, ``--members`` the runs of an ensemble. Every row is measured in a process of its own. A time is
the median over the images, after three that warm up; "regions" is what trunk and proposal network leave of all:
pooling, head, NMS, voting. NMS is the run's own. Below the table three ratios, each measured image by image in turns.
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
    ("refine", "regions", "refinement: region stage, times the plain one", 2.2),
    ("scales", "trunk", "image pyramid: trunk, times the plain one", 7.0),
    ("context", "all", "global context: whole prediction, times the plain one", 1.05),
)
"""Row, stage, words, largest value wanted of its time over that of the plain row."""


def main() -> None:
    """Measure all rows and print the table, or one row as JSON for the process that asks for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--context", help="a run trained with global context")
    parser.add_argument("--members", nargs="+", help="runs of an ensemble")
    parser.add_argument("--scales", nargs="+", type=int, default=[200, 400, 600, 800, 1000])
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON laid over every run's settings")
    parser.add_argument("--images", type=int, default=0, help="only so many; 0: the whole set")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if 0 < given.images <= WARM_UP:
        parser.error(f"--images {given.images}: the first {WARM_UP} only warm up, so give more")
    if given.row:
        row, base = given.row
        print(json.dumps(compare(row, base, given.images) if base else measure(**row, images=given.images)))
        return
    made = rows(given)
    found = {name: in_own_process(row, None, given.images) for name, row in made.items()}
    print(table(found))
    for name, stage, words, wanted in RATIOS:
        if name in made:
            ratio = in_own_process(made[name], made["plain"], given.images)[stage]
            print(f"{words}: {ratio:.3f} (wanted: at most {wanted:g})")


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


def in_own_process(row: dict[str, Any], base: dict[str, Any] | None, images: int) -> dict[str, float]:
    """The numbers of one row, or of one against another, measured where nothing else was before."""
    words = [sys.executable, __file__, row["runs"][0], "--row", json.dumps([row, base]), "--images", str(images)]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(runs: list[str], settings: dict[str, Any], images: int) -> dict[str, float]:
    """Scores, seconds of each stage for an image, and MB held while predicting."""
    import numpy as np

    from detection.evaluation.detections import Detections
    from detection.evaluation.scores import score

    subject = Subject(runs, settings)
    parts, seconds = [], defaultdict(list)
    reset_peak(subject.predictor.device)
    for number, at_sizes in enumerate(subject.batches(images)):
        found, spent = subject.run(at_sizes)
        for stage in STAGES if number >= WARM_UP else ():
            seconds[stage].append(spent[stage])
        index = next(iter(at_sizes.values())).image_indices.item()
        found = {name: values.float().cpu().numpy() for name, values in found.items()}
        labels = found["labels"].astype(np.int64)
        parts.append(Detections(np.full(len(labels), index), labels, found["scores"], found["boxes"]))
    peak, metric = peak_megabytes(subject.predictor.device), subject.predictor.config.metric
    headline = {} if images else score(Detections.concatenate(parts), subject.annotations, metric).headline()
    times = {stage: statistics.median(values) for stage, values in seconds.items()}
    return {**{name: headline[name] for name in SCORES if name in headline}, **times, "MB": peak}


def compare(row: dict[str, Any], base: dict[str, Any], images: int) -> dict[str, float]:
    """How many times as long each stage takes in `row` as in `base`: the median over images seen by both in turn.

    A machine whose speed drifts does so for both.
    """
    subjects = [Subject(each["runs"], each["settings"]) for each in (base, row)]
    ratios = defaultdict(list)
    for number, both in enumerate(zip(*(subject.batches(images) for subject in subjects), strict=True)):
        spent = [subject.run(at_sizes)[1] for subject, at_sizes in zip(subjects, both, strict=True)]
        for stage in STAGES if number >= WARM_UP else ():
            ratios[stage].append(spent[1][stage] / spent[0][stage])
    return {stage: statistics.median(values) for stage, values in ratios.items()}


class Subject:
    """Detectors with a watch on their parts, and the images they are shown."""

    def __init__(self, runs: list[str], settings: dict[str, Any]) -> None:
        import dataclasses

        from detection.data import read_annotations
        from detection.inference.predictor import load_detector

        self.predictor = load_detector(runs, settings=settings)
        data = dataclasses.replace(self.predictor.config.data, classes=self.predictor.class_names)
        self.annotations = read_annotations(data, data.val)
        self.clock = Clock(self.predictor.device)
        for member in self.predictor.members:
            self.clock.watch(member.detector.backbone, "trunk")
            self.clock.watch(member.detector.rpn, "proposals")

    def batches(self, images: int) -> Iterator[Any]:
        """The first `images` (0: all), one by one, at every size that is wanted."""
        from itertools import islice

        from detection.data.loader import scoring_loader
        from detection.inference.ensemble import sizes_of

        loader = scoring_loader(self.annotations, sizes_of(self.predictor.members), batch_size=1, workers=0)
        for at_sizes in islice(loader, images or None):
            yield {size: batch.to(self.predictor.device) for size, batch in at_sizes.items()}

    def run(self, at_sizes: Any) -> tuple[dict[str, Any], dict[str, float]]:
        """What is found in an image, and the seconds of each stage."""
        import torch

        from detection.inference.devices import autocast
        from detection.inference.ensemble import detect

        device, dtype = self.predictor.device, self.predictor.dtype
        with torch.inference_mode(), autocast(device, dtype), self.clock.time("all"):
            (found,) = detect(self.predictor.members, at_sizes)
        spent = self.clock.take()
        return found, {**spent, "regions": spent["all"] - spent["trunk"] - spent["proposals"]}


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


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: a line for each row."""
    columns: dict[str, Callable[[float], str]] = {name: lambda share: f"{100 * share:.1f}" for name in SCORES}
    columns |= {stage: lambda seconds: f"{1000 * seconds:.0f} ms" for stage in STAGES}
    columns["MB"] = lambda megabytes: f"{megabytes:.0f}"
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | " + " | ".join(f(row[c]) if c in row else "-" for c, f in columns.items()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
