"""How scores are shown: tables for the terminal, and the same as plain text for log.txt."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detection.config import APName
from detection.evaluation.bootstrap import Interval, Intervals
from detection.evaluation.coco import SUMMARY, COCOScores
from detection.evaluation.costs import ErrorCost
from detection.evaluation.diagnostics import COCO_SIZES, Diagnostics, PrecisionRecall, SizeRecall
from detection.evaluation.means import mean_of_known
from detection.evaluation.names import voc_protocol
from detection.evaluation.voc import VOCScores

_AREAS = {"all": "all", "small": "below 32 x 32", "medium": "between", "large": "above 96 x 96"}
_KINDS = {
    "localization": "right class, IoU between 0.1 and 0.5",
    "classification": "right place, wrong class",
    "both": "wrong class, IoU between 0.1 and 0.5",
    "duplicate": "found already",
    "background": "nothing is there",
    "missed": "object not found, nor mistaken as above",
    "false positives": "all detections that are not true",
    "false negatives": "all objects that are not found",
}
"""The kinds of error of TIDE (arXiv 2008.08115) in words."""

_MOST_CONFUSIONS = 10


def coco_table(scores: COCOScores) -> Table:
    """COCO's 12 numbers in percent, each with what it is measured over."""
    caption = f"0.5 to 0.95: mean of ten thresholds, 0.05 apart; computed by {scores.engine}"
    table = _table("COCO: 12 numbers in %, means over the classes", caption)
    for name in ("number", "mean of", "match at\nIoU >=", "objects\nby area"):
        table.add_column(name, no_wrap=True)
    _number_columns(table, "detections\nper image\nand class", "%")
    for name, number in SUMMARY.items():
        kind = "precision" if number.kind == "precision" else "best recall"
        iou = "0.5 to 0.95" if number.threshold is None else f"{0.5 + 0.05 * number.threshold:g}"
        table.add_row(name, kind, iou, _AREAS[number.area], f"<= {number.limit}", _percent(scores.summary[name]))
        if name == "COCO APl":
            table.add_section()
    return table


def class_table(coco: COCOScores, voc: VOCScores, voc_ap: APName, class_names: Sequence[str]) -> Table:
    """The APs of every class in percent under both protocols, side by side, and their means in the last row.

    A class without countable objects shows ``-`` and is not part of the mean. Of VOC's APs those of `voc_ap` are shown.
    """
    columns = {"COCO AP\n@0.5:0.95": coco.ap, "COCO\nAP@0.5": coco.ap50}
    if voc_ap != "11point":
        columns[f"VOC area\nAP@{voc.iou:g}"] = voc.ap_area
    if voc_ap != "area":
        columns[f"VOC07\n11-point\nAP@{voc.iou:g}"] = voc.ap_11point
    protocol = voc_protocol(voc.pixels, voc.difficult, voc.iou)
    caption = f"COCO: 100 detections per image and class, by {coco.engine}\nVOC: {protocol}"
    table = _table("AP of every class in %", caption)
    table.add_column("class", overflow="fold")
    _number_columns(table, "objects", "detected", *columns)
    for index, name in enumerate(class_names):
        counts = (f"{voc.objects[index]:,}", f"{voc.detections[index]:,}")
        table.add_row(escape(name), *counts, *(_percent(values[index]) for values in columns.values()))
    table.add_section()
    totals = (f"{voc.objects.sum():,}", f"{voc.detections.sum():,}")
    means = (_percent(mean_of_known(values)) for values in columns.values())
    table.add_row("mean", *totals, *means, style="bold")
    return table


def interval_table(intervals: Intervals, name: str = "first", versus: str = "second") -> Table:
    """The headline's numbers in percent with their 95 % intervals; of two detectors also the paired difference.

    Without resamples there are no intervals, and no column for them.

    Args:
        intervals: as :func:`detection.evaluation.bootstrap.bootstrap` gives them.
        name: what the first detector is called where there are two.
        versus: what the second is called.
    """
    two, resampled = bool(intervals.difference), _have_ends(intervals.scores.values())
    sides = [(name, intervals.scores, ""), (versus, intervals.versus, ""), ("difference", intervals.difference, "+")]
    captions = ["by a bootstrap over the images", "a difference whose interval holds 0 may be chance"]
    caption = "\n".join(captions[: 1 + two]) if resampled else ""
    table = _table("Means over the classes, in %", caption)
    table.add_column("number", overflow="fold")
    if two:
        table.add_column("of", overflow="fold")
    _number_columns(table, "value", *["95 % interval"] * resampled)
    for number in intervals.scores:
        for row, (side, values, sign) in enumerate(sides if two else sides[:1]):
            interval = values[number]
            names = [number if row == 0 else "", escape(side)][: 1 + two]
            table.add_row(*names, _percent(interval.value, sign), *[_ends(interval, sign)] * resampled)
        if two:
            table.add_section()
    return table


def _have_ends(intervals: Iterable[Interval]) -> bool:
    return any(not math.isnan(interval.low) for interval in intervals)


def _ends(interval: Interval, sign: str) -> str:
    known = _have_ends([interval])
    return f"{_percent(interval.low, sign)} to {_percent(interval.high, sign)}" if known else "-"


def error_table(costs: Mapping[str, ErrorCost]) -> Table:
    """How many errors there are of each kind, and what AP50 would gain, in points, if there were none."""
    caption = "kinds after TIDE (arXiv 2008.08115); detections on ignored objects left out"
    table = _table("Errors: what keeps COCO AP50 down", caption)
    table.add_column("error", no_wrap=True)
    table.add_column("meaning")
    _number_columns(table, "count", "AP50 gained\nif mended")
    for kind, cost in costs.items():
        name = "class and box" if kind == "both" else kind
        table.add_row(name, _KINDS[kind], f"{cost.count:,}", _percent(cost.ap50, sign="+"))
    return table


def diagnostic_tables(diagnostics: Diagnostics, class_names: Sequence[str]) -> list[Table]:
    """Precision by recall, recall by object size, and what is taken for what."""
    return [
        precision_table(diagnostics.precision),
        recall_table(diagnostics.recall),
        confusion_table(diagnostics.confusion, class_names, diagnostics.score_threshold, diagnostics.iou),
    ]


def precision_table(curves: PrecisionRecall) -> Table:
    """The precision at recall 0, 10, ... 100 % at each IoU, means over the classes; COCO's AP in the last row."""
    table = _table("COCO precision by recall, in %", "means over the classes")
    _number_columns(table, "recall", *(f"precision\nat IoU {iou:g}" for iou in curves.ious))
    step = (len(curves.recalls) - 1) // 10
    for place in range(0, len(curves.recalls), step):
        table.add_row(f"{100 * curves.recalls[place]:.0f}", *map(_percent, curves.mean[:, place]))
    table.add_section()
    table.add_row("AP", *map(_percent, curves.mean.mean(axis=1)), style="bold")
    return table


def recall_table(recall: SizeRecall) -> Table:
    """The share of the objects that are found, by size: at the first IoU, and the mean over all.

    The bins' bounds hold COCO's: small, medium and large objects come last, then all of them.
    """
    caption = "size: square root of the area in pixels; at most 100 detections per image and class"
    table = _table("Recall by object size, matched as COCO does, in %", caption)
    table.add_column("size", no_wrap=True)
    mean = f"mean of IoU\n{recall.ious[0]:g} to {recall.ious[-1]:g}"
    _number_columns(table, "objects", f"found at\nIoU {recall.ious[0]:g}", mean)
    coarse = recall.merged(COCO_SIZES)
    names = [f"{name} ({size})" for name, size in zip(("small", "medium", "large"), _sizes(coarse), strict=True)]
    total = recall.merged(recall.edges[[0, -1]])
    for rows, bins in ((_sizes(recall), recall), (names, coarse), (["all"], total)):
        for row, objects, shares in zip(rows, bins.objects, bins.recall, strict=True):
            style = "bold" if bins is total else None
            table.add_row(row, f"{objects:,}", _percent(shares[0]), _percent(shares.mean()), style=style)
        table.add_section()
    return table


def _sizes(recall: SizeRecall) -> list[str]:
    """The bins of size in words."""
    bounds = zip(recall.edges[:-1], recall.edges[1:], strict=True)
    return [f"{low:g} up" if math.isinf(high) else f"{low:g} to {high:g}" for low, high in bounds]


def confusion_table(matrix: np.ndarray, class_names: Sequence[str], score_threshold: float, iou: float) -> Table:
    """The ten most frequent confusions of two classes, and what became of all objects and detections.

    Args:
        matrix: (K + 1, K + 1) of :func:`detection.evaluation.diagnostics.confusion_matrix`.
        class_names: K names.
        score_threshold: what it was made with.
        iou: likewise.
    """
    title = f"Confusions at IoU {iou:g}, scores from {score_threshold:g}"
    table = _table(title, "%: of the objects annotated so; in the last row of the detections")
    for name in ("annotated as", "detected as"):
        table.add_column(name, overflow="fold")
    _number_columns(table, "count", "%")
    classes, objects = matrix[:-1, :-1], matrix[:-1].sum(axis=1)
    between = classes - np.diag(np.diag(classes))
    for place in np.argsort(-between, axis=None, kind="stable")[: min(_MOST_CONFUSIONS, np.count_nonzero(between))]:
        actual, found = np.unravel_index(place, between.shape)
        names = escape(class_names[actual]), escape(class_names[found])
        table.add_row(*names, *_count_and_share(between[actual, found], objects[actual]))
    table.add_section()
    for found, count in (
        ("the same", np.trace(classes)),
        ("another class", between.sum()),
        ("not found", matrix[:-1, -1].sum()),
    ):
        table.add_row("any class", found, *_count_and_share(count, objects.sum()))
    table.add_row("nothing there", "any class", *_count_and_share(matrix[-1].sum(), matrix[:, :-1].sum()))
    return table


def _count_and_share(count: int, of: int) -> tuple[str, str]:
    return f"{count:,}", _percent(count / of if of else math.nan)


def plain_text(table: Table) -> str:
    """The table without colours, 100 columns wide at most, as a text file holds it."""
    console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n") + "\n"


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, box=SIMPLE_HEAD, collapse_padding=True)  # 80 columns must do


def _number_columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _percent(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{round(100 * value, 1) + 0.0:{sign}.1f}"  # 0.0 rather than -0.0
