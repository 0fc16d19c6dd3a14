"""Pooled regions and their gradients equal torchvision's, level by level.

Shapes: ``B`` images, ``R`` regions of an image, ``C`` channels.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool
from torchvision.ops.poolers import LevelMapper

from detection.model.pooling import RegionPooling, assign_levels

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 512, 640
SMALLEST_SIDE = 32
"""One cell of the coarsest map: thinner regions are widened by RoIAlign, which matters at the border only."""


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
    """Each region from torchvision's operator on the map of its level, whose last row and column are repeated."""
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
    return pool(maps, regions.flatten(0, 1), images)


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
    maps, regions = pyramid(1), random_regions(1, 60, SMALLEST_SIDE)
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


@pytest.mark.parametrize("kind", ["align", "max"])
def test_every_region_is_pooled_from_its_own_level_with_a_repeated_edge(kind: str) -> None:
    """Where torchvision would read beyond a map and give 0, the last row and column are repeated.

    Regions that reach beyond their map are included: RoIAlign widens thin ones to one cell; RoI pooling ends one cell
    later, and one more where 7 * (w / 7) rounds to more than w, as at w = 29 cells. Neither may reach another map.
    """
    maps, regions = pyramid(3), random_regions(3, 60, 1.0)
    regions[:, :6] = torch.tensor(
        [[100, HEIGHT - 2, 160, HEIGHT], [WIDTH - 2, 100, WIDTH, 160], [WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT],
         [0, HEIGHT - 1e-3, WIDTH, HEIGHT], [100, HEIGHT - 28 * 4, 160, HEIGHT], [WIDTH - 28 * 8, 100, WIDTH, 240]],
        dtype=torch.float64,
    )  # fmt: skip
    found = pooled(RegionPooling(STRIDES, 7, kind, 2), maps, regions)
    assert_same_with_gradients(found, one_by_one(maps, regions, kind, 7, edge=2), maps)


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
