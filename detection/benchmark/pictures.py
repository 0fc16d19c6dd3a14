"""Seeded pictures and objects, for where no data set is at hand.

Letters: ``B`` pictures, ``N`` objects of a picture, ``H, W`` rows and columns.
"""

import cv2
import numpy as np

from detection.data.dataset import Sample

OBJECTS = 6
"""Of a picture; VOC has 2.4 on average, COCO 7.3."""
GRIDS = (2, 5, 16, 50)
"""Rows and columns of random colours that a picture is mixed from: coarse ones are strong, as in photographs."""


def draw_picture(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """(H, W, 3) uint8: smooth patches of colour with ever weaker finer ones and a little noise."""
    picture = rng.normal(0, 4, (rows, columns, 3))
    for number, grid in enumerate(GRIDS):
        patches = rng.normal(0, 60 / (number + 1), (grid, grid, 3))
        picture += cv2.resize(patches, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return (picture + 120).clip(0, 255).astype(np.uint8)


def draw_pictures(seed: int, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """B pictures (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    return [draw_picture(rng, *size) for _ in range(count)]


def draw_samples(seed: int, count: int, size: tuple[int, int], classes: int) -> list[Sample]:
    """B pictures with objects at random places, as the training loader hands them to its collation."""
    rng = np.random.default_rng([seed, 1])
    samples = []
    for index, picture in enumerate(draw_pictures(seed, count, size)):
        labels, ignore = rng.integers(1, classes + 1, OBJECTS), np.zeros(OBJECTS, bool)
        samples.append(Sample(picture, size, random_boxes(rng, size), labels, ignore, position=index, index=index))
    return samples


def random_boxes(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(N, 4) float32 inside a picture of H x W; sides from a sixth to two thirds of the picture's."""
    limit = np.array([size[1], size[0]])
    sides = rng.uniform(1 / 6, 2 / 3, (OBJECTS, 2)) * limit
    starts = rng.random((OBJECTS, 2)) * (limit - sides)
    return np.concatenate([starts, starts + sides], axis=1).astype(np.float32)
