"""From scored regions to detections: box voting by hand, and all of the selection against loops with exact overlaps.

Shapes: ``B`` images, ``R`` regions of an image, ``K`` classes, ``D`` detections of an image.
"""

import dataclasses
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from detection.batch import Batch
from detection.config import InferenceSettings
from detection.model.selection import RegionOutputs, select_detections

CLASSES = 3
SETTINGS = InferenceSettings(score_threshold=0.125, nms_iou=0.3, detections=6, vote_iou=0.5)
Candidate = tuple[tuple[float, float, float, float], int, float]
"""Box, label from 1, score."""


def images(sizes: list[list[float]], original: list[list[float]]) -> Batch:
    count = len(sizes)
    nothing = torch.zeros(count, 1, dtype=torch.int64)
    return Batch(
        torch.zeros(count, 3, 1, 1), torch.tensor(sizes), torch.tensor(original), torch.arange(count),
        torch.zeros(count, 1, 4), nothing, nothing.bool(), torch.arange(count),
    )  # fmt: skip


def select(candidates: list[Candidate], **changes: float) -> list[Candidate]:
    """Detections in one image of 100 x 100 pixels, of regions that have one class each."""
    boxes = torch.tensor([box for box, *_ in candidates], dtype=torch.float64)
    scores = torch.zeros(1, len(candidates), CLASSES, dtype=torch.float64)
    for row, (_, label, score) in enumerate(candidates):
        scores[0, row, label - 1] = score
    outputs = RegionOutputs(boxes[None, :, None].expand(-1, -1, CLASSES, -1), scores)
    is_valid, batch = torch.ones(1, len(candidates), dtype=torch.bool), images([[100, 100]], [[100, 100]])
    (found,) = select_detections(outputs, is_valid, batch, dataclasses.replace(SETTINGS, **changes))
    boxes, labels, scores = (found[name].tolist() for name in ("boxes", "labels", "scores"))
    return list(zip(map(tuple, boxes), labels, scores, strict=True))


BEST = ((0, 0, 10, 10), 1, 0.75)
RIGHT = ((2, 0, 12, 10), 1, 0.5)
BELOW = ((0, 2, 10, 12), 1, 0.25)
"""Both overlap the best box by 80 of 120 square pixels."""


def test_three_boxes_by_hand() -> None:
    """Weights 3/4, 1/2, 1/4: x is moved by 2 * 1/2 over 3/2, y by 2 * 1/4 over 3/2. The best box's score remains."""
    ((box, label, score),) = select([RIGHT, BELOW, BEST])
    assert box == pytest.approx([float(Fraction(*n)) for n in ((2, 3), (1, 3), (32, 3), (31, 3))], abs=1e-12)
    assert (label, score) == (1, 0.75)
    assert select([RIGHT, BELOW, BEST], vote_iou=0.0) == [BEST]


@pytest.mark.parametrize(
    ("voter", "has_voice"),
    [
        (((0, 0, 10, 5), 1, 0.25), True),  # IoU exactly 1/2
        (((0, 0, 10, 4.875), 1, 0.25), False),
        (((0, 0, 10, 5), 2, 0.25), False),  # of another class
        (((0, 0, 10, 5), 1, 0.1251), True),
        (((0, 0, 10, 5), 1, 0.125), False),  # not above the threshold
        (((0, 0, 10, 5), 1, 0.75), True),
    ],
)
def test_who_has_a_voice(voter: Candidate, has_voice: bool) -> None:
    (found, *_) = select([BEST, voter])
    score = voter[2]
    y2 = (0.75 * 10 + score * 5) / (0.75 + score) if has_voice else 10
    assert found[0] == pytest.approx((0, 0, 10, y2), abs=1e-12) and found[1:] == (1, 0.75)


def test_each_class_has_its_own_vote() -> None:
    first, second = select([BEST, (RIGHT[0], 1, 0.25), (RIGHT[0], 2, 0.625), (BEST[0], 2, 0.375)])
    assert first == ((0.5, 0, 10.5, 10), 1, 0.75)
    assert second == ((1.25, 0, 11.25, 10), 2, 0.625)


def test_boxes_that_are_both_kept_vote_for_each_other_and_beyond_the_limit_too() -> None:
    """An overlap of 1/2 is no reason for removal at 0.6; the votes count the boxes as they were before any vote."""
    other = ((0, 0, 10, 5), 1, 0.25)
    mean = (0, 0, 10, 8.75)
    assert select([BEST, other], nms_iou=0.6) == [(mean, 1, 0.75), (mean, 1, 0.25)]
    assert select([BEST, other], nms_iou=0.6, detections=1) == [(mean, 1, 0.75)]


def test_voters_are_cut_to_the_image_first() -> None:
    """(90, 0, 200, 10) is (90, 0, 100, 10) in the image, and then equal to the best box."""
    (found,) = select([((90, 0, 100, 10), 1, 0.75), ((90, 0, 200, 10), 1, 0.5)])
    assert found == ((90, 0, 100, 10), 1, 0.75)


def test_only_equal_boxes_vote_at_an_iou_of_one() -> None:
    outputs, is_valid, batch = scene(0)
    found = select_detections(outputs, is_valid, batch, dataclasses.replace(SETTINGS, vote_iou=1.0))
    expected = select_detections(outputs, is_valid, batch, dataclasses.replace(SETTINGS, vote_iou=0.0))
    for result, other in zip(found, expected, strict=True):
        for name, values in result.items():
            torch.testing.assert_close(values, other[name], rtol=0, atol=1e-12)


def test_boxes_are_in_pixels_of_the_original_image() -> None:
    """50 x 100 resized to 100 x 400: x is divided by 4, y by 2; float32 comes back as float32."""
    outputs = RegionOutputs(torch.tensor([[[[40.0, 20.0, 80.0, 60.0]]]]), torch.tensor([[[0.5]]]))
    batch, is_valid = images([[100, 400]], [[50, 100]]), torch.ones(1, 1, dtype=torch.bool)
    (found,) = select_detections(outputs, is_valid, batch, SETTINGS)
    assert found["boxes"].tolist() == [[10, 10, 20, 30]] and found["boxes"].dtype == torch.float32
    assert found["labels"].tolist() == [1] and found["scores"].tolist() == [0.5]


def scene(seed: int) -> tuple[RegionOutputs, Tensor, Batch]:
    """Boxes on whole pixels around a few centres, some beyond the image; the last of four images has no region."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(10, 90, (4, 4, 2), generator=generator).repeat(1, 8, 1).unsqueeze(2)
    first, second = (centre + sign * torch.randint(4, 15, (4, 32, CLASSES, 2), generator=generator) for sign in (-1, 1))
    boxes = torch.cat((first, second), dim=-1).double()
    scores = torch.randn(4, 32, CLASSES + 1, generator=generator, dtype=torch.float64).mul(2).softmax(dim=-1)[..., 1:]
    is_valid = torch.rand(4, 32, generator=generator) < 0.9
    is_valid[3] = False
    sizes = [[100.0, 100.0], [64.0, 96.0], [90.0, 50.0], [100.0, 100.0]]
    return RegionOutputs(boxes, scores), is_valid, images(sizes, [[50, 200], [64, 96], [45, 25], [100, 100]])


def overlap(first: list[float], second: list[float]) -> Fraction:
    """Exact IoU of boxes on whole pixels."""

    def shared(a: list[float], b: list[float]) -> int:
        return max(0, int(min(a[2], b[2]) - max(a[0], b[0]))) * max(0, int(min(a[3], b[3]) - max(a[1], b[1])))

    return Fraction(shared(first, second), shared(first, first) + shared(second, second) - shared(first, second))


def slow_selection(outputs: RegionOutputs, is_valid: Tensor, batch: Batch, image: int, iou: str) -> list[Candidate]:
    """The detections of one image, class by class and box by box; `iou` of the vote."""
    (height, width), (rows, columns) = batch.sizes[image].tolist(), batch.original_sizes[image].tolist()
    found = []
    for label in range(1, CLASSES + 1):
        candidates = []
        for region in is_valid[image].nonzero().flatten().tolist():
            x1, y1, x2, y2 = outputs.boxes[image, region, label - 1].tolist()
            box = [max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)]
            score = outputs.scores[image, region, label - 1].item()
            if score > SETTINGS.score_threshold and box[2] > box[0] and box[3] > box[1]:
                candidates.append((score, box))
        kept = []
        for score, box in sorted(candidates, reverse=True):
            if all(overlap(box, other) <= Fraction("0.3") for _, other in kept):
                kept.append((score, box))
        for score, box in kept:
            voters = [voter for voter in candidates if overlap(box, voter[1]) >= Fraction(iou)] if iou != "0" else []
            voters = voters or [(score, box)]
            total = sum(weight for weight, _ in voters)
            mean = [sum(weight * other[side] for weight, other in voters) / total for side in range(4)]
            scaled = [value * (columns / width, rows / height)[side % 2] for side, value in enumerate(mean)]
            found.append((scaled, label, score))
    return sorted(found, key=lambda detection: -detection[2])[: SETTINGS.detections]


@pytest.mark.parametrize("iou", ["0", "0.25", "0.5", "0.8"])
@pytest.mark.parametrize("seed", range(4))
def test_selection_equals_the_loop(seed: int, iou: str) -> None:
    outputs, is_valid, batch = scene(seed)
    settings = dataclasses.replace(SETTINGS, vote_iou=float(iou))
    results = select_detections(outputs, is_valid, batch, settings)
    plain = select_detections(outputs, is_valid, batch, dataclasses.replace(settings, vote_iou=0.0))
    for image, result in enumerate(results):
        expected = slow_selection(outputs, is_valid, batch, image, iou)
        assert (2 <= len(expected) <= 6) if image < 3 else expected == []
        assert result["labels"].tolist() == [label for _, label, _ in expected] == plain[image]["labels"].tolist()
        assert result["scores"].tolist() == [score for *_, score in expected]
        boxes = torch.tensor([box for box, *_ in expected], dtype=torch.float64).view(-1, 4)
        torch.testing.assert_close(result["boxes"], boxes, rtol=0, atol=1e-4)  # sizes are kept in float32
    assert len(results[0]["scores"]) == 6
    moved = [not torch.equal(result["boxes"], other["boxes"]) for result, other in zip(results, plain, strict=True)]
    assert moved == [iou != "0"] * 3 + [False]


def test_images_without_candidates_have_no_detections() -> None:
    """No valid region, no score above the threshold, no box inside the image, no region at all."""
    outputs, is_valid, batch = scene(1)
    beyond, low = outputs._replace(boxes=outputs.boxes + 1000), outputs._replace(scores=outputs.scores / 8)
    none = RegionOutputs(*(part[:, :0] for part in outputs))
    cases = [(outputs, is_valid & False), (low, is_valid), (beyond, is_valid), (none, is_valid[:, :0])]
    for given, valid in cases:
        for result in select_detections(given, valid, batch, SETTINGS):
            assert [tuple(result[name].shape) for name in ("boxes", "labels", "scores")] == [(0, 4), (0,), (0,)]
