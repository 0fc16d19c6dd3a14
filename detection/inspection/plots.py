"""Four plots that say how good a detector is and where it fails, as PNG and SVG.

Letters: ``K`` classes. matplotlib is imported where it draws, since a tool that draws nothing should not wait for it;
figures are made without pyplot, which would keep state.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.costs import ErrorCost
from detection.evaluation.detections import Detections
from detection.evaluation.diagnostics import (
    COCO_SIZES,
    FINE_SIZES,
    PrecisionRecall,
    SizeRecall,
    confusion_matrix,
    precision_recall,
    recall_by_size,
)
from detection.evaluation.errors import Errors
from detection.evaluation.matching import COCO_IOUS
from detection.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "localization": "#e69f00",
    "classification": "#56b4e9",
    "both": "#cc79a7",
    "duplicate": "#f0e442",
    "background": "#d55e00",
    "missed": "#5b6066",
    "false positives": "#b8bcc2",
    "false negatives": "#b8bcc2",
}
"""Okabe and Ito's colours, which colour-blind readers can tell apart, as on the page of pictures; totals are grey."""

_KIND_NAMES = {
    "both": "class and box",
    "false positives": "all false detections",
    "false negatives": "all objects not found",
}
"""What kinds are called where that differs, as on the page of pictures."""

_BLUE, _ORANGE, _GREEN, _INK, _QUIET, _FAINT = "#0072b2", "#d55e00", "#009e73", "#1f2328", "#656d76", "#d0d4d8"
_ABOVE_KEY = 34
"""Points between a plot and its title, with a row of colours in between."""

_STYLE = {
    "svg.hashsalt": "ResiDet",  # equal plots are equal files
    "svg.fonttype": "none",  # text stays text: a browser has letters of scripts that matplotlib's font lacks
    "text.parse_math": False,  # a class may be called "$"
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
}
_WIDTH, _DPI = 8.0, 150
"""Inches, and pixels an inch: 1200 pixels wide, meant to be shown at 800."""

_MOST_CLASSES, _LONGEST_NAME = 20, 24
_CURVE_IOUS, _CURVE_COLOURS = (0.5, 0.75, 0.9), (_BLUE, _ORANGE, _GREEN)
_SIZES = ("small", "medium", "large")


def write_plots(
    folder: Path,
    detections: Detections,
    annotations: Annotations,
    errors: Errors,
    costs: Mapping[str, ErrorCost],
    *,
    score_threshold: float = 0.5,
) -> list[str]:
    """Writes ``error_costs``, ``confusion_matrix``, ``precision_recall`` and ``recall_by_size``, as PNG and as SVG.

    Args:
        folder: where to write; it is made if necessary.
        detections: D detections in the images of `annotations`.
        annotations: M objects of K classes.
        errors: what :func:`find_errors` says of them.
        costs: what :func:`error_costs` says of these.
        score_threshold: the confusion matrix shows the detections scored at least this.

    Returns:
        The four names, without ``.png`` and ``.svg``.

    Raises:
        UserError: the set has no annotations, or a file cannot be written.
    """
    drawings: dict[str, Callable[[Figure], None]] = {
        "error_costs": partial(_draw_costs, costs=costs, iou=errors.iou),
        "precision_recall": partial(
            _draw_precision_recall, curves=precision_recall(detections, annotations, _CURVE_IOUS)
        ),
        "recall_by_size": partial(
            _draw_recall,
            fine=recall_by_size(detections, annotations, COCO_IOUS, FINE_SIZES),
            coarse=recall_by_size(detections, annotations, COCO_IOUS, COCO_SIZES),
        ),
        "confusion_matrix": partial(
            _draw_confusion,
            matrix=confusion_matrix(detections, annotations, score_threshold),
            class_names=annotations.class_names,
            score_threshold=score_threshold,
        ),
    }
    for name, draw in drawings.items():
        _write(folder, name, draw)
    return list(drawings)


def _write(folder: Path, name: str, draw: Callable[["Figure"], None]) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    plain = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context({**plain, **_STYLE}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the PNG shows a box for such a letter
        figure = Figure(figsize=(_WIDTH, 4.5), dpi=_DPI, layout="constrained", facecolor="white")
        draw(figure)
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine("none")  # a plot is laid out once, where `savefig` would do so for each file
        with replacing(folder / f"{name}.png") as path:
            FigureCanvasAgg(figure).print_png(path)
        with replacing(folder / f"{name}.svg") as path:
            FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def _draw_costs(figure: "Figure", costs: Mapping[str, ErrorCost], iou: float) -> None:
    axes = figure.subplots()
    gains = [0.0 if math.isnan(cost.ap50) else 100 * cost.ap50 for cost in costs.values()]
    places = [place + 0.5 * (place > 5) for place in range(len(gains))]  # a gap before the two totals
    axes.barh(places, gains, color=[_COLOURS[kind] for kind in costs], height=0.72)
    for place, gain, cost in zip(places, gains, costs.values(), strict=True):
        _beside(axes, max(gain, 0), place, f" {_points(cost.ap50, '+')}   ", f"{cost.count:,}")
    axes.set_yticks(places, [_KIND_NAMES.get(kind, kind) for kind in costs])
    axes.invert_yaxis()
    axes.set_xlim(min([0.0, *gains]), 1.22 * max([1.0, *gains]))
    axes.set_xlabel(f"COCO AP at IoU {iou:g} gained if all were mended, in points; grey: how many")
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"What each kind of error costs (TIDE, IoU {iou:g})")


def _beside(axes: "Axes", x: float, y: float, text: str, quiet: str) -> None:
    """Text to the right of a point, then some more in grey."""
    first = axes.annotate(text, (x, y), va="center", fontweight="bold")
    axes.annotate(quiet, (1, 0.5), xycoords=first, va="center", color=_QUIET, fontsize=10)


def _points(share: float, sign: str = "") -> str:
    """A share in percent; "-" for NaN, and 0.0 rather than -0.0."""
    return "-" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:{sign}.1f}"


def _draw_precision_recall(figure: "Figure", curves: PrecisionRecall) -> None:
    axes = figure.subplots()
    axes.plot(curves.recalls, curves.precision[0].T, color=_FAINT, linewidth=0.8)
    for mean, colour in zip(curves.mean, _CURVE_COLOURS, strict=True):
        axes.plot(curves.recalls, mean, color=colour, linewidth=2.4)
    classes = int((~np.isnan(curves.precision[0]).any(axis=1)).sum())
    aps = [f"IoU {iou:g}: AP {_points(mean.mean())}" for iou, mean in zip(curves.ious, curves.mean, strict=True)]
    _key(axes, [*zip(aps, _CURVE_COLOURS, strict=True), ("grey: classes at IoU 0.5", _QUIET)])
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"COCO precision and recall, mean of {classes} class{'' if classes == 1 else 'es'}", pad=_ABOVE_KEY)


def _key(axes: "Axes", entries: Iterable[tuple[str, str]]) -> None:
    """What each colour means, in that colour, in a row above the plot, where no curve can cross it."""
    beside, place, aside = "axes fraction", (0, 1), (0, 10)
    for text, colour in entries:
        beside = axes.annotate(
            text, place, aside, xycoords=beside, textcoords="offset points", color=colour, va="bottom", weight="bold"
        )
        place, aside = (1, 0), (16, 0)


def _draw_recall(figure: "Figure", fine: SizeRecall, coarse: SizeRecall) -> None:
    axes = figure.subplots()
    places = np.arange(len(fine.objects))
    axes.plot(places, 100 * fine.recall[:, 0], color=_BLUE, marker="o", linewidth=2)
    axes.plot(places, 100 * fine.recall.mean(axis=1), color=_ORANGE, marker="s", linewidth=2)
    _key(axes, [("IoU 0.5", _BLUE), ("mean over IoU 0.5 to 0.95", _ORANGE)])
    names = [f"{_bin_name(fine, place)}\n{objects:,}" for place, objects in enumerate(fine.objects.tolist())]
    axes.set_xticks(places, names, fontsize=9.5)
    bounds = np.searchsorted(fine.edges, coarse.edges)
    for bound in bounds[1:-1]:
        axes.axvline(bound - 0.5, color=_FAINT, linewidth=1, zorder=0)
    middles = (bounds[:-1] + bounds[1:] - 1) / 2
    for middle, name, objects, share in zip(middles, _SIZES, coarse.objects, 100 * coarse.recall[:, 0], strict=True):
        text = f"{name}: {share:.1f} %" if objects else f"{name}: no objects"
        axes.annotate(text, (middle, 112), ha="center", va="center", color=_QUIET)
    axes.set(xlim=(-0.5, len(places) - 0.5), ylim=(0, 118), ylabel="objects found, %", yticks=range(0, 101, 20))
    axes.set_xlabel("square root of the area in pixels; number of objects")
    axes.set_title("Recall by object size, matched as COCO does", pad=_ABOVE_KEY)


def _bin_name(recall: SizeRecall, place: int) -> str:
    low, high = recall.edges[place : place + 2]
    return f"{low:g} up" if math.isinf(high) else f"{low:g}-{high:g}"


def _draw_confusion(figure: "Figure", matrix: np.ndarray, class_names: Sequence[str], score_threshold: float) -> None:
    shown = np.append(_most_confused(matrix), len(class_names))
    totals = matrix.sum(axis=1)
    shares = (100 * matrix / np.maximum(totals, 1)[:, None])[np.ix_(shown, shown)]
    shares[-1] = 0  # detections of nothing are counted: a share of all of them says nothing about a class
    many = len(shown) > 13
    side = max(4.5, min(8.0, 1.8 + 0.55 * len(shown)))
    figure.set_size_inches(_WIDTH, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
        share = shares[row, column]
        colour = "white" if share > 55 else _INK
        axes.annotate(f"{share:.0f}", (column, row), ha="center", va="center", color=colour, fontsize=8 if many else 11)
    for column, count in enumerate(matrix[-1, shown[:-1]].tolist()):
        axes.annotate(f"{count:,}", (column, len(shown) - 1), ha="center", va="center", fontsize=8 if many else 11)
    names = [_short(class_names[index]) for index in shown[:-1]]
    small = 8.5 if many else 10.5
    crowded = max(map(len, names), default=0) * len(shown) > 80  # letters that have room side by side
    turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(shown)), [*names, "not found"], fontsize=small, **turned)
    axes.set_yticks(range(len(shown)), [*names, "nothing there"], fontsize=small)
    numbers = axes.secondary_yaxis("right")
    numbers.set_yticks(range(len(shown)), [f"n = {number:,}" for number in totals[shown].tolist()], fontsize=small)
    numbers.tick_params(length=0)
    numbers.spines["right"].set_visible(False)
    for draw in (axes.axhline, axes.axvline):
        draw(len(shown) - 1.5, color=_QUIET, linewidth=1)
    axes.tick_params(length=0)
    axes.set(xlabel="detected as", ylabel="what is there")
    title = f"Confusion at IoU 0.5, scores from {score_threshold:g}"
    if len(shown) <= len(class_names):
        title += f"\n{len(shown) - 1} of {len(class_names)} classes, the most confused"
    axes.set_title(f"{title}\nin % of the n objects of a row; last row: numbers of detections")


def _most_confused(matrix: np.ndarray) -> np.ndarray:
    """Ascending indices of the classes that are taken for another, or another for them, most often."""
    between = matrix[:-1, :-1] - np.diag(np.diag(matrix)[:-1])
    ranked = np.argsort(-(between.sum(axis=0) + between.sum(axis=1)), kind="stable")
    return np.sort(ranked[:_MOST_CLASSES])


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
