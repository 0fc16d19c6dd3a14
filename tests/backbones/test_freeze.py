"""Frozen stages: no gradients, and no batch statistics that move."""

import pytest
import torch
from torch import Tensor, nn

from backbones import Backbone, BackboneSettings, build_backbone


def statistics(stages: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The running means and variances and counters of each stage, in one vector."""
    return {name: torch.cat([buffer.float().flatten() for buffer in m.buffers()]).clone() for name, m in stages.items()}


def trained(stages: dict[str, nn.Module]) -> list[str]:
    """Stages in which parameters are trained; none is trained in part."""
    flags = {name: {parameter.requires_grad for parameter in stage.parameters()} for name, stage in stages.items()}
    assert all(len(flag) == 1 for flag in flags.values())
    return [name for name, flag in flags.items() if flag == {True}]


def all_stages(backbone: Backbone) -> dict[str, nn.Module]:
    return {**backbone.trunk.stages(), **(backbone.tail.stages() if backbone.tail else {})}


@pytest.mark.parametrize("norm", ["batch", "sync"])
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 4, 5])
def test_frozen_stages_of_c4_do_not_move_in_training(freeze_at: int, norm: str) -> None:
    backbone = build_backbone(BackboneSettings("resnet18", "c4", norm, freeze_at=freeze_at))
    model = nn.Sequential(backbone.trunk, backbone.tail).train()  # as inside a detector
    stages = all_stages(backbone)
    before = statistics(stages)
    features = model[0](torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))["0"]
    loss = model[1](features).sum()
    after = statistics(stages)
    order = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert [name for name in order if not torch.equal(before[name], after[name])] == order[freeze_at:]
    assert trained(stages) == order[freeze_at:]
    assert loss.requires_grad == (freeze_at < 5)


def test_frozen_stages_get_no_gradient() -> None:
    backbone = build_backbone(BackboneSettings("resnet18", "fpn", "group", freeze_at=3, pyramid_channels=32))
    maps = backbone.trunk(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    sum(features.square().sum() for features in maps.values()).backward()
    stages = all_stages(backbone)
    reached = [name for name, stage in stages.items() if all(p.grad is not None for p in stage.parameters())]
    assert reached == trained(stages) == ["conv4", "conv5", "pyramid"]


def test_frozen_stages_stay_in_evaluation_mode() -> None:
    trunk = build_backbone(BackboneSettings("resnet18", "fpn", "batch", freeze_at=2)).trunk
    for _ in range(2):
        modes = {
            name: {module.training for module in stage.children()} for name, stage in trunk.train().stages().items()
        }
        assert modes["conv1"] == modes["conv2"] == {False}
        assert modes["conv3"] == modes["conv5"] == modes["pyramid"] == {True}
        trunk.eval()
    assert not any(module.training for module in trunk.modules())


@pytest.mark.parametrize(("freeze_at", "first"), [(0, 0), (1, 2), (2, 4), (5, 13)])
def test_frozen_stages_of_vgg_are_counted_in_convolutions(freeze_at: int, first: int) -> None:
    """Table 1 of the VGG paper: stages of 2, 2, 3, 3, 3 convolutions."""
    with torch.device("meta"):
        trunk, tail, _ = build_backbone(BackboneSettings("vgg16", "fc", "none", freeze_at=freeze_at))
    layers = [layer for layer in trunk.body if isinstance(layer, nn.Conv2d)]
    assert [layer.weight.requires_grad for layer in layers] == [False] * first + [True] * (13 - first)
    assert all(parameter.requires_grad for parameter in tail.parameters())
