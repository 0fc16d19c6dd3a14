"""COCO's 12 numbers and the AP of each class, computed by hotcoco, or by pycocotools, the reference.

Letters: ``D`` detections, ``M`` objects, ``I`` images, ``K`` classes, ``T`` IoU thresholds (10), ``R`` recalls (101),
``A`` ranges of area (4), ``L`` limits of the detections of an image and class (3).
"""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from detection.data.box_forms import boxes_to_coco
from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.means import mean_of_known

Engine = Literal["hotcoco", "pycocotools"]

_AREAS = ("all", "small", "medium", "large")
_LIMITS = (1, 10, 100)


class COCONumber(NamedTuple):
    """What one of the 12 numbers is a mean of."""

    kind: Literal["precision", "recall"]
    """Precision at 101 recalls, or the largest recall; a mean over the classes either way."""
    threshold: int | None
    """Index of its IoU threshold; None: the mean over all ten, 0.5 to 0.95."""
    area: str = "all"
    """Which objects: all, small (below 32 x 32), medium, or large (above 96 x 96 square pixels)."""
    limit: int = 100
    """At most so many detections of an image and class count, those with the highest scores."""


SUMMARY = {
    "COCO AP": COCONumber("precision", None),
    "COCO AP50": COCONumber("precision", 0),
    "COCO AP75": COCONumber("precision", 5),
    "COCO APs": COCONumber("precision", None, area="small"),
    "COCO APm": COCONumber("precision", None, area="medium"),
    "COCO APl": COCONumber("precision", None, area="large"),
    "COCO AR1": COCONumber("recall", None, limit=1),
    "COCO AR10": COCONumber("recall", None, limit=10),
    "COCO AR100": COCONumber("recall", None),
    "COCO ARs": COCONumber("recall", None, area="small"),
    "COCO ARm": COCONumber("recall", None, area="medium"),
    "COCO ARl": COCONumber("recall", None, area="large"),
}
"""The 12 numbers in COCO's order (cocodataset.org/#detection-eval)."""


@dataclass(frozen=True)
class COCOScores:
    """COCO's scores of K classes, in [0, 1]. Index k is label k + 1."""

    summary: dict[str, float]
    """The numbers named in `SUMMARY`; NaN where COCO says -1: no object of this kind is to be found."""
    ap: np.ndarray
    """(K,) float64: mean over the IoU thresholds 0.5 to 0.95; NaN for a class without countable objects."""
    ap50: np.ndarray
    """(K,) float64: the same at IoU 0.5."""
    engine: Engine
    """What computed them."""


def coco_scores(detections: Detections, annotations: Annotations, engine: Engine = "hotcoco") -> COCOScores:
    """Scores detections by COCO's protocol.

    Args:
        detections: D detections in the images of `annotations`. Of equal scores that of the earlier image counts as
            higher, and in an image the earlier one. (The original goes by image ids: to get its numbers to the last
            digit, images must be in the order of their ids.)
        annotations: M objects of K classes. `ignore` counts as crowd: such an object may be found by many detections,
            and neither is it asked for nor are they punished.
        engine: "hotcoco", or "pycocotools", which is much slower; both give the same numbers.

    Raises:
        UserError: the set has no annotations.
    """
    annotations.require_annotated()
    curves = _ENGINES[engine](detections, annotations)
    return COCOScores(
        summary={name: mean_of_known(_numbers_of(number, curves)) for name, number in SUMMARY.items()},
        ap=_of_classes(_numbers_of(SUMMARY["COCO AP"], curves)),
        ap50=_of_classes(_numbers_of(SUMMARY["COCO AP50"], curves)),
        engine=engine,
    )


class _Curves(NamedTuple):
    """What an engine accumulates; NaN where nothing is to be found."""

    precision: np.ndarray
    """(T, R, K, A, L) float64."""
    recall: np.ndarray
    """(T, K, A, L) float64."""


def _numbers_of(number: COCONumber, curves: _Curves) -> np.ndarray:
    """What the number is the mean of: (K, T * R) precisions or (K, T) recalls, with T = 1 for a single threshold."""
    values = getattr(curves, number.kind)[..., _AREAS.index(number.area), _LIMITS.index(number.limit)]
    values = values if number.threshold is None else values[number.threshold : number.threshold + 1]
    return np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1)


def _of_classes(values: np.ndarray) -> np.ndarray:
    return np.array([mean_of_known(of_class) for of_class in values], np.float64)


def _by_hotcoco(detections: Detections, annotations: Annotations) -> _Curves:
    from hotcoco import COCO, COCOeval

    images, categories = _images_and_categories(annotations)
    objects = COCO.from_arrays(
        images,
        categories,
        annotations.image_of_object + 1,
        annotations.labels,
        boxes_to_coco(annotations.boxes),
        area=np.asarray(annotations.areas, np.float64),
        iscrowd=annotations.ignore,
    )
    columns = (detections.image_indices + 1, boxes_to_coco(detections.boxes), detections.scores, detections.labels)
    found = objects.load_res(np.column_stack([column.astype(np.float64) for column in columns]))
    return _accumulate(COCOeval(objects, found, "bbox"))


def _by_pycocotools(detections: Detections, annotations: Annotations) -> _Curves:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, categories = _images_and_categories(annotations)
    columns = {
        "image_id": annotations.image_of_object + 1,
        "category_id": annotations.labels,
        "bbox": boxes_to_coco(annotations.boxes),
        "area": annotations.areas,
        "iscrowd": annotations.ignore.astype(int),
    }
    boxes = boxes_to_coco(detections.boxes)
    found_columns = {
        "image_id": detections.image_indices + 1,
        "category_id": detections.labels,
        "bbox": boxes,
        "area": boxes[:, 2:].prod(axis=1),
        "iscrowd": np.zeros(len(boxes), int),
        "score": detections.scores,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
        sides = []
        for table in (columns, found_columns):
            sides.append(COCO())
            sides[-1].dataset = {"images": images, "categories": categories, "annotations": _rows(table)}
            sides[-1].createIndex()
        return _accumulate(COCOeval(*sides, "bbox"))


_ENGINES: dict[str, Callable[[Detections, Annotations], _Curves]] = {
    "hotcoco": _by_hotcoco,
    "pycocotools": _by_pycocotools,
}


def _accumulate(evaluation: Any) -> _Curves:
    """Runs an engine; the 12 numbers are then read from its curves, since its own summary is printed."""
    evaluation.evaluate()
    evaluation.accumulate()
    curves = (evaluation.eval["precision"], evaluation.eval["recall"])
    return _Curves(*(np.where(curve > -1, curve, np.nan) for curve in curves))


def _images_and_categories(annotations: Annotations) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ids from 1 on: an image is its index + 1 and a category its label, whatever the files call them."""
    images = [
        {"id": number, "height": height, "width": width}
        for number, (height, width) in enumerate(annotations.sizes.tolist(), 1)
    ]
    return images, [{"id": label, "name": name} for label, name in enumerate(annotations.class_names, 1)]


def _rows(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"id": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(values, 1)]
