"""conv5 per region: begun on the map it gives, and learns, what it does region by region.

Shapes: ``R`` regions of all images, ``C`` channels.
"""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.resnet import Bottleneck, conv1x1
from torchvision.ops import FrozenBatchNorm2d, roi_align, roi_pool

from backbones import BackboneSettings, build_backbone
from backbones.blocks import FoldedBottleneck
from backbones.resnet import Conv5
from detection.model.box_heads import Conv5Head, PyramidHead
from detection.model.pooling import RegionPooling

CHANNELS = 8


class Narrow(nn.Module):
    """conv5 of a thin residual network: 8 channels to 16, in two blocks."""

    def __init__(self, block: type[Bottleneck]) -> None:
        super().__init__()
        torch.manual_seed(0)
        shortcut = nn.Sequential(conv1x1(CHANNELS, 16, 2), FrozenBatchNorm2d(16))
        first = block(CHANNELS, 4, 2, shortcut, norm_layer=FrozenBatchNorm2d)
        self.layer4 = nn.Sequential(first, block(16, 4, norm_layer=FrozenBatchNorm2d))
        for layer in self.modules():
            if isinstance(layer, FrozenBatchNorm2d):
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
                nn.init.normal_(layer.bias)
                nn.init.normal_(layer.running_mean)


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """A map of two images of 128 x 160 pixels at stride 16, regions (R, 4) up to beyond the border, their images."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, CHANNELS, 8, 10, generator=generator, dtype=torch.float64).requires_grad_()
    corner = torch.rand(12, 2, generator=generator, dtype=torch.float64) * 100
    regions = torch.cat((corner, corner + 4 + torch.rand(12, 2, generator=generator, dtype=torch.float64) * 70), dim=1)
    return features, regions, torch.arange(2).repeat_interleave(6)


@pytest.mark.parametrize("kind", ["align", "max"])
def test_vectors_and_gradients_equal_torchvisions_blocks_on_pooled_regions(kind: str) -> None:
    """RoIAlign is linear and conv5 begins on the map; the maximum is not, and conv5 begins after it."""
    features, regions, images = scene()
    theirs = Narrow(Bottleneck).double()
    ours = Conv5(Narrow(FoldedBottleneck)).double()
    ours.load_state_dict(theirs.state_dict())
    head, pool = Conv5Head(ours, kind == "align"), RegionPooling((16,), 14, kind, 2)
    assert head.out_channels == 16
    found = head(*(pool(source, regions, images) for source in head.sources([features])))
    rois = torch.cat((images.unsqueeze(1), regions), dim=1)
    pooled = roi_pool(features, rois, 14, 1 / 16) if kind == "max" else roi_align(features, rois, 14, 1 / 16, 2)
    expected = theirs.layer4(pooled).mean(dim=(2, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    pair = [
        torch.autograd.grad(vectors.square().sum(), [features, *module.parameters()])
        for vectors, module in ((found, ours), (expected, theirs))
    ]
    for mine, other in zip(*pair, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "widths"), [("resnet50", [(512, 1), (2048, 2)]), ("resnet18", [(256, 1)])])
def test_what_is_pooled(name: str, widths: list[tuple[int, int]]) -> None:
    """512 channels of conv5_1's first layer at every bin, 2048 of its shortcut at every second; or conv4's own."""
    with torch.device("meta"):
        trunk, tail, _ = build_backbone(BackboneSettings(name, "c4", "group"))
        maps = [torch.empty(1, trunk.out_channels, 4, 5)]
    sources = Conv5Head(tail, True).sources(maps)
    assert [(source.maps[0].shape[1], source.step) for source in sources] == widths
    assert all(source.maps[0].shape[2:] == (4, 5) for source in sources)
    assert [source.maps for source in Conv5Head(tail, False).sources(maps)] == [maps]


def test_the_head_is_one_graph_for_the_compiler() -> None:
    head = Conv5Head(Conv5(Narrow(FoldedBottleneck)), True)
    pooled = torch.randn(3, 4, 14, 14), torch.randn(3, 16, 7, 7)
    torch.testing.assert_close(torch.compile(head, backend="aot_eager", fullgraph=True)(*pooled), head(*pooled))


def test_the_pyramids_head_is_torchvisions_before_and_after_its_weights_are_sorted() -> None:
    torch.manual_seed(0)
    theirs, ours = TwoMLPHead(CHANNELS * 9, 5).double(), PyramidHead(CHANNELS, 3, 5).double()
    ours.load_state_dict(theirs.state_dict())
    pooled = torch.randn(4, 3, 3, CHANNELS, dtype=torch.float64).permute(0, 3, 1, 2)
    found, expected = ours(pooled), theirs(pooled)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = [
        torch.autograd.grad(vectors.square().sum(), head.parameters())
        for vectors, head in ((found, ours), (expected, theirs))
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    for _ in range(2):  # the second time there is nothing to do
        ours.sort_weights()
        assert torch.equal(ours(pooled), found)
    with pytest.raises(RuntimeError, match="size mismatch for fc6.weight"):
        PyramidHead(CHANNELS, 3, 5).double().load_state_dict(ours.state_dict())
