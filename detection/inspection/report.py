"""The page that shows where a detector fails: a folder with an ``index.html`` that opens from the disk.

The page needs no network and no server, and the folder can be handed on: data and pictures are copied into it. It is
drawn by the plain JavaScript of the folder ``page`` beside this file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.bootstrap import Interval, Intervals
from detection.evaluation.names import voc_protocol
from detection.evaluation.scores import Scores
from detection.files import replacing
from detection.inspection.page_data import (
    SIZES,
    Excerpt,
    Slider,
    errors_of_images,
    kind_names,
    script,
    slider,
)
from detection.inspection.pictures import copy_pictures, remove
from detection.inspection.plots import write_plots
from detection.inspection.results import Judged
from detection.plain import plain

_PAGE = Path(__file__).parent / "page"
_PLOTS = ("plots", "plots_versus")
"""Folders for the plots of each detector."""


@dataclass(frozen=True)
class Reported:
    """A detector in a report."""

    name: str
    judged: Judged
    intervals: Intervals | None
    """Of which `scores` are shown; None: no intervals are shown."""


def write_report(
    folder: Path,
    annotations: Annotations,
    first: Reported,
    versus: Reported | None = None,
    *,
    difference: Mapping[str, Interval] | None = None,
    images: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Writes the report and returns its ``index.html``.

    Args:
        folder: where to write; it is made if necessary, and files of an earlier report are replaced or removed.
        annotations: the data set, with objects.
        first: the detector that is looked at.
        versus: another one to compare it with, side by side.
        difference: the first minus the other, by name of the score; shown where both are.
        images: at most so many pictures, those with the most errors at the sliders' first positions; 0: all.
            Scores, plots and error shares are those of the whole set either way.
        progress: is told the share that is done, in [0, 1].

    Raises:
        UserError: the set has no annotations, or a file cannot be written.
    """
    annotations.require_annotated()
    looked_at = [_LookedAt.of(reported, annotations) for reported in (first, versus) if reported]
    excerpt = Excerpt(annotations, _chosen_images(looked_at, annotations, images))
    missing = copy_pictures(folder, annotations.image_paths[excerpt.images].tolist(), progress)
    plots = [each.plots(folder, annotations, number) for number, each in enumerate(looked_at)]
    report = {
        **_texts(looked_at, annotations, len(excerpt.images)),
        **_scores(looked_at, annotations, difference or {}),
        "plots": [plot for of_one_kind in zip(*plots, strict=True) for plot in of_one_kind],
        "kinds": kind_names(),
        "sizeNames": list(SIZES),
        "pictures": excerpt.pictures(missing),
        "objects": excerpt.objects(),
        "detectors": [each.record(excerpt) for each in looked_at],
    }
    _write(folder / "data.js", script(report).encode("ascii"))
    for source in sorted(_PAGE.iterdir()):
        if source.suffix in (".js", ".css"):
            _write(folder / "page" / source.name, source.read_bytes())
    _write(folder / "index.html", (_PAGE / "index.html").read_bytes())
    if not versus:
        remove(path for kind in ("png", "svg") for path in (folder / _PLOTS[1]).glob(f"*.{kind}"))
    return folder / "index.html"


@dataclass(frozen=True)
class _LookedAt:
    """A detector with its slider."""

    reported: Reported
    slider: Slider

    @classmethod
    def of(cls, reported: Reported, annotations: Annotations) -> "_LookedAt":
        judged = reported.judged
        return cls(reported, slider(judged.detections.scores, judged.errors, annotations))

    @property
    def judged(self) -> Judged:
        return self.reported.judged

    def plots(self, folder: Path, annotations: Annotations, number: int) -> list[dict[str, str]]:
        """Writes the plots; where each lies, and what it is called."""
        stems = write_plots(
            folder / _PLOTS[number],
            self.judged.detections,
            annotations,
            self.judged.errors,
            self.judged.costs,
            score_threshold=self.slider.start,
        )
        shown = [stem for stem in stems if stem != "error_costs"]  # the page has these as bars of its own
        return [
            {"file": f"{_PLOTS[number]}/{stem}.svg", "name": stem.replace("_", " "), "detector": self.reported.name}
            for stem in shown
        ]

    def errors_of_images(self, annotations: Annotations) -> np.ndarray:
        return errors_of_images(self.judged.detections, annotations, self.judged.errors, self.slider.start)

    def record(self, excerpt: Excerpt) -> dict[str, Any]:
        return {
            "name": self.reported.name,
            "range": [self.slider.low, self.slider.high],
            "step": self.slider.step,
            "start": self.slider.start,
            "costs": [
                {"kind": kind, "count": cost.count, "gain": float(cost.ap50)}
                for kind, cost in self.judged.costs.items()
            ],
            "arrays": excerpt.detections(self.judged.detections, self.judged.errors),
        }


def _chosen_images(looked_at: Sequence[_LookedAt], annotations: Annotations, images: int) -> np.ndarray:
    """Ascending indices of the pictures with the most errors, of equals the first; all of them for 0."""
    if not 0 < images < len(annotations):
        return np.arange(len(annotations))
    counts = np.sum([each.errors_of_images(annotations) for each in looked_at], axis=0)
    return np.sort(np.argsort(-counts, kind="stable")[:images])


def _texts(looked_at: Sequence[_LookedAt], annotations: Annotations, shown: int) -> dict[str, Any]:
    names = [each.reported.name for each in looked_at]
    found = [f"{len(each.judged.detections):,} detections" for each in looked_at]
    counts = [f"{len(annotations):,} pictures", f"{len(annotations.boxes):,} objects", " against ".join(found)]
    worst = f"; below are the {shown:,} pictures with the most errors" if shown < len(annotations) else ""
    voc = looked_at[0].judged.scores.voc
    protocol = f"VOC: {voc_protocol(voc.pixels, voc.difficult, voc.iou)}."
    return {
        "title": " versus ".join(names),
        "subtitle": f"{', '.join(counts)}, {len(annotations.class_names):,} classes{worst}",
        "protocol": f"In percent. COCO: mean over IoU 0.50 to 0.95, or at the one that is named. {protocol}",
        "costNote": "COCO AP50 that would be gained if all errors of one kind were mended (TIDE), in points; then "
        "their number, at any score.",
        "classes": list(annotations.class_names),
    }


def _scores(
    looked_at: Sequence[_LookedAt], annotations: Annotations, difference: Mapping[str, Interval]
) -> dict[str, Any]:
    """The means with their intervals, all scores of the protocols, and those of each class."""
    all_scores = [each.judged.scores for each in looked_at]
    headlines = [scores.headline() for scores in all_scores]
    intervals = [each.reported.intervals.scores if each.reported.intervals else {} for each in looked_at]
    records = [scores.record(()) for scores in all_scores]
    countable = annotations.labels[~annotations.ignore]
    return {
        "headline": [
            {
                "name": name,
                "values": [
                    _with_interval(headline[name], known.get(name))
                    for headline, known in zip(headlines, intervals, strict=True)
                ],
                "difference": _difference(name, headlines, difference),
            }
            for name in headlines[0]
        ],
        "summary": [{"name": name, "values": [record.get(name) for record in records]} for name in records[0]],
        "classObjects": np.bincount(countable, minlength=len(annotations.class_names) + 1)[1:].tolist(),
        "classScores": [
            {"name": name, "values": [_class_columns(scores)[name] for scores in all_scores]}
            for name in _class_columns(all_scores[0])
        ],
    }


def _class_columns(scores: Scores) -> dict[str, list[float | None]]:
    """APs of the K classes by the full name of the protocol."""
    return {name: plain(np.round(column, 6)) for name, column in scores.columns().items()}


def _with_interval(value: float, interval: Interval | None) -> dict[str, float | None]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {"value": value, "low": low, "high": high}


def _difference(
    name: str, headlines: Sequence[Mapping[str, float]], difference: Mapping[str, Interval]
) -> dict[str, float | None] | None:
    if len(headlines) < 2:
        return None
    return _with_interval(headlines[0][name] - headlines[1][name], difference.get(name))


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
