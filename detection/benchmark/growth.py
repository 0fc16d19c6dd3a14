"""How the cost of a data set grows: seconds an image of reading, checking and scoring, for many images and for few."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from detection.benchmark.case import Case
from detection.benchmark.report import Measured, Row
from detection.benchmark.synthetic import write_coco
from detection.benchmark.timing import Timing
from detection.config import Config, DataSettings
from detection.data import read_annotations
from detection.data.overlap import shared_images
from detection.data.survey import survey
from detection.evaluation.result_files import read_detections
from detection.evaluation.scores import score

FEW, MANY = 10_000, 100_000
"""Images of the sets that are compared."""
MOST_ROUNDS = 3
"""Turns of each set: those of the larger one take a minute."""
SET = "val"


def growth_stage(case: Case, few: int = FEW, many: int = MANY) -> Measured:
    """The ratio says how many times as much an image of the larger set costs."""
    seconds: dict[str, dict[str, list[float]]] = {}
    with TemporaryDirectory() as folder:
        roots = {f"{images:,} images": (Path(folder) / str(images), images) for images in (few, many)}
        for root, images in roots.values():
            write_coco(root, images, case.config.seed)
        warm_up, _ = next(iter(roots.values()))
        list(costs(warm_up, case.config))
        for _ in range(min(case.rounds, MOST_ROUNDS)):
            for name, (root, images) in roots.items():
                for step, taken in costs(root, case.config):
                    seconds.setdefault(step, {side: [] for side in roots})[name].append(taken / images)
    rows = [Row("growth", f"{step}, an image", Timing(times), *roots) for step, times in seconds.items()]
    return Measured(rows, [])


def costs(root: Path, config: Config) -> Iterator[tuple[str, float]]:
    """Each step with its seconds, and all of them together."""
    moments = [time.perf_counter()]
    annotations = read_annotations(settings_for(root), SET)
    moments.append(time.perf_counter())
    survey(annotations, config, (config.data.test_min_size, config.data.test_max_size))
    shared_images(annotations, annotations)
    moments.append(time.perf_counter())
    detections = read_detections(root / "detections.json", annotations)
    score(detections, annotations, config.metric)
    moments.append(time.perf_counter())
    for step, start, end in zip(("reading", "checking", "scoring"), moments, moments[1:], strict=False):
        yield step, end - start
    yield "all", moments[-1] - moments[0]


def settings_for(root: Path) -> DataSettings:
    """The set that :func:`~detection.benchmark.synthetic.write_coco` has written."""
    return DataSettings(format="coco", root=str(root), train=SET, val=SET)
