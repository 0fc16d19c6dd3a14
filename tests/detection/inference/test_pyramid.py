"""Several sizes and two orientations of an image, against the same worked out one region at a time.

Shapes: ``B`` images, ``R`` regions of an image.
"""

import math

import pytest
import torch
from torch import Tensor

from detection.config import from_dict
from detection.data.dataset import ImageSize
from detection.inference import pyramid
from detection.inference.ensemble import Member, detect, sizes_of
from detection.inference.pyramid import ImagePyramid, choose_pairs, level_of, mirror_boxes, mirror_images, mirrored
from detection.model.selection import RegionOutputs

SHAPES = ((60, 87), (75, 62))
"""Rows and columns of the two images of a batch, wide and tall; their resized sides are rounded differently."""
HEADS = [("c4", False), ("c4", True), ("fpn", False), ("fpn", True), ("fc", False), ("fc", True)]


def regions_of(reference: Tensor) -> Tensor:
    """(B, 7, 4): the whole image, its left half, and smaller and smaller parts of it, down to a point."""
    rows, columns = reference[:, 0], reference[:, 1]
    parts = [(0, 0, 1, 1), (0, 0, 0.5, 1), (0.1, 0.2, 0.8, 0.9), (0.5, 0.1, 0.95, 0.4), (0.3, 0.3, 0.6, 0.7)]
    parts += [(0.7, 0.7, 0.82, 0.83), (0.5, 0.5, 0.5, 0.5)]
    boxes = [torch.stack((x1 * columns, y1 * rows, x2 * columns, y2 * rows), dim=1) for x1, y1, x2, y2 in parts]
    return torch.stack(boxes, dim=1)


# Which two sizes


def _areas(side: float, scales: list[float]) -> Tensor:
    """Areas (S,) of a square region that has `side` pixels at the scale 1."""
    return torch.tensor([(side * scale) ** 2 for scale in scales], dtype=torch.float64)


@pytest.mark.parametrize(
    ("side", "first"),
    [
        (112, 3),  # at 600: 37, 75, 112, 149, 187: the largest two
        (224, 2),  # 75, 149, 224, 299, 373: 1.05 + 0.75 or more for others, against 0 + 0.575 for (600, 800)
        (336, 1),  # 112, 224, 336: 0 + 0.81 for (400, 600), against 1.39 + 0 for (200, 400)
        (300, 1),  # 200 at 400 and 300 at 600: 0.23 + 0.58 = 0.81, against 0.58 + 1.16 for (600, 800)
        (600, 0),  # 200, 400: 0.23 + 1.16 = 1.39, against 1.16 + 1.97 for (400, 600)
        (1e6, 0),
        (1e-3, 3),
    ],
)
def test_the_two_scales_of_a_region_with_a_known_side(side: float, first: int) -> None:
    scales = [200 / 600, 400 / 600, 1, 800 / 600, 1000 / 600]
    assert choose_pairs(_areas(side, scales)).item() == first


def test_of_two_pairs_that_are_equally_far_the_smaller_sizes_are_taken() -> None:
    """With areas of 1/4, 1 and 4 of 224 x 224 both pairs are log 4 away."""
    assert choose_pairs(torch.tensor([0.25, 1, 4]) * 224**2).item() == 0


def test_half_and_double_the_area_are_equally_far() -> None:
    """Sums of |log2|: 2 + 1 against 1 + 1; then 1 + 1 against 1 + 2."""
    areas = torch.tensor([[1 / 4, 1 / 2, 2], [1 / 2, 2, 4]]) * 224**2
    assert choose_pairs(areas).tolist() == [1, 0]


def test_the_longer_sides_limit_grows_with_the_shorter_side(member) -> None:
    """600 and 1000 pixels: an image of 500 x 375 is not limited, one of 2000 x 300 at every scale."""
    data = {"test_min_size": 600, "test_max_size": 1000}
    sizes = member("fc", data=data, scales=[200, 400, 600, 800, 1000]).region_sizes
    assert [size.longest for size in sizes] == pytest.approx([1000 / 3, 2000 / 3, 1000, 4000 / 3, 5000 / 3])
    assert [size.resized((375, 500)) for size in sizes] == [
        (200, 267), (400, 533), (600, 800), (800, 1067), (1000, 1333)
    ]  # fmt: skip
    assert [size.resized((300, 2000)) for size in sizes] == [
        (50, 333), (100, 667), (150, 1000), (200, 1333), (250, 1667)
    ]  # fmt: skip


def test_a_scale_that_is_the_proposals_size_is_that_size(tiny_config: dict) -> None:
    """Otherwise the trunk would look at it twice: for 82 of these, a / 600 * 600 is not a in floating point."""
    for longest in range(600, 1400):
        data = {**tiny_config["data"], "test_min_size": 600, "test_max_size": longest}
        run = Member(None, from_dict({**tiny_config, "data": data, "test": {"scales": [400, 600]}}))
        assert run.region_sizes[1] == run.proposal_size == ImageSize(600, longest, 64)


# Against the slow way


@pytest.mark.parametrize(
    ("head", "context", "flip"),
    [("c4", False, False), ("c4", True, True), ("fpn", False, True), ("fpn", True, False)]
    + [("fc", False, True), ("fc", True, False), ("fc", True, True)],
)
@torch.no_grad()
def test_scales_and_mirror_image_against_one_region_at_a_time(
    member, images_at, slow, monkeypatch, head: str, context: bool, flip: bool
) -> None:
    """With 48 in place of 224 pixels small images do, and every pair of scales is somebody's."""
    monkeypatch.setattr(pyramid, "CANONICAL_AREA", 48.0**2)
    run = member(head, context=context, scales=[32, 48, 80], flip=flip)
    images = images_at(SHAPES, sizes_of([run]))
    reference = images[run.proposal_size].sizes
    regions, pairs = regions_of(reference), set()
    found = run.look(images, reference).score(regions)
    for image in range(len(SHAPES)):
        at = [images[size] for size in run.region_sizes]
        views = [(batch.images[image], tuple(map(int, batch.sizes[image].tolist()))) for batch in at]
        expected = slow(run, views, reference[image].tolist(), canonical=48.0)
        for row, region in enumerate(regions[image].tolist()):
            boxes, scores = expected(region)
            torch.testing.assert_close(found.boxes[image, row], boxes, rtol=0, atol=1e-4)
            torch.testing.assert_close(found.scores[image, row], scores, rtol=0, atol=1e-6)
            pairs.add(expected.two_scales(region))
    assert pairs == {(0, 1), (1, 2)}
    assert found.scores.std(dim=1).max() > 1e-3  # regions differ


@pytest.mark.parametrize(("head", "context"), HEADS)
@torch.no_grad()
def test_one_size_is_the_plain_detector(member, images_at, head: str, context: bool) -> None:
    """The parts that meet in `detect` against the detector called by itself; equal to the last bits."""
    run = member(head, context=context)
    images = images_at(SHAPES, sizes_of([run]))
    found, expected = detect([run], images), run.detector(images[run.proposal_size])
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) > 2 and torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-10)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("head", ["c4", "fpn"])
@torch.no_grad()
def test_the_same_size_three_times_is_the_plain_detector(member, images_at, head: str) -> None:
    """The maximum of a vector and itself is the vector."""
    run = member(head, context=True)
    (batch,) = images_at(SHAPES, sizes_of([run])).values()
    heads, features = run.detector.roi_heads, run.detector.features(batch)
    level, regions = level_of(heads, features, batch, batch.sizes), regions_of(batch.sizes)
    found = ImagePyramid(heads, [level] * 3)(regions)
    expected = heads.outputs(heads.describe(features, regions, batch.sizes), regions)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-10)


# What is computed how often


@pytest.mark.parametrize(
    ("scales", "flip", "runs"),
    [
        ([], False, 1),
        ([], True, 2),
        ([32, 48, 64, 80, 96], False, 5),
        ([32, 48, 72, 80, 96], False, 6),  # and 64 for the proposals
        ([32, 48, 64, 80, 96], True, 10),
        ([32, 48, 72, 80, 96], True, 11),  # proposals are made of the image as it is only
    ],
)
@pytest.mark.parametrize("refine", [False, True])
@torch.no_grad()
def test_the_trunk_runs_once_for_each_size_and_orientation(member, images_at, scales, flip, runs, refine) -> None:
    run = member("fc", scales=scales, flip=flip, refine=refine, refine_rounds=2, context=True)
    images, seen, regions = images_at(SHAPES, sizes_of([run])), [], []
    run.detector.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    run.detector.roi_heads.box_head.register_forward_pre_hook(lambda _, given: regions.append(len(given[0])))
    detect([run], images)
    assert len(seen) == runs
    # The head sees each image once at each size and orientation, and each region at two sizes in each round.
    described = sum(regions)
    batch = images[run.proposal_size]
    proposals, _ = run.detector.rpn(run.detector.features(batch), batch)
    levels, rounds = max(1, len(scales)), 3 if refine else 1
    assert described == (1 + flip) * (2 * levels + proposals.is_valid.numel() * min(2, levels) * rounds)


# Left and right exchanged


def test_boxes_are_mirrored_about_the_middle_of_their_own_image() -> None:
    boxes = torch.tensor([[[0.0, 1, 3, 4], [2, 0, 10, 5]], [[0, 1, 3, 4], [1.5, 2, 7, 3]]])
    expected = [[[7, 1, 10, 4], [0, 0, 8, 5]], [[4, 1, 7, 4], [0, 2, 5.5, 3]]]
    widths = torch.tensor([10.0, 7.0])
    assert mirror_boxes(boxes, widths).tolist() == expected
    by_class = boxes.unsqueeze(2).expand(-1, -1, 3, -1)
    assert mirror_boxes(by_class, widths).tolist() == [[[box] * 3 for box in image] for image in expected]
    assert torch.equal(mirror_boxes(mirror_boxes(boxes, widths), widths), boxes)


def test_images_are_mirrored_inside_their_padding(images_at) -> None:
    """Three images of 5, 4 and 8 columns in 8: an odd width, an even one, and no padding."""
    (batch,) = images_at([(3, 5), (2, 4), (3, 8)], [ImageSize(1000, 8, 8)]).values()
    batch.sizes[:, 1] = torch.tensor([5.0, 4.0, 8.0])
    batch.images[:] = torch.arange(10, 18, dtype=torch.uint8)
    batch.images[0, :, :, 5:], batch.images[1, :, :, 4:] = 0, 0
    turned = mirror_images(batch)
    assert turned.images[:, 1, 2].tolist() == [
        [14, 13, 12, 11, 10, 0, 0, 0],
        [13, 12, 11, 10, 0, 0, 0, 0],
        [17, 16, 15, 14, 13, 12, 11, 10],
    ]
    assert turned.images.dtype == torch.uint8 and torch.equal(turned.sizes, batch.sizes)
    assert torch.equal(mirror_images(turned).images, batch.images)


def test_a_scorer_mirrored_twice_is_the_scorer() -> None:
    """One that moves every region by 3 to the right moves it by 3 to the left in the mirror."""
    regions, widths = torch.tensor([[[4.0, 0, 8, 5]]]), torch.tensor([20.0])

    def moved(regions: Tensor) -> RegionOutputs:
        boxes = regions.unsqueeze(2) + torch.tensor([3.0, 0, 3, 0])
        return RegionOutputs(boxes, boxes[..., 0])

    once = mirrored(moved, widths)
    assert once(regions).boxes.tolist() == [[[[1, 0, 5, 5]]]]
    assert once(regions).scores.tolist() == [[[15]]]  # asked about 12 to 16, it says 15
    twice = mirrored(once, widths)(regions)
    assert twice.boxes.tolist() == moved(regions).boxes.tolist() and twice.scores.tolist() == [[[7]]]


@pytest.mark.parametrize("head", ["c4", "fpn"])
@torch.no_grad()
def test_a_symmetric_image_is_seen_symmetrically(member, images_at, head: str) -> None:
    """The means over both orientations of a region and of its mirror image are mirror images of each other."""
    run = member(head, flip=True, context=True)
    images = images_at([(64, 75)], sizes_of([run]))
    (batch,) = images.values()
    assert batch.sizes.tolist() == [[64, 75]]
    batch.images[..., 38:75] = batch.images[..., :37].flip(3)
    score, regions = run.look(images, batch.sizes).score, regions_of(batch.sizes)
    found, turned = score(regions), score(mirror_boxes(regions, batch.sizes[:, 1]))
    torch.testing.assert_close(turned.scores, found.scores, rtol=0, atol=1e-9)
    torch.testing.assert_close(turned.boxes, mirror_boxes(found.boxes, batch.sizes[:, 1]), rtol=0, atol=1e-7)
    plain = member(head, context=True).look(images, batch.sizes).score(regions)
    assert not math.isclose((plain.scores - found.scores).abs().max().item(), 0, abs_tol=1e-4)
