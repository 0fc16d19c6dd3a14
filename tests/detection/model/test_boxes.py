"""Box arithmetic and suppression within groups against torchvision and closed forms."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_area, box_iou, clip_boxes_to_image

from detection.model.boxes import area, clip, decode, encode, full_precision, gather_boxes, intersection, unit_boxes
from detection.model.nms import nms_by_group

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def random_boxes(seed: int, *shape: int, extent: float = 600, smallest: float = 0.5, largest: float = 300) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = (torch.rand(*shape, 2, generator=generator, dtype=torch.float64) - 0.2) * extent
    side = smallest + torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * (largest - smallest)
    return torch.cat((corner, corner + side), dim=-1)


def test_areas_and_intersections_equal_torchvision() -> None:
    first, second = random_boxes(0, 40), random_boxes(1, 30)
    before = first.clone(), second.clone()
    shared = intersection(first[:, None], second[None])
    iou = shared / (area(first)[:, None] + area(second)[None] - shared)
    torch.testing.assert_close(area(first), box_area(first), rtol=0, atol=0)
    torch.testing.assert_close(iou, box_iou(first, second), rtol=0, atol=1e-12)
    assert torch.equal(first, before[0]) and torch.equal(second, before[1])


def test_sides_are_continuous() -> None:
    box, beside = torch.tensor([0.0, 0.0, 10.0, 4.0]), torch.tensor([10.0, 0.0, 20.0, 4.0])
    assert area(box) == 40 and intersection(box, beside) == 0  # no +1 anywhere: boxes that touch share nothing
    assert intersection(box, torch.tensor([8.0, 3.0, 20.0, 20.0])) == 2


@pytest.mark.parametrize("weights", WEIGHTS)
def test_encoding_equals_torchvision_and_decoding_inverts_it(weights: tuple[float, float, float, float]) -> None:
    targets, references = random_boxes(2, 5, 200), random_boxes(3, 5, 200, smallest=8)
    deltas = encode(targets, references, weights)
    expected = BoxCoder(weights).encode_single(targets.flatten(0, 1), references.flatten(0, 1))
    torch.testing.assert_close(deltas.flatten(0, 1), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(decode(deltas, references, weights, 62.5), targets, rtol=0, atol=1e-10)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_decoding_equals_torchvision_beyond_the_clamp_too(weights: tuple[float, float, float, float]) -> None:
    references = random_boxes(4, 400)
    generator = torch.Generator().manual_seed(4)
    deltas = torch.randn(400, 4, generator=generator, dtype=torch.float64) * torch.tensor(weights) * 4
    assert (deltas[:, 2] / weights[2] > torch.tensor(62.5).log()).any()
    expected = BoxCoder(weights).decode_single(deltas, references)
    torch.testing.assert_close(decode(deltas, references, weights, 1000 / 16), expected, rtol=1e-12, atol=1e-10)


def test_a_side_grows_at_most_by_the_given_ratio() -> None:
    reference = torch.tensor([[10.0, 20.0, 14.0, 22.0]], dtype=torch.float64)
    wild = torch.tensor([[0.0, 0.0, 1e6, torch.inf]], dtype=torch.float64)
    grown = decode(wild, reference, WEIGHTS[0], 8.0)
    # Sides 4 and 2 times 8, about the centre (12, 21).
    torch.testing.assert_close(grown, torch.tensor([[-4.0, 13.0, 28.0, 29.0]], dtype=torch.float64), rtol=0, atol=1e-12)


def test_clip_equals_torchvision_for_each_image() -> None:
    boxes = random_boxes(5, 3, 100)
    sizes = torch.tensor([[480.0, 600.0], [100.5, 640.0], [300.0, 7.0]])
    clipped = clip(boxes, sizes)
    for image, size in enumerate(sizes.tolist()):
        assert torch.equal(clipped[image], clip_boxes_to_image(boxes[image], size))


def test_half_precision_is_raised_and_the_rest_left_alone() -> None:
    for kind in (torch.float16, torch.bfloat16):
        assert full_precision(torch.ones(2, dtype=kind)).dtype == torch.float32
    for kind in (torch.float32, torch.float64):
        values = torch.ones(2, dtype=kind)
        assert full_precision(values) is values


def test_gathered_and_unit_boxes() -> None:
    boxes, index = random_boxes(6, 2, 9), torch.tensor([[8, 0, 0], [3, 4, 2]])
    expected = torch.stack([torch.stack([boxes[b, i] for i in row]) for b, row in enumerate(index)])
    assert torch.equal(gather_boxes(boxes, index), expected)
    assert torch.equal(unit_boxes(boxes, 2, 3), torch.tensor([0.0, 0, 1, 1], dtype=torch.float64).expand(2, 3, 4))


def slow_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> list[int]:
    kept: list[int] = []
    for place in scores.argsort(descending=True).tolist():
        rivals = [other for other in kept if groups[other] == groups[place]]
        if all(box_iou(boxes[[other]], boxes[[place]]).item() <= iou for other in rivals):
            kept.append(place)
    return kept


@pytest.mark.parametrize("iou", [0.3, 0.7])
def test_suppression_equals_torchvision_and_the_loop(iou: float) -> None:
    boxes = random_boxes(7, 150, extent=150, largest=120)
    generator = torch.Generator().manual_seed(7)
    scores = torch.rand(150, generator=generator, dtype=torch.float64)
    groups = torch.randint(0, 4, (150,), generator=generator)
    kept = nms_by_group(boxes, scores, groups, iou, 1000)
    assert 20 < len(kept) < 150
    assert torch.equal(kept, batched_nms(boxes, scores, groups, iou))
    assert kept.tolist() == slow_nms(boxes, scores, groups, iou)
    assert torch.equal(nms_by_group(boxes, scores, groups, iou, 7), kept[:7])


def test_groups_never_suppress_each_other_however_far_out() -> None:
    """80 classes at coordinates of 10^4, where an offset in float32 would round sides of 3 pixels to 1/16 pixel."""
    near = torch.tensor([[9990.0, 9990.0, 9993.0, 9993.0], [-50.0, -50.0, -49.0, -49.0]])
    boxes, groups = near.repeat(80, 1), torch.arange(80).repeat_interleave(2)
    scores = torch.linspace(1, 0.5, 160)
    assert torch.equal(nms_by_group(boxes, scores, groups, 0.0, 1000), torch.arange(160))

    # In each class a pair shifted by t: IoU (3-t)/(3+t), just above or just below 0.5 on either side of t = 1.
    shift = torch.where(torch.arange(80) % 2 == 0, 0.99, 1.01)
    pairs = near[:1].repeat(160, 1)
    pairs[1::2, 0::2] += shift.unsqueeze(1)
    kept = nms_by_group(pairs, scores, groups, 0.5, 1000)
    expected = [place for place in range(160) if place % 2 == 0 or (place // 2) % 2 == 1]
    assert kept.tolist() == expected


def test_groups_are_apart_with_negative_coordinates_too() -> None:
    boxes = torch.tensor([[-100.0, -100.0, 100.0, 100.0]]).repeat(3, 1)
    scores, groups = torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 2])
    assert nms_by_group(boxes, scores, groups, 0.0, 10).tolist() == [1, 2, 0]
    assert nms_by_group(boxes - 1000, scores, groups, 0.0, 10).tolist() == [1, 2, 0]


def test_suppression_of_nothing() -> None:
    kept = nms_by_group(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5, 10)
    assert kept.shape == (0,) and kept.dtype == torch.int64
