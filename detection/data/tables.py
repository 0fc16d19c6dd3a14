"""How the examination of a data set is shown to a person: tables for rich."""

import math
from collections.abc import Iterator, Mapping

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from detection.config import Config
from detection.data.examination import Examined
from detection.data.survey import QUANTILES, RANGES, AnchorFit
from detection.finalize import anchors

SHOWN = 3
"""How many pictures, objects or classes a note names; --json has all."""


def tables(sets: Mapping[str, Examined], config: Config) -> Iterator[Table]:
    """The summary: what the sets hold, their classes, boxes, anchors, and notes if there are any."""
    yield _sets(sets)
    yield _classes(sets)
    yield _boxes(sets)
    yield _anchors(sets, config)
    if any(found.notes for found in sets.values()):
        yield _notes(sets)


def _table(title: str, caption: str, *columns: str) -> Table:
    """Of which the first column is text and the others are numbers."""
    table = Table(title=title, caption=caption or None, box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
    table.add_column(columns[0], overflow="fold", min_width=max(map(len, columns[0].split("\n"))))
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _sets(sets: Mapping[str, Examined]) -> Table:
    heads = ("images", "without\nobjects", "objects", "difficult\nor crowd", "faults")
    bare = [role for role, found in sets.items() if not found.survey.annotated]
    caption = f"{' and '.join(bare)}: not annotated, pictures alone are checked" if bare else ""
    table = _table("Sets", caption, "set", *heads)
    for role, found in sets.items():
        seen = found.survey
        counts = (seen.images, seen.empty, seen.objects, seen.ignored, len(found.faults))
        table.add_row(escape(f"{role}: {found.name}"), *(f"{count:,}" for count in counts))
    return table


def _classes(sets: Mapping[str, Examined]) -> Table:
    heads = (f"{role}\n{what}" for role in sets for what in ("objects", "images"))
    table = _table("Objects per class", "", "class", *heads)
    counts = [column for found in sets.values() for column in (found.survey.per_class, found.survey.images_per_class)]
    class_names = next(iter(sets.values())).annotations.class_names
    for name, *row in zip(class_names, *(column.tolist() for column in counts), strict=True):
        table.add_row(escape(name), *(f"{count:,}" if count else "-" for count in row))
    return table


def _boxes(sets: Mapping[str, Examined]) -> Table:
    limits = [(role, *found.survey.resized_to) for role, found in sets.items()]
    sizes = "; ".join(f"{role}: shorter side {short}, longer at most {long}" for role, short, long in limits)
    heads = ("least", *(f"{quantile:.0%}" for quantile in QUANTILES[1:-1]), "most")
    table = _table("Boxes in the resized images", f"{sizes}. Side: root of the area.", "of all objects", *heads)
    for role, found in sets.items():
        table.add_row(f"{role}: side in pixels", *(_decimals(value, 1) for value in found.survey.sides))
        table.add_row(f"{role}: height / width", *(_decimals(value, 2) for value in found.survey.ratios))
    return table


def _anchors(sets: Mapping[str, Examined], config: Config) -> Table:
    caption = (
        f"{anchors(config)}. Best IoU: of an object with its best anchor, on average. Below "
        f"{config.model.rpn.fg_iou:g} only that anchor learns the object; without an anchor none does. "
        "Small, medium, large: areas below 32 x 32, below 96 x 96 and above in the original image (COCO)."
    )
    heads = (
        "objects",
        "best IoU",
        f"below {config.model.rpn.fg_iou:g}",
        f"below {config.model.rpn.bg_iou:g}",
        "no anchor",
    )
    table = _table("Do the recipe's anchors fit the objects?", caption, "set and size", *heads)
    for role, found in sets.items():
        for name in (*RANGES, "all"):
            table.add_row(f"{role}: {name}", *_fit(found.survey.anchors[name]))
        table.add_section()
    return table


def _fit(fit: AnchorFit) -> list[str]:
    parts = (fit.below_fg, fit.below_bg, fit.untouched)
    shares = (f"{part:,} ({part / fit.objects:4.0%})" if part else "-" for part in parts)
    return [f"{fit.objects:,}", _decimals(fit.mean, 2), *shares]


def _decimals(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _notes(sets: Mapping[str, Examined]) -> Table:
    table = Table(title="Notes", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("set")
    table.add_column("count", justify="right")
    table.add_column("what", overflow="fold")
    table.add_column("such as", overflow="fold")
    for role, found in sets.items():
        for note in found.notes:
            rest = "; ..." if len(note.where) > SHOWN else ""
            table.add_row(role, f"{len(note.where):,}", note.what, escape("; ".join(note.where[:SHOWN]) + rest))
    return table
