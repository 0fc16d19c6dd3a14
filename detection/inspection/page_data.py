"""What the page of a report is drawn from: scores as they are shown, pictures, objects and detections as arrays.

Letters: ``I`` pictures of the report, ``M`` their objects, ``D`` their detections by one detector, ``K`` classes.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.dataset import COCO_AREAS, Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.errors import IGNORED, KINDS, TRUE, Errors
from detection.plain import plain

MISSED, IGNORED_OBJECT = "missed", "ignored object"
SIZES = ("small", "medium", "large")
_STEPS = 100
"""Steps of the slider."""


@dataclass(frozen=True)
class Slider:
    """Positions that the score slider of a detector can take."""

    low: float
    high: float
    start: float
    """Where it stands at first: the position of the largest F1."""

    @property
    def step(self) -> float:
        return (self.high - self.low) / _STEPS


def slider(scores: np.ndarray, errors: Errors, annotations: Annotations) -> Slider:
    """The slider of a detector whose (D,) scores and kinds of errors are given.

    It goes from 0 to 1, or as far as the scores do. It starts where F1 at IoU 0.5, of all classes together, is largest:
    ``2 TP / (TP + FP + objects)``, of equals at the highest score.
    """
    known = scores.astype(np.float64)
    low, high = min(0.0, known.min(initial=0.0)), max(1.0, known.max(initial=1.0))
    places = np.linspace(low, high, _STEPS + 1).round(10)
    # As the page compares: float32 with float32.
    ranked = np.sort(scores[errors.kinds == TRUE].astype(np.float32))
    false = np.sort(scores[_are_false(errors)].astype(np.float32))
    true_there = len(ranked) - np.searchsorted(ranked, places.astype(np.float32), side="left")
    false_there = len(false) - np.searchsorted(false, places.astype(np.float32), side="left")
    objects = np.count_nonzero(~annotations.ignore)
    f1 = 2 * true_there / np.maximum(true_there + false_there + objects, 1)
    best = _STEPS - int(np.argmax(f1[::-1])) if f1.any() else _STEPS // 2
    return Slider(float(low), float(high), float(places[best]))


def errors_of_images(detections: Detections, annotations: Annotations, errors: Errors, least: float) -> np.ndarray:
    """(I,) false detections with a score of at least `least`, and objects that none of these finds."""
    shown = detections.scores.astype(np.float32) >= np.float32(least)
    false = shown & _are_false(errors)
    found = (errors.found_by >= 0) & np.append(shown, False)[errors.found_by]
    counts = np.bincount(detections.image_indices[false], minlength=len(annotations))
    return counts + np.bincount(annotations.image_of_object[~found & ~annotations.ignore], minlength=len(annotations))


@dataclass(frozen=True)
class Excerpt:
    """The pictures of a report: those at `images`, and what of the whole set belongs to them."""

    annotations: Annotations
    images: np.ndarray
    """(I,) ascending indices of the pictures in the set."""

    def pictures(self, missing: Mapping[int, str]) -> dict[str, Any]:
        """Names and sizes; `missing` says why a picture is, by its place in the report."""
        return {
            "inSet": len(self.annotations),
            "ids": self.annotations.image_ids[self.images].tolist(),
            "files": shown_names(self.annotations.image_paths[self.images].tolist()),
            "missing": {str(index): reason for index, reason in missing.items()},
            "arrays": {"sizes": _packed(self.annotations.sizes[self.images], "i4")},
        }

    def objects(self) -> dict[str, Any]:
        """Objects by picture; `offsets` (I + 1) says where those of each begin."""
        rows, annotations = self._rows, self.annotations
        return {
            "offsets": _packed(_starts(np.diff(annotations.offsets)[self.images]), "i4"),
            "boxes": _packed(annotations.boxes[rows], "f4"),
            "labels": _packed(annotations.labels[rows], "u2"),
            "ignored": _packed(annotations.ignore[rows], "u1"),
            "sizes": _packed(_size_classes(annotations.areas[rows]), "u1"),
        }

    def detections(self, detections: Detections, errors: Errors) -> dict[str, Any]:
        """Detections by picture and falling score, with their kinds, and which of them found each object (M,).

        The size class of a detection is that of the object it was matched to, as COCO counts it, otherwise its own.
        """
        place = np.full(len(self.annotations), -1)
        place[self.images] = np.arange(len(self.images))
        mine = np.flatnonzero(place[detections.image_indices] >= 0)
        pictures = place[detections.image_indices[mine]]
        order = np.lexsort((-detections.scores[mine], pictures))  # a stable sort
        mine, pictures = mine[order], pictures[order]
        objects = errors.objects[mine]
        sides = detections.boxes[mine, 2:].astype(np.float64) - detections.boxes[mine, :2]
        matched = np.isin(errors.kinds[mine], (TRUE, IGNORED)) & (objects >= 0)
        areas = np.where(matched, np.append(self.annotations.areas, 0)[objects], sides.prod(axis=1))
        return {
            "offsets": _packed(_starts(np.bincount(pictures, minlength=len(self.images))), "i4"),
            "boxes": _packed(detections.boxes[mine], "f4"),
            "labels": _packed(detections.labels[mine], "u2"),
            "scores": _packed(detections.scores[mine], "f4"),
            "kinds": _packed(errors.kinds[mine], "u1"),
            "objects": _packed(_renumbered(objects, self._rows, len(self.annotations.boxes)), "i4"),
            "overlaps": _packed(errors.overlaps[mine], "f4"),
            "sizes": _packed(_size_classes(areas), "u1"),
            "foundBy": _packed(_renumbered(errors.found_by[self._rows], mine, len(detections)), "i4"),
        }

    @property
    def _rows(self) -> np.ndarray:
        chosen = np.zeros(len(self.annotations), bool)
        chosen[self.images] = True
        return np.flatnonzero(chosen[self.annotations.image_of_object])


def kind_names() -> list[str]:
    """Kinds of boxes as the page numbers them: those of detections, then those of objects."""
    return [*KINDS, MISSED, IGNORED_OBJECT]


def script(report: Mapping[str, Any]) -> str:
    """The report as JavaScript. All but ASCII is escaped, and ``<``, so that no name can end or begin anything."""
    text = json.dumps(plain(report), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"const REPORT = {text.replace('<', chr(92) + 'u003c')};\n"


def shown_names(paths: Sequence[str]) -> list[str]:
    """Names of files as the page shows them: without folders, or where those are equal from the shared folder on."""
    names = [Path(path).name for path in paths]
    if len(set(names)) == len(names):
        return names
    absolute = [os.path.abspath(path) for path in paths]
    shared = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return [Path(path).relative_to(shared).as_posix() for path in absolute]


def _are_false(errors: Errors) -> np.ndarray:
    """(D,) bool: detections that count as errors."""
    return (errors.kinds != TRUE) & (errors.kinds != IGNORED)


def _packed(array: np.ndarray, kind: str) -> list[str]:
    """A type and base64: what the page makes a typed array of."""
    return [kind, base64.b64encode(np.ascontiguousarray(array, dtype=f"<{kind}").tobytes()).decode("ascii")]


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)])


def _size_classes(areas: np.ndarray) -> np.ndarray:
    """0, 1, 2: small, medium, large. On the border COCO counts both; here it is the smaller one."""
    return np.searchsorted(COCO_AREAS, areas, side="left")


def _renumbered(indices: np.ndarray, kept: np.ndarray, total: int) -> np.ndarray:
    """Indices into `total` things as indices into those `kept`; -1 where there is none."""
    places = np.full(total + 1, -1)
    places[kept] = np.arange(len(kept))
    return places[indices]  # -1 takes the last, which is -1
