"""The forms that boxes have in files, and the corners that everything else works with.

Letters: ``M`` boxes. Corners are x1, y1, x2, y2 in continuous pixels: the outer corner of the image is (0, 0), and
x2 - x1 is the width.
"""

import numpy as np


def boxes_from_coco(values: np.ndarray) -> np.ndarray:
    """(M, 4) x, y, width, height as in a COCO file -> (M, 4) corners, same dtype."""
    return np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1)


def boxes_to_coco(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) corners -> (M, 4) float64 x, y, width, height, as they were in a COCO file.

    With x = 3.3 and a width of 32, x2 - x1 is 31.999999999999996: no medium object any more, by a hair. Rounding to
    nine decimals restores every width and height that has no more (COCO's have two).
    """
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], np.round(boxes[:, 2:] - boxes[:, :2], 9)], axis=1)


def voc_to_boxes(values: np.ndarray) -> np.ndarray:
    """(M, 4) xmin, ymin, xmax, ymax of a VOC file (whole pixels counted from 1, inclusive) -> corners, same dtype."""
    return values - np.array([1, 1, 0, 0], values.dtype)


def boxes_to_voc(boxes: np.ndarray) -> np.ndarray:
    """The inverse of :func:`voc_to_boxes`."""
    return boxes + np.array([1, 1, 0, 0], boxes.dtype)
