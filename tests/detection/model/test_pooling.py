"""Pooled regions and their gradients equal torchvision's, level by level.

Shapes: ``B`` images, ``R`` regions of an image, ``C`` channels.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool
from torchvision.ops.poolers import LevelMapper

from detection.model.pooling import RegionPooling, Source, assign_levels

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 512, 640
SMALLEST_SIDE = 32
"""One cell of the coarsest map."""


def pyramid(seed: int, strides: tuple[int, ...] = STRIDES, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(images, 2, HEIGHT // stride, WIDTH // stride) for stride in strides]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def random_regions(seed: int, count: int, smallest: float, images: int = 2) -> Tensor:
    """(B, R, 4) inside an image that fills the maps; half of them touch its right or bottom border."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64)
    fraction = torch.rand(images, count, 2, generator=generator, dtype=torch.float64)
    side = smallest * (limit / smallest) ** fraction  # sizes of all orders, so that all levels are met
    corner = torch.rand(images, count, 2, generator=generator, dtype=torch.float64) * (limit - side)
    touches = torch.rand(images, count, 2, generator=generator) < 0.3
    corner = torch.where(touches, limit - side, corner)
    return torch.cat((corner, torch.minimum(corner + side, limit)), dim=-1)


def one_by_one(maps: list[Tensor], regions: Tensor, kind: str, size: int, edge: int) -> Tensor:
    """Each region by torchvision's operator from its level's map, with `edge` copies of the last row and column."""
    mapper, pooled = LevelMapper(2, 5), []
    for image, boxes in enumerate(regions):
        for level, box in zip(mapper([boxes]).tolist(), boxes, strict=True):
            features = F.pad(maps[level][image : image + 1], (0, edge, 0, edge), mode="replicate")
            box, scale = [box.view(1, 4)], 1 / STRIDES[level]
            if kind == "max":
                pooled.append(roi_pool(features, box, size, scale))
            else:
                pooled.append(roi_align(features, box, size, scale, sampling_ratio=2))
    return torch.cat(pooled)


def assert_same_with_gradients(found: Tensor, expected: Tensor, maps: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair = [torch.autograd.grad((pooled * weights).sum(), maps, materialize_grads=True) for pooled in (found, expected)]
    for mine, other in zip(*pair, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)


def pooled(pool: RegionPooling, maps: list[torch.Tensor], regions: torch.Tensor) -> torch.Tensor:
    """The regions (B, R, 4), image after image."""
    images = torch.arange(len(regions)).repeat_interleave(regions.shape[1])
    return pool(Source(maps), regions.flatten(0, 1), images)


def test_levels_equal_torchvision() -> None:
    regions = random_regions(0, 500, 1.0)
    sides = [size * factor for size in (56, 112, 224, 448, 896) for factor in (1 - 1e-9, 1, 1 + 1e-9)]
    exact = torch.tensor([[0, 0, side, side] for side in sides], dtype=torch.float64)
    for boxes in (regions.flatten(0, 1), exact, regions.flatten(0, 1).float(), torch.zeros(1, 4)):
        expected = LevelMapper(2, 5)([boxes])
        assert torch.equal(assign_levels(boxes.unsqueeze(0), STRIDES)[0], expected)
    assert len(assign_levels(regions, STRIDES).unique()) == 4


@pytest.mark.parametrize("size", [7, 14])
def test_aligned_regions_of_a_pyramid_equal_torchvision(size: int) -> None:
    maps, regions = pyramid(1), random_regions(1, 60, 1.0)
    found = pooled(RegionPooling(STRIDES, size, "align", 2), maps, regions)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], size, 2)
    named = dict(zip(["0", "1", "2", "3"], maps, strict=True))
    assert_same_with_gradients(found, theirs(named, list(regions), [(HEIGHT, WIDTH)] * 2), maps)


def test_tiny_regions_off_the_border_equal_torchvision() -> None:
    maps = pyramid(2)
    regions = random_regions(2, 40, 1e-3).clamp(max=HEIGHT - 8)
    regions = torch.cat((regions[..., :2].clamp(max=HEIGHT - 9), regions[..., 2:]), dim=-1)
    regions[:, :10, 2:] = regions[:, :10, :2] + 1e-3  # some are next to nothing
    found = pooled(RegionPooling(STRIDES, 7, "align", 2), maps, regions)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = dict(zip(["0", "1", "2", "3"], maps, strict=True))
    assert_same_with_gradients(found, theirs(named, list(regions), [(HEIGHT, WIDTH)] * 2), maps)


@pytest.mark.parametrize(("kind", "edge"), [("align", 0), ("max", 2)])
def test_every_region_is_pooled_from_its_own_level(kind: str, edge: int) -> None:
    """Regions that reach beyond their map are included; none may read another map.

    RoIAlign widens thin ones to one cell, and takes 0 beyond a map as torchvision does. Max-pooling ends one cell
    later, and one more where 7 * (w / 7) rounds to more than w, as at w = 29 cells; there the last row and column are
    repeated.
    """
    maps, regions = pyramid(3), random_regions(3, 60, 1.0)
    regions[:, :6] = torch.tensor(
        [[100, HEIGHT - 2, 160, HEIGHT], [WIDTH - 2, 100, WIDTH, 160], [WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT],
         [0, HEIGHT - 1e-3, WIDTH, HEIGHT], [100, HEIGHT - 28 * 4, 160, HEIGHT], [WIDTH - 28 * 8, 100, WIDTH, 240]],
        dtype=torch.float64,
    )  # fmt: skip
    found = pooled(RegionPooling(STRIDES, 7, kind, 2), maps, regions)
    assert_same_with_gradients(found, one_by_one(maps, regions, kind, 7, edge), maps)


def test_max_pooled_regions_of_a_pyramid_equal_torchvision() -> None:
    """Where no bin lies wholly beyond the map: regions off the border, or of at least 7 cells each way."""
    maps, inside = pyramid(4), torch.tensor([WIDTH, HEIGHT] * 2, dtype=torch.float64) - SMALLEST_SIDE
    regions = torch.cat((random_regions(4, 60, 1.0) * inside / (inside + SMALLEST_SIDE), random_regions(4, 30, 224)), 1)
    found = pooled(RegionPooling(STRIDES, 7, "max", 2), maps, regions)
    assert_same_with_gradients(found, one_by_one(maps, regions, "max", 7, edge=0), maps)


@pytest.mark.parametrize("kind", ["align", "max"])
def test_a_single_map_equals_torchvision(kind: str) -> None:
    maps, regions = pyramid(5, strides=(16,)), random_regions(5, 60, 1.0)
    found = pooled(RegionPooling((16,), 14, kind, 2), maps, regions)
    operator = roi_pool if kind == "max" else lambda *arguments: roi_align(*arguments, sampling_ratio=2)
    assert_same_with_gradients(found, operator(maps[0], list(regions), 14, 1 / 16), maps)


def test_strides_are_not_inferred_from_the_first_batch() -> None:
    """Maps of one size after maps of another, the first of a size that misleads torchvision's inference."""
    pool = RegionPooling((16,), 7, "align", 2)
    for rows in (2, 32):
        features = torch.randn(1, 2, rows, 40, dtype=torch.float64)
        region = torch.tensor([[[20.0, 3.0, 90.0, 30.0]]], dtype=torch.float64)
        torch.testing.assert_close(pooled(pool, [features], region), roi_align(features, [region[0]], 7, 1 / 16, 2))


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_every_second_bin_is_torchvisions(ratio: int) -> None:
    """Of 14 x 14 bins and of 7 x 7; regions reach beyond the map on every side."""
    maps, generator = pyramid(6, strides=(16,)), torch.Generator().manual_seed(6)
    corner = torch.rand(2, 40, 2, generator=generator, dtype=torch.float64) * 700 - 100
    regions = torch.cat((corner, corner + torch.rand(2, 40, 2, generator=generator, dtype=torch.float64) * 300), dim=-1)
    images = torch.arange(2).repeat_interleave(40)
    for size in (14, 7):
        found = RegionPooling((16,), size, "align", ratio)(Source(maps, step=2), regions.flatten(0, 1), images)
        assert_same_with_gradients(found, roi_align(maps[0], list(regions), size, 1 / 16, ratio)[:, :, ::2, ::2], maps)


def test_a_region_that_is_no_number_reads_no_memory_that_is_not_its_own() -> None:
    """It pools to 0, and the others to what they are."""
    (features,) = pyramid(7, strides=(16,), images=1)
    regions = torch.tensor([[math.nan] * 4, [0.0, 0, 160, 160], [math.inf] * 4, [1e30, 0, 1e31, 9]]).double()
    found = RegionPooling((16,), 7, "align", 2)(Source([features]), regions, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found[1:2], roi_align(features, [regions[1:2]], 7, 1 / 16, 2))
    assert not found[[0, 2, 3]].any()


def test_half_precision_is_summed_in_single() -> None:
    """As torchvision under autocast: the result differs from the exact one by its own rounding, 2**-8, alone."""
    (features,), regions = pyramid(8, strides=(16,)), random_regions(8, 30, 16.0)
    half = features.detach().bfloat16()
    found = pooled(RegionPooling((16,), 14, "align", 2), [half], regions.float())
    assert found.dtype == torch.bfloat16
    exact = roi_align(half.double(), list(regions.float().double()), 14, 1 / 16, 2)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


def test_no_region_at_all() -> None:
    """As it may be at one size of an image pyramid."""
    maps = pyramid(9, strides=(16,))
    found = RegionPooling((16,), 7, "align", 2)(Source(maps), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0, 2, 7, 7)
    (gradient,) = torch.autograd.grad(found.sum(), maps)
    assert not gradient.any()
