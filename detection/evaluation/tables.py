"""How scores are shown: tables for the terminal, and the same as plain text for log.txt."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detection.evaluation.bootstrap import Intervals
from detection.evaluation.coco import SUMMARY, COCOScores
from detection.evaluation.costs import ErrorCost
from detection.evaluation.voc import VOCScores

_PIXELS = {"inclusive": "inclusive pixels", "continuous": "continuous coordinates"}
_DIFFICULT = {
    "ignore": "difficult objects ignored",
    "drop": "difficult objects left out",
    "count": "difficult objects counted",
}
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


def class_table(
    coco: COCOScores, voc: VOCScores, voc_ap: Literal["area", "11point", "both"], class_names: Sequence[str]
) -> Table:
    """The APs of every class in percent under both protocols, side by side, and their means in the last row.

    A class without countable objects shows ``-`` and is not part of the mean. Of VOC's APs those of `voc_ap` are shown.
    """
    columns = {"COCO AP\n@0.5:0.95": coco.ap, "COCO\nAP@0.5": coco.ap50}
    if voc_ap != "11point":
        columns[f"VOC area\nAP@{voc.iou:g}"] = voc.ap_area
    if voc_ap != "area":
        columns[f"VOC07\n11-point\nAP@{voc.iou:g}"] = voc.ap_11point
    caption = f"COCO: 100 detections per image and class, by {coco.engine}\nVOC: {_protocol(voc)}"
    table = _table("AP of every class in %", caption)
    table.add_column("class", overflow="fold")
    _number_columns(table, "objects", "detected", *columns)
    for index, name in enumerate(class_names):
        counts = (str(voc.objects[index]), str(voc.detections[index]))
        table.add_row(escape(name), *counts, *(_percent(values[index]) for values in columns.values()))
    table.add_section()
    totals = (str(voc.objects.sum()), str(voc.detections.sum()))
    table.add_row("mean", *totals, *map(_mean_percent, columns.values()), style="bold")
    return table


def interval_table(intervals: Intervals, name: str = "first", versus: str = "second") -> Table:
    """The headline's numbers in percent with their 95 % intervals; of two detectors also the paired difference.

    Args:
        intervals: as :func:`detection.evaluation.bootstrap.bootstrap` gives them.
        name: what the first detector is called where there are two.
        versus: what the second is called.
    """
    sides = [("", intervals.scores, "")]
    caption = "by a bootstrap over the images"
    if intervals.difference:
        sides = [
            (name, intervals.scores, ""),
            (versus, intervals.versus, ""),
            ("difference", intervals.difference, "+"),
        ]
        caption += "\na difference whose interval holds 0 may be chance"
    table = _table("Means over the classes, in %", caption)
    table.add_column("number", overflow="fold")
    table.add_column("of" if intervals.difference else "", overflow="fold")
    _number_columns(table, "value", "95 % interval")
    for number in intervals.scores:
        for row, (side, values, sign) in enumerate(sides):
            interval = values[number]
            ends = f"{_percent(interval.low, sign)} to {_percent(interval.high, sign)}"
            table.add_row(number if row == 0 else "", escape(side), _percent(interval.value, sign), ends)
        if intervals.difference:
            table.add_section()
    return table


def error_table(costs: Mapping[str, ErrorCost]) -> Table:
    """How many errors there are of each kind, and what AP50 would gain, in points, if there were none."""
    table = _table("Errors: what keeps COCO AP50 down", "kinds and gains as TIDE defines them (arXiv 2008.08115)")
    table.add_column("error", no_wrap=True)
    table.add_column("meaning")
    _number_columns(table, "count", "AP50 gained\nif mended")
    for kind, cost in costs.items():
        table.add_row(kind, _KINDS[kind], str(cost.count), _percent(cost.ap50, sign="+"))
    return table


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


def _protocol(scores: VOCScores) -> str:
    return f"match at IoU >= {scores.iou:g}, {_PIXELS[scores.pixels]}, {_DIFFICULT[scores.difficult]}"


def _mean_percent(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return _percent(float(known.mean()) if len(known) else math.nan)


def _percent(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{100 * value:{sign}.1f}"
