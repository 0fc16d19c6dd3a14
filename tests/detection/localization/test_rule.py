"""ILSVRC's rule: cases worked out by hand, and random ones against slow loops over inclusive pixels."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from detection.data.dataset import Annotations
from detection.localization.rule import (
    MOST_IMAGES,
    Guesses,
    best_constant_box,
    best_ious,
    constant_box,
    counted,
    given_class_errors,
    localization_scores,
)

Box = tuple[float, float, float, float]

WIDE = (0, 0, 19, 9)
"""An object of 20 x 10 pixels, inclusive corners counted from 0, as ILSVRC's files have them."""
HALF = (0, 0, 9, 9)
"""Its left half: IoU exactly 100 / 200."""
UNDER = (0, 0, 8, 9)
"""A column of pixels less: 90 / 200."""


def make_annotations(
    images: Sequence[tuple[int, Sequence[Box]]], classes: int = 4, size: tuple[int, int] = (100, 100)
) -> Annotations:
    """Each image as its class and its objects' inclusive boxes."""
    counts = [len(boxes) for _, boxes in images]
    boxes = np.array([box for _, boxes in images for box in boxes], np.float64).reshape(-1, 4) + [0, 0, 1, 1]
    return Annotations(
        class_names=tuple(f"n{label:08d} class {label}" for label in range(1, classes + 1)),
        image_ids=np.array([f"val_{index:04d}" for index in range(len(images))], np.str_),
        image_paths=np.array([f"val_{index:04d}.JPEG" for index in range(len(images))], np.str_),
        sizes=np.tile(np.array(size, np.int32), (len(images), 1)),
        offsets=np.cumsum([0, *counts]),
        boxes=boxes,
        labels=np.repeat(np.array([label for label, _ in images], np.int64), counts),
        ignore=np.zeros(len(boxes), bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )


def make_guesses(images: Sequence[Sequence[tuple[int, Box]]], count: int = 5) -> Guesses:
    """Each image as its (label, inclusive box), the best first."""
    labels, boxes = np.zeros((len(images), count), np.int64), np.zeros((len(images), count, 4))
    for image, guesses in enumerate(images):
        for place, (label, box) in enumerate(guesses):
            labels[image, place], boxes[image, place] = label, np.array(box) + [0, 0, 1, 1]
    return Guesses(labels, boxes)


def errors(image: tuple[int, Sequence[Box]], *guesses: tuple[int, Box]) -> tuple[list[float], list[float]]:
    """Localization and classification errors of one image after 1..5 guesses."""
    scores = localization_scores(make_guesses([guesses]), make_annotations([image]))
    assert scores.images == 1
    return scores.top.tolist(), scores.classification.tolist()


@pytest.mark.parametrize(
    ("guess", "localization", "classification"),
    [
        ((2, WIDE), 0, 0),
        ((2, HALF), 0, 0),  # at IoU exactly 0.5 the box is right
        ((2, UNDER), 1, 0),
        ((2, (0, 0, 38, 9)), 0, 0),  # 200 / 390
        ((2, (0, 0, 39, 9)), 0, 0),  # 200 / 400
        ((2, (0, 0, 40, 9)), 1, 0),  # 200 / 410
        ((2, (30, 30, 40, 40)), 1, 0),  # the right label with a wrong box
        ((3, WIDE), 1, 1),  # the right box with a wrong label
    ],
)
def test_one_guess(guess, localization, classification) -> None:
    assert errors((2, [WIDE]), guess) == ([localization] * 5, [classification] * 5)


def test_a_single_pixel_is_an_object() -> None:
    """Inclusive corners that are equal; two pixels beside each other overlap it by a half, three by a third."""
    pixel = (7, 7, 7, 7)
    assert errors((1, [pixel]), (1, pixel))[0][0] == 0
    assert errors((1, [pixel]), (1, (7, 7, 8, 7)))[0][0] == 0
    assert errors((1, [pixel]), (1, (7, 7, 9, 7)))[0][0] == 1


def test_any_object_of_the_class_will_do() -> None:
    image = (1, [(50, 50, 79, 79), WIDE])
    assert errors(image, (1, HALF))[0][0] == 0
    assert errors(image, (1, (51, 51, 79, 79)))[0][0] == 0
    assert errors(image, (1, (0, 0, 79, 79)))[0][0] == 1  # one box around both


def test_the_best_guess_counts_from_its_place_on() -> None:
    guesses = (3, WIDE), (2, UNDER), (4, WIDE), (2, HALF)
    assert errors((2, [WIDE]), *guesses) == ([1, 1, 1, 0, 0], [1, 0, 0, 0, 0])


def test_no_guess_is_an_error() -> None:
    assert errors((2, [WIDE])) == ([1] * 5, [1] * 5)


def test_images_without_boxes_do_not_count() -> None:
    annotations = make_annotations([(0, []), (1, [WIDE]), (2, []), (2, [WIDE]), (3, [])])
    guesses = make_guesses([[(1, WIDE)]] * 5)
    scores = localization_scores(guesses, annotations)
    assert (scores.images, scores.top.tolist(), scores.classification.tolist()) == (2, [0.5] * 5, [0.5] * 5)
    assert counted(annotations).tolist() == [False, True, False, True, False]
    ious = [[-1], [1], [-1], [-1], [-1]]
    np.testing.assert_array_equal(best_ious(make_guesses([[(1, WIDE)]] * 5, 1), annotations), ious)


def test_images_of_a_known_class_without_boxes_count_in_the_classification_error() -> None:
    annotations = make_annotations([(0, []), (1, [WIDE]), (0, []), (2, [WIDE]), (0, [])])
    annotations.image_classes = np.array([1, 1, 2, 2, 0])
    scores = localization_scores(make_guesses([[(1, WIDE), (2, WIDE)]] * 5), annotations)
    assert (scores.images, scores.classified_images) == (2, 4)
    assert scores.top.tolist() == [0.5, 0, 0, 0, 0]
    assert scores.classification.tolist() == [0.5, 0, 0, 0, 0]
    scores = localization_scores(make_guesses([[(1, WIDE)]] * 4 + [[]]), annotations)
    assert scores.classification.tolist() == [0.5] * 5  # images 0 and 1 of four
    scores = localization_scores(make_guesses([[], [(1, WIDE)], [], [], []]), annotations)
    assert (scores.top[0], scores.classification[0]) == (0.5, 0.75)


def test_sets_without_any_object_have_no_error() -> None:
    annotations = make_annotations([(0, []), (0, [])])
    scores = localization_scores(make_guesses([[(1, WIDE)], []]), annotations)
    assert scores.images == scores.given_images == 0
    assert np.isnan([*scores.top, *scores.classification, scores.given]).all()
    assert given_class_errors(np.zeros((2, 4)), annotations).tolist() == [True, True]
    assert math.isnan(best_constant_box(annotations, annotations))


def test_ignored_objects_are_not_there() -> None:
    annotations = make_annotations([(1, [WIDE, (50, 50, 79, 79)]), (1, [WIDE])])
    annotations = replace(annotations, ignore=np.array([True, False, True]))
    assert counted(annotations).tolist() == [True, False]
    boxes = np.array([[0.0, 0, 20, 10]] * 2)
    assert given_class_errors(boxes, annotations).tolist() == [True, True]
    assert localization_scores(Guesses(np.ones((2, 1), np.int64), boxes[:, None]), annotations).top.tolist() == [1]


def test_class_given_takes_the_first_box_of_the_class() -> None:
    """Three images whose class is guessed, of which one has its right box only behind a wrong one; one is not."""
    annotations = make_annotations([(1, [WIDE]), (2, [WIDE]), (3, [WIDE]), (4, [WIDE])])
    guesses = [[(2, WIDE), (1, HALF)], [(2, UNDER), (2, WIDE)], [(3, WIDE)], [(1, WIDE)]]
    scores = localization_scores(make_guesses(guesses), annotations)
    assert (scores.given, scores.given_images, scores.images) == (pytest.approx(1 / 3), 3, 4)
    assert scores.top[-1] == 0.25
    strict = localization_scores(make_guesses(guesses), annotations, 0.7)
    assert strict.given == pytest.approx(2 / 3)
    boxes = np.array([HALF, UNDER, WIDE, WIDE]) + [0, 0, 1, 1]
    assert given_class_errors(boxes, annotations).tolist() == [False, True, False, False]
    assert given_class_errors(boxes, annotations, 0.7).tolist() == [True, True, False, False]


def test_seventy_per_cent_exactly() -> None:
    annotations = make_annotations([(1, [(3, 3, 12, 3)])])
    for width, wrong in ((7, False), (6, True)):
        assert given_class_errors(np.array([[3.0, 3, 3 + width, 4]]), annotations, 0.7).tolist() == [wrong]


def test_the_annotations_themselves_have_no_error() -> None:
    annotations = make_annotations([(1, [WIDE, (50, 50, 79, 79)]), (3, [(1, 2, 3, 4)])])
    first = annotations.offsets[:-1]
    guesses = Guesses(annotations.labels[first, None], annotations.boxes[first, None])
    for iou in (0.5, 0.7, 1.0):
        scores = localization_scores(guesses, annotations, iou)
        assert (scores.top.tolist(), scores.classification.tolist(), scores.given) == ([0], [0], 0)


# Random cases against loops


def pixels_iou(box: Box, other: Box) -> float:
    """Of inclusive boxes, with the devkit's + 1."""
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in (box, other)]
    return width * height / (sum(areas) - width * height)


def slow_errors(images: list, guesses: list, count: int, iou: float) -> tuple[float, float]:
    """Mean over images of min over guesses of min over objects of max(label wrong, IoU too low)."""
    localization, classification = [], []
    for (label, boxes), given in zip(images, guesses, strict=True):
        if not boxes:
            continue
        distances = [
            max(guessed != label, min(int(pixels_iou(guess, box) < iou) for box in boxes))
            for guessed, guess in given[:count]
        ]
        localization.append(min(distances, default=1))
        classification.append(min((int(guessed != label) for guessed, _ in given[:count]), default=1))
    return float(np.mean(localization)), float(np.mean(classification))


def random_box(rng: np.random.Generator) -> Box:
    x1, y1 = rng.integers(0, 2, 2).tolist()
    width, height = rng.integers(1, 7, 2).tolist()
    return x1, y1, x1 + width, y1 + height


@pytest.mark.parametrize("seed", range(6))
def test_random_cases_against_loops(seed: int) -> None:
    """Small boxes, so that many pairs have an IoU of exactly 1/2 or 7/10."""
    rng = np.random.default_rng(seed)
    images = [(int(rng.integers(1, 4)), [random_box(rng) for _ in range(rng.integers(0, 4))]) for _ in range(200)]
    guesses = [[(int(rng.integers(1, 4)), random_box(rng)) for _ in range(rng.integers(0, 6))] for _ in images]
    annotations = make_annotations(images)
    for iou in (0.5, 0.7):
        scores = localization_scores(make_guesses(guesses), annotations, iou)
        found = list(zip(scores.top.tolist(), scores.classification.tolist(), strict=True))
        wanted = [slow_errors(images, guesses, count, iou) for count in range(1, 6)]
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        assert 0 < scores.top[-1] < scores.top[0] < 1

        boxes = [random_box(rng) for _ in images]
        wrong = given_class_errors(np.array(boxes) + [0, 0, 1, 1], annotations, iou)
        slow = [all(pixels_iou(box, other) < iou for other in own) for box, (_, own) in zip(boxes, images, strict=True)]
        assert wrong.tolist() == slow


# The constant box


def test_constant_box_of_images_of_many_sizes() -> None:
    """Most objects fill the middle of their image, of whatever size; the others a corner."""
    middle = make_annotations([(1, [(25, 25, 74, 74)])] * 3, size=(100, 100))
    wide = make_annotations([(1, [(50, 25, 149, 74)])] * 2, size=(100, 200))
    corner = make_annotations([(1, [(0, 0, 9, 9)])] * 4, size=(100, 100))
    for part in (middle, wide):
        x1, y1, x2, y2 = constant_box(part)
        box = np.array([x1, y1, x2, y2])
        shared = np.prod(np.minimum(box[2:], 0.75) - np.maximum(box[:2], 0.25))
        assert shared / ((x2 - x1) * (y2 - y1) + 0.25 - shared) >= 0.5
    assert best_constant_box(wide, middle) == best_constant_box(middle, wide) == 0
    assert best_constant_box(middle, corner) == 1
    both = make_annotations([(1, [(25, 25, 74, 74)])] * 3 + [(2, [(0, 0, 9, 9)])] * 4 + [(0, [])])
    assert best_constant_box(both, both) == pytest.approx(3 / 7)


def test_constant_box_against_all_boxes_of_the_grid() -> None:
    """0.501, since shares and pixels round differently where an IoU is exactly 0.5."""
    rng = np.random.default_rng(3)
    corners, sides = rng.integers(0, 10, (8, 2)), rng.integers(3, 10, (8, 2))
    images = [(1, [tuple(box)]) for box in np.hstack([corners, corners + sides]).tolist()]
    annotations = make_annotations(images, size=(20, 20))  # a step of the grid is a pixel
    most = 0
    for x1, y1 in np.ndindex(20, 20):
        for x2, y2 in np.ndindex(20 - x1, 20 - y1):
            box = (x1, y1, x1 + x2, y1 + y2)
            most = max(most, sum(pixels_iou(box, own) > 0.501 for _, (own,) in images))
    assert 2 <= most < 8
    assert best_constant_box(annotations, annotations, 0.501) == pytest.approx(1 - most / 8)


def test_constant_box_looks_at_images_from_all_of_the_set() -> None:
    """Of 2.5 times as many images as it looks at, the second half, which is larger, decides."""
    many = [(1, [(0, 0, 9, 9)])] * MOST_IMAGES + [(1, [(60, 60, 99, 99)])] * (3 * MOST_IMAGES // 2)
    assert best_constant_box(make_annotations(many), make_annotations([(1, [(60, 60, 99, 99)])])) == 0
