"""How scores are shown: a table for the terminal, and the same as plain text for log.txt."""

import io
import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detection.evaluation.voc import VOCScores

_PIXELS = {"inclusive": "inclusive pixels", "continuous": "continuous coordinates"}
_DIFFICULT = {
    "ignore": "difficult objects ignored",
    "drop": "difficult objects left out",
    "count": "difficult objects counted",
}


def voc_table(scores: VOCScores, class_names: Sequence[str]) -> Table:
    """Both APs of every class in percent, side by side, and their means in the last row.

    A class without countable objects shows ``-`` and is not part of the mean.
    """
    table = Table(
        title=f"PASCAL VOC: AP in %, match at IoU >= {scores.iou:g}", caption=_caption(scores), box=SIMPLE_HEAD
    )
    table.add_column("class", overflow="fold")
    for name in ("objects", "detections", f"VOC area\nAP@{scores.iou:g}", f"VOC07 11-point\nAP@{scores.iou:g}"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, name in enumerate(class_names):
        counts = (str(scores.objects[index]), str(scores.detections[index]))
        table.add_row(escape(name), *counts, _percent(scores.ap_area[index]), _percent(scores.ap_11point[index]))
    table.add_section()
    totals = (str(scores.objects.sum()), str(scores.detections.sum()))
    means = (_percent(scores.mean_area), _percent(scores.mean_11point))
    table.add_row(_mean_name(scores), *totals, *means, style="bold")
    return table


def plain_text(table: Table) -> str:
    """The table without colours, 100 columns wide at most, as a text file holds it."""
    console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n") + "\n"


def _caption(scores: VOCScores) -> str:
    return f"{_PIXELS[scores.pixels]}, {_DIFFICULT[scores.difficult]}"


def _mean_name(scores: VOCScores) -> str:
    known = sum(not math.isnan(value) for value in scores.ap_area)
    return f"mean of {known} class{'' if known == 1 else 'es'}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
