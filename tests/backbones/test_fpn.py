"""The pyramid equals torchvision's, whose layers it has, whether it learns or only predicts.

Everything in float64.
"""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork

from backbones.fpn import Pyramid, add_upsampled

WIDTHS = (4, 8, 16)
DOUBLED, ODD = ((16, 24), (8, 12), (4, 6)), ((15, 23), (8, 12), (3, 6))
"""Sizes of the maps of padded images, each twice the next, and of others."""


def maps_of(sizes: tuple[tuple[int, int], ...]) -> OrderedDict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(2, width, *size, generator=generator, dtype=torch.float64)
        for width, size in zip(WIDTHS, sizes, strict=True)
    ]
    return OrderedDict((str(number), part.requires_grad_()) for number, part in enumerate(parts))


@pytest.mark.parametrize("sizes", [DOUBLED, ODD])
@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_levels_and_gradients_are_torchvisions(sizes: tuple[tuple[int, int], ...], norm: str) -> None:
    pyramid, maps = Pyramid(WIDTHS, 8, norm).double(), maps_of(sizes)
    found, expected = pyramid(maps), FeaturePyramidNetwork.forward(pyramid, maps)
    assert list(found) == list(expected) == ["0", "1", "2", "pool"]
    weights = {name: torch.randn_like(level) for name, level in expected.items()}
    inputs = [*maps.values(), *pyramid.parameters()]
    mine, theirs = (
        torch.autograd.grad(sum((levels[name] * weights[name]).sum() for name in weights), inputs)
        for levels in (found, expected)
    )
    for name, level in expected.items():
        torch.testing.assert_close(found[name], level, rtol=0, atol=1e-12)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", [DOUBLED, ODD])
def test_without_gradients_the_levels_are_the_same_and_the_maps_stay(sizes: tuple[tuple[int, int], ...]) -> None:
    pyramid, maps = Pyramid(WIDTHS, 8, "frozen").double(), maps_of(sizes)
    before = {name: part.detach().clone() for name, part in maps.items()}
    expected = FeaturePyramidNetwork.forward(pyramid, maps)
    with torch.inference_mode():
        for name, level in pyramid(maps).items():
            torch.testing.assert_close(level, expected[name].detach(), rtol=0, atol=1e-12)
    assert all(torch.equal(part, before[name]) for name, part in maps.items())


def test_the_nearest_neighbour_by_hand() -> None:
    fine, coarse = torch.zeros(1, 1, 2, 4), torch.tensor([[[[1.0, 2.0]]]])
    with torch.no_grad():
        assert add_upsampled(fine, coarse).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]
    assert fine.sum() == 12  # it was added in place
