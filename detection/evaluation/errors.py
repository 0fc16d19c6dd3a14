"""What is wrong with each detection, and which objects nobody found: the kinds of TIDE.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020 (arXiv 2008.08115),
section 2.2, with the order of precedence of its released code, tidecv 1.0.1. Four things differ from that code, so that
what is true or false here is what COCO's AP50 counts:

- a detection matched to an ignored object has no error here; there it gets a kind, by the ordinary objects around it,
  and may be mended into a true one;
- here the best 100 detections of an image and class take part, there the best 100 of an image;
- "localization" ends below `iou`, and "background" below `background`; there both bounds are included;
- of objects that are overlapped equally the last one is found here (pycocotools), there the first.

Letters: ``D`` detections, ``M`` objects.
"""

from dataclasses import dataclass

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.matching import Matches, coco_boxes, coco_matches
from detection.evaluation.overlaps import chunks, first_largest, pairwise_iou, spell_out

KINDS = ("true", "localization", "classification", "both", "duplicate", "background", "ignored")
"""What a detection can be; `Errors.kinds` holds indices into this."""

TRUE, LOCALIZATION, CLASSIFICATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(len(KINDS))


@dataclass(frozen=True)
class Errors:
    """The kind of each of D detections, and what became of each of M objects."""

    kinds: np.ndarray
    """(D,) int8: index into `KINDS`."""
    objects: np.ndarray
    """(D,) int64: the object that the kind refers to (found, mislocated, misclassified, found already, ignored; for
    "both" the one that is overlapped most), or -1."""
    overlaps: np.ndarray
    """(D,) float64: IoU with that object, 0 without one. For an ignored object, the share of the box inside it."""
    found_by: np.ndarray
    """(M,) int64: the true detection of the object, or -1."""
    missed: np.ndarray
    """(M,) bool: to be found, not found, and not the object of a localization or classification error either."""
    iou: float
    """Smallest IoU of a match."""
    background: float
    """A detection that overlaps every object less than this has found nothing."""


def find_errors(detections: Detections, annotations: Annotations, iou: float = 0.5, background: float = 0.1) -> Errors:
    """Gives each detection its kind.

    COCO's rule (:func:`coco_matches`) decides which are true. One that is neither true nor ignored is, in this order,

    - localization: its largest IoU with an object of its class is at least `background`, but below `iou`;
    - classification: its largest IoU with an object of another class is at least `iou`;
    - duplicate: it has at least `iou` with an object of its class, which a better one has taken;
    - background: its largest IoU with any object is below `background`;
    - both: anything else: an object of another class, and that not well placed.

    Ignored objects (VOC difficult, COCO crowd) are no objects here, except that a match to one makes a detection
    "ignored", as does a place beyond the best 100 of its image and class: neither right nor wrong.

    Args:
        detections: D detections in the images of `annotations`.
        annotations: M objects.
        iou: smallest IoU of a match.
        background: smallest IoU with which a detection has something to do with an object.

    Raises:
        UserError: the set has no annotations.
    """
    matches = coco_matches(detections, annotations, np.array([iou]))
    kinds = np.where(matches.ignored[0], IGNORED, TRUE).astype(np.int8)
    objects, overlaps = _matched(detections, annotations, matches)
    false = np.flatnonzero(~matches.ignored[0] & (matches.objects[0] < 0))
    (own, own_iou), (other, other_iou) = _largest_overlaps(detections.select(false), annotations)
    nearer = np.where(own_iou >= other_iou, own, other)
    cases = (
        (LOCALIZATION, (own_iou >= background) & (own_iou < iou), own, own_iou),
        (CLASSIFICATION, other_iou >= iou, other, other_iou),
        (DUPLICATE, own_iou >= iou, own, own_iou),
        (BACKGROUND, np.maximum(own_iou, other_iou) < background, np.full(len(false), -1), np.zeros(len(false))),
        (BOTH, np.ones(len(false), bool), nearer, np.maximum(own_iou, other_iou)),
    )
    conditions = [condition for _, condition, _, _ in cases]
    kinds[false] = np.select(conditions, [kind for kind, _, _, _ in cases])
    objects[false] = np.select(conditions, [partner for _, _, partner, _ in cases])
    overlaps[false] = np.select(conditions, [overlap for _, _, _, overlap in cases])
    found_by = np.full(len(annotations.boxes), -1)
    found_by[objects[kinds == TRUE]] = np.flatnonzero(kinds == TRUE)
    within_reach = np.zeros(len(annotations.boxes), bool)
    within_reach[objects[(kinds == LOCALIZATION) | (kinds == CLASSIFICATION)]] = True
    missed = ~annotations.ignore & (found_by < 0) & ~within_reach
    return Errors(kinds, objects, overlaps, found_by, missed, iou, background)


def _matched(detections: Detections, annotations: Annotations, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """(D,) object that each detection is matched to, or -1, and (D,) IoU with it."""
    objects, overlaps = matches.objects[0].copy(), np.zeros(len(detections))
    rows = np.flatnonzero(objects >= 0)
    partners = objects[rows]
    boxes, others = coco_boxes(detections.boxes[rows]), coco_boxes(annotations.boxes[partners])
    overlaps[rows] = pairwise_iou(boxes, others, crowd=annotations.ignore[partners])
    return objects, overlaps


def _largest_overlaps(
    detections: Detections, annotations: Annotations
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The ordinary object of each detection's class, and that of another class, that it overlaps most, and the IoU.

    Of equals the first; where nothing is overlapped, -1 and 0.
    """
    ordinary = np.flatnonzero(~annotations.ignore)
    offsets = np.searchsorted(ordinary, annotations.offsets)
    first, counts = offsets[detections.image_indices], np.diff(offsets)[detections.image_indices]
    found, wanted = coco_boxes(detections.boxes), coco_boxes(annotations.boxes)
    partners, overlaps = np.full((2, len(detections)), -1), np.zeros((2, len(detections)))
    paired = np.flatnonzero(counts)
    for part in chunks(paired, counts[paired]):
        starts, rows, members = spell_out(first[part], counts[part])
        members = ordinary[members]
        values = pairwise_iou(found[part][rows], wanted[members])
        same = annotations.labels[members] == detections.labels[part][rows]
        for which, candidates in enumerate((same, ~same)):
            of_class = np.where(candidates, values, 0.0)
            best = first_largest(of_class, starts, rows)
            overlaps[which, part] = of_class[best]
            partners[which, part] = np.where(of_class[best] > 0, members[best], -1)
    return (partners[0], overlaps[0]), (partners[1], overlaps[1])
