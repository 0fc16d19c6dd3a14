"""What scores are called, each by the name of its protocol, and what results are called."""

from collections.abc import Sequence
from pathlib import Path

from detection.config import MetricSettings, VOCMetricSettings

COCO_HEADLINE = ("COCO AP", "COCO AP50", "COCO AP75")
"""Which of COCO's 12 numbers stand in the headline."""

_KINDS = {"area": "VOC area", "11point": "VOC07 11-point"}
_CHOICES = {
    "inclusive": "",
    "continuous": "continuous coordinates",
    "ignore": "",
    "drop": "difficult left out",
    "count": "difficult counted",
}

_PIXELS = {"inclusive": "inclusive pixels", "continuous": "continuous coordinates"}
_DIFFICULT = {
    "ignore": "difficult objects ignored",
    "drop": "difficult objects left out",
    "count": "difficult objects counted",
}


def headline_names(settings: MetricSettings) -> tuple[str, ...]:
    """The keys of :meth:`Scores.headline` for scores by these settings: COCO's three, then the chosen VOC means."""
    return COCO_HEADLINE + tuple(voc_names("mAP", settings.voc).values())


def voc_names(number: str, settings: VOCMetricSettings) -> dict[str, str]:
    """Full name of a VOC number by kind of AP, as {"area": "VOC area mAP@0.5"}, for the kinds that are shown.

    Choices other than the devkit's are told in brackets: "VOC area mAP@0.5 (continuous coordinates)".

    Args:
        number: "AP" of a class or "mAP", their mean.
        settings: the protocol.
    """
    chosen = tuple(_KINDS) if settings.ap == "both" else (settings.ap,)
    words = ", ".join(filter(None, (_CHOICES[settings.pixels], _CHOICES[settings.difficult])))
    suffix = f" ({words})" if words else ""
    return {kind: f"{_KINDS[kind]} {number}@{settings.iou:g}{suffix}" for kind in chosen}


def voc_protocol(pixels: str, difficult: str, iou: float) -> str:
    """The choices of the VOC protocol in words: "match at IoU >= 0.5, inclusive pixels, difficult objects ignored"."""
    return f"match at IoU >= {iou:g}, {_PIXELS[pixels]}, {_DIFFICULT[difficult]}"


def result_names(paths: Sequence[str]) -> list[str]:
    """Short and different names of files of detections or checkpoints; the paths where the short ones are the same.

    ``runs/voc07/eval/detections.json`` and ``runs/voc07/best.pt`` are both called voc07.
    """
    said_by_all = {"detections.json", "eval", "best.pt", "last.pt"}
    names = [next((part for part in reversed(Path(path).parts) if part not in said_by_all), path) for path in paths]
    if len(set(names)) == len(names):
        return names
    return [path if path not in paths[:place] else f"{path} ({place + 1})" for place, path in enumerate(paths)]
