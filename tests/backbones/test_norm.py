"""Which normalization a network gets, and every refusal of settings that contradict each other."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from backbones import BackboneError, BackboneSettings, build_backbone, names
from backbones.norm import group_norm


def kinds(module: nn.Module) -> set[type[nn.Module]]:
    known = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, FrozenBatchNorm2d)
    return {type(layer) for layer in module.modules() if isinstance(layer, known)}


@pytest.mark.parametrize(
    ("name", "head", "norm", "kind", "in_pyramid"),
    [
        ("resnet18", "fpn", "batch", {nn.BatchNorm2d}, set()),
        ("resnet18", "fpn", "sync", {nn.SyncBatchNorm}, set()),
        ("resnet18", "fpn", "group", {nn.GroupNorm}, {nn.GroupNorm}),
        ("vgg16", "fpn", "none", set(), set()),
        ("vgg16", "fpn", "batch", {nn.BatchNorm2d}, set()),
        ("vgg16", "fpn", "group", {nn.GroupNorm}, {nn.GroupNorm}),
    ],
)
def test_normalization_of_body_and_pyramid(name: str, head: str, norm: str, kind: set, in_pyramid: set) -> None:
    with torch.device("meta"):
        trunk = build_backbone(BackboneSettings(name, head, norm)).trunk
    assert kinds(trunk.body) == kind
    assert kinds(trunk.fpn) == in_pyramid


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (512, 32), (48, 16), (20, 4), (7, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    layer = group_norm(channels)
    assert layer.num_groups == groups
    features = layer(torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(0)))
    means = features.reshape(2, groups, -1).mean(2)
    torch.testing.assert_close(means, torch.zeros(2, groups), atol=1e-5, rtol=0)


def test_names() -> None:
    assert names() == ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19")


REFUSALS = {
    "unknown name": (
        BackboneSettings("resnet51", "c4", "group"),
        "backbone 'resnet51' is not one of resnet18, resnet34, resnet50, resnet101, resnet152, vgg16, vgg19; "
        "did you mean resnet50?",
    ),
    "resnet with fc": (
        BackboneSettings("resnet18", "fc", "group"),
        "head fc: resnet18 has no fc6 and fc7 to run on regions; use c4 or fpn, or a VGG",
    ),
    "vgg with c4": (
        BackboneSettings("vgg16", "c4", "none"),
        "head c4: vgg16 has no residual conv5 to run on regions; use fc or fpn, or a ResNet",
    ),
    "resnet without normalization": (
        BackboneSettings("resnet18", "c4", "none"),
        "norm none: resnet18 takes frozen, batch, sync or group",
    ),
    "frozen vgg": (BackboneSettings("vgg16", "fpn", "frozen"), "norm frozen: vgg16 takes none, batch or group"),
    "synchronized vgg": (BackboneSettings("vgg16", "fpn", "sync"), "norm sync: vgg16 takes none, batch or group"),
    "frozen without weights": (
        BackboneSettings("resnet18", "c4", "frozen"),
        "norm frozen: resnet18 without pretrained weights has no statistics to freeze, so nothing would be normalized; "
        "give --weights imagenet1k_v1|FILE, or use norm group, batch or sync",
    ),
    "group with ImageNet weights": (
        BackboneSettings("resnet18", "c4", "group", weights="imagenet1k_v1"),
        "norm group: the ImageNet weights of resnet18 were trained with batch normalization; "
        "use norm frozen, batch or sync, or --weights none|FILE",
    ),
    "VGG group with ImageNet weights": (
        BackboneSettings("vgg16", "fpn", "group", weights="imagenet1k_v1"),
        "norm group: the ImageNet weights of vgg16 were trained without normalization or with batch normalization; "
        "use norm none or batch, or --weights none|FILE",
    ),
    "no second ImageNet weights": (
        BackboneSettings("vgg16", "fpn", "batch", weights="imagenet1k_v2"),
        "weights imagenet1k_v2: torchvision has none for vgg16_bn; use --weights imagenet1k_v1",
    ),
    "too much frozen in c4": (
        BackboneSettings("resnet18", "c4", "group", freeze_at=6),
        "freeze_at 6: resnet18 with the c4 head has 5 stages to freeze, so give a number from 0 to 5",
    ),
    "too much frozen in fc": (
        BackboneSettings("vgg16", "fc", "none", freeze_at=6),
        "freeze_at 6: vgg16 with the fc head has 5 stages to freeze, so give a number from 0 to 5",
    ),
    "less than nothing frozen": (
        BackboneSettings("resnet18", "fpn", "group", freeze_at=-1),
        "freeze_at -1: resnet18 with the fpn head has 5 stages to freeze, so give a number from 0 to 5",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    settings, message = REFUSALS[case]
    with pytest.raises(BackboneError) as refused, torch.device("meta"):
        build_backbone(settings)
    assert str(refused.value) == message


def test_a_checkpoint_brings_its_own_statistics() -> None:
    """A frozen network for a checkpoint is built without its weights being sought."""
    settings = BackboneSettings("resnet18", "c4", "frozen", weights="a file that is gone.pth")
    with torch.device("meta"):
        backbone = build_backbone(settings, load_weights=False)
    assert backbone.report == "pretrained weights left to the checkpoint"
    assert kinds(backbone.trunk) == {FrozenBatchNorm2d}
