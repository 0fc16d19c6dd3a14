"""Residual blocks equal torchvision's, and equal themselves when their linear beginning runs before RoIAlign.

Shapes: ``B`` images, ``R`` regions of all images, ``C`` channels. Everything in float64.
"""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1
from torchvision.ops import FrozenBatchNorm2d, roi_align

from backbones import BackboneSettings, build_backbone
from backbones.blocks import FoldedBasicBlock, FoldedBottleneck, convolve, fold
from backbones.norm import constants, group_norm

NORMS = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "sync": nn.SyncBatchNorm, "group": group_norm}
PAIRS = {"basic": (FoldedBasicBlock, BasicBlock, 16), "bottleneck": (FoldedBottleneck, Bottleneck, 64)}
"""Ours, torchvision's, and the channels that 16 inner ones become."""


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with affine values and statistics as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith(("running_var", "weight")) and value.dim() == 1:
            nn.init.uniform_(value, 0.5, 1.5, generator)
        elif value.is_floating_point():
            nn.init.normal_(value, 0.0, 0.2, generator)
    return module.double()


def pair(kind: str, norm: str, channels: int = 8, stride: int = 2) -> tuple[nn.Module, nn.Module]:
    """Our block and torchvision's with the same values."""
    *classes, width = PAIRS[kind]
    layer = NORMS[norm]
    blocks = []
    for block in classes:
        shortcut = nn.Sequential(conv1x1(channels, width, stride), layer(width)) if width != channels else None
        blocks.append(randomized(block(channels, 16, stride if shortcut else 1, shortcut, norm_layer=layer)))
    return blocks[0], blocks[1]


def features(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor], theirs: list[Tensor]) -> None:
    """Values, and gradients of a weighted sum; an input may be unused by neither."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mine, other = (torch.autograd.grad((y * weights).sum(), x) for y, x in ((found, inputs), (expected, theirs)))
    for one, another in zip(mine, other, strict=True):
        torch.testing.assert_close(one, another, rtol=0, atol=1e-8)


CASES = [
    (kind, norm, training)
    for kind in PAIRS
    for norm in NORMS
    for training in (False, True)
    if (norm, training) != ("sync", True)  # which needs a GPU
]


@pytest.mark.parametrize(("kind", "norm", "training"), CASES)
@pytest.mark.parametrize("channels", [8, 0])
def test_blocks_equal_torchvisions(kind: str, norm: str, training: bool, channels: int) -> None:
    """With a shortcut that halves, and (0) with the identity."""
    ours, theirs = pair(kind, norm, channels or PAIRS[kind][2])
    x = features(2, channels or PAIRS[kind][2], 9, 7)
    found, expected = ours.train(training)(x), theirs.train(training)(x)
    assert_same(found, expected, [x, *ours.parameters()], [x, *theirs.parameters()])
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other)  # batch statistics move as ever
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(("kind", "norm", "training"), CASES)
def test_projecting_before_pooling_equals_pooling_first(kind: str, norm: str, training: bool) -> None:
    """RoIAlign is linear in each channel; a region reaches beyond the map, where samples count 0 and no shift is."""
    ours, theirs = pair(kind, norm)
    x = features(1, 8, 10, 12)
    boxes = torch.tensor([[-4.0, 2, 5, 9], [3, 3, 15, 12.5], [1, 0, 2, 1]], dtype=torch.float64)
    parts = ours.train(training).project(x)
    pooled = [roi_align(part, [boxes], 6, 1.0, 2)[:, :, ::n, ::n] for part, n in zip(parts, ours.steps, strict=True)]
    expected = theirs.train(training)(roi_align(x, [boxes], 6, 1.0, 2))
    assert_same(ours.finish(*pooled), expected, [x, *ours.parameters()], [x, *theirs.parameters()])


@pytest.mark.parametrize(("kind", "norm"), [(kind, norm) for kind in PAIRS for norm in NORMS])
def test_folded_for_good_a_block_equals_torchvisions_whole_and_split(kind: str, norm: str) -> None:
    ours, theirs = (block.eval() for block in pair(kind, norm))
    fold(ours)
    x, boxes = features(1, 8, 10, 12), torch.tensor([[-4.0, 2, 5, 9], [3, 3, 15, 12.5]], dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-9)
    pooled = [
        roi_align(part, [boxes], 6, 1.0, 2)[:, :, ::n, ::n] for part, n in zip(ours.project(x), ours.steps, strict=True)
    ]
    torch.testing.assert_close(ours.finish(*pooled), theirs(roi_align(x, [boxes], 6, 1.0, 2)), rtol=0, atol=1e-9)
    left = [layer for layer in ours.modules() if isinstance(layer, NORMS[norm])] if norm != "group" else []
    assert left == []


@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_a_whole_network_is_folded(head: str) -> None:
    built = build_backbone(BackboneSettings("resnet18", head, "batch"))
    trunk, whole = built.trunk, randomized(nn.ModuleList([built.trunk, *filter(None, [built.tail])])).eval()
    x, before = torch.rand(1, 3, 64, 64).double(), len(list(whole.parameters()))
    with torch.no_grad():
        maps = trunk(x)
        regions = built.tail(maps["0"]) if built.tail else torch.zeros(0)
        fold(whole)
        for name, values in trunk(x).items():
            assert torch.equal(values, maps[name]) and values.count_nonzero()
        assert torch.equal(built.tail(maps["0"]) if built.tail else torch.zeros(0), regions)
    layers = [type(layer) for layer in whole.modules()]
    assert nn.BatchNorm2d not in layers and layers.count(nn.Identity) == 20  # conv1, 16 in blocks, 3 on shortcuts
    assert len(list(whole.parameters())) == before - 20  # weight and bias of each became a bias


def test_a_convolution_after_its_normalization_is_not_folded() -> None:
    class Preactivated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, bias=False)

    network = Preactivated().eval()
    fold(network)
    assert isinstance(network.bn1, nn.BatchNorm2d) and network.conv1.bias is None


def test_constant_normalization_by_hand() -> None:
    """(y - 3) / sqrt(4 - 1e-5 + 1e-5) * 6 + 1 = 3 y - 8."""
    for norm in (FrozenBatchNorm2d(1), nn.BatchNorm2d(1).eval()):
        for name, value in (("weight", 6.0), ("bias", 1.0), ("running_mean", 3.0), ("running_var", 4 - 1e-5)):
            nn.init.constant_(getattr(norm, name), value)
        scale, shift = constants(norm)
        assert (scale.item(), shift.item()) == pytest.approx((3, -8), abs=1e-5)
    assert constants(nn.BatchNorm2d(1).train()) is None and constants(nn.GroupNorm(1, 1).eval()) is None


def test_folding_keeps_the_memory_layout_of_the_weights() -> None:
    convolution = nn.Conv2d(8, 16, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    scale, _ = constants(FrozenBatchNorm2d(16))
    folded = convolution.weight * scale.view(-1, 1, 1, 1)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(1, 8, 5, 5)
    assert convolve(convolution, FrozenBatchNorm2d(16), x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", PAIRS)
def test_in_half_precision_a_block_stays_there(kind: str) -> None:
    ours, _ = pair(kind, "frozen")
    with torch.autocast("cpu", torch.bfloat16):
        x = features(2, 8, 6, 6).bfloat16()
        whole = ours.float()(x)
        split = ours.finish(*(part[:, :, ::n, ::n] for part, n in zip(ours.project(x), ours.steps, strict=True)))
    assert whole.dtype == split.dtype == torch.bfloat16
    torch.testing.assert_close(split, whole, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("kind", PAIRS)
def test_blocks_are_one_graph_for_the_compiler(kind: str) -> None:
    ours, _ = pair(kind, "frozen")
    x = features(2, 8, 6, 6)
    torch.testing.assert_close(torch.compile(ours, backend="aot_eager", fullgraph=True)(x), ours(x))
