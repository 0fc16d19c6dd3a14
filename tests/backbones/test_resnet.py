"""ResNet trunks and tails against torchvision's networks: sizes, values, counts, names."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

from backbones import BackboneSettings, build_backbone


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with batch statistics and affine values as training would leave them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 1.5, generator)
            nn.init.uniform_(layer.weight, 0.5, 1.0, generator)
            nn.init.normal_(layer.running_mean, 0.0, 0.1, generator)
            nn.init.normal_(layer.bias, 0.0, 0.1, generator)
    return network.eval()


def published(name: str) -> int:
    """Parameters of the whole classifier, as torchvision publishes them with its weights."""
    return models.get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (101, 128), (127, 71)])
@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_sizes_are_those_of_the_constant_strides_rounded_up(head: str, size: tuple[int, int]) -> None:
    trunk = build_backbone(BackboneSettings("resnet18", head, "group", pyramid_channels=32)).trunk
    maps = trunk(torch.zeros(1, 3, *size))
    assert trunk.strides == {"c4": (16,), "fpn": (4, 8, 16, 32, 64)}[head]
    assert list(maps) == {"c4": ["0"], "fpn": ["0", "1", "2", "3", "pool"]}[head]
    for stride, features in zip(trunk.strides, maps.values(), strict=True):
        expected = tuple(-(-side // stride) for side in size)
        assert features.shape == (1, trunk.out_channels, *expected)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 256), ("resnet50", 1024)])
def test_c4_has_stride_16_and_a_tail_that_halves_regions_of_14(name: str, width: int) -> None:
    trunk, tail, report = build_backbone(BackboneSettings(name, "c4", "batch"))
    assert (trunk.out_channels, trunk.pooled_levels, report) == (width, 1, "no pretrained weights")
    assert tail(torch.zeros(3, width, 14, 14)).shape == (3, 2 * width, 7, 7)
    assert tail.out_channels == 2 * width
    assert (list(trunk.stages()), list(tail.stages())) == (["conv1", "conv2", "conv3", "conv4"], ["conv5"])


def test_fpn_pools_from_four_of_five_levels() -> None:
    trunk, tail, _ = build_backbone(BackboneSettings("resnet18", "fpn", "batch", pyramid_channels=48))
    assert (trunk.out_channels, trunk.pooled_levels, tail) == (48, 4, None)
    assert list(trunk.stages()) == ["conv1", "conv2", "conv3", "conv4", "conv5", "pyramid"]


@pytest.mark.parametrize(
    ("name", "norm"), [("resnet18", "frozen"), ("resnet18", "batch"), ("resnet18", "sync"), ("resnet50", "frozen")]
)
def test_features_equal_torchvisions(name: str, norm: str, tmp_path: Path) -> None:
    network = randomized(models.get_model(name, weights=None))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    layers = create_feature_extractor(network, ["layer1", "layer2", "layer3", "layer4"])
    images = torch.rand(2, 3, 65, 96, generator=torch.Generator().manual_seed(1))
    weights = str(tmp_path / "weights.pth")
    c4 = build_backbone(BackboneSettings(name, "c4", norm, weights))
    fpn = build_backbone(BackboneSettings(name, "fpn", norm, weights))
    with torch.no_grad():
        expected = list(layers(images).values())
        shared = c4.trunk.eval()(images)["0"]
        found = list(fpn.trunk.eval().body(images).values())
        found_c4 = [shared, c4.tail.eval()(shared)]
    for ours, theirs in zip([*found, *found_c4], [*expected, *expected[2:]], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_parameters_add_up_to_the_published_number(name: str) -> None:
    features = 512 if name in ("resnet18", "resnet34") else 2048
    classifier = 1000 * features + 1000
    with torch.device("meta"):
        trunk, tail, _ = build_backbone(BackboneSettings(name, "c4", "batch"))
    assert parameters(trunk, tail) + classifier == published(name)


def test_resnet101_has_the_published_parameters() -> None:
    assert published("resnet101") == 44_549_160  # as printed with torchvision's weights


def test_trunk_of_resnet101_has_91_convolutions() -> None:
    """Appendix A of the ResNet paper: "91 conv layers in ResNet-101" up to conv4; projections do not count."""
    with torch.device("meta"):
        trunk = build_backbone(BackboneSettings("resnet101", "c4", "batch")).trunk
    layers = [name for name, layer in trunk.named_modules() if isinstance(layer, nn.Conv2d)]
    assert sum("downsample" not in name for name in layers) == 91


def test_torchvision_detector_loads_unchanged() -> None:
    detector = models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    theirs = randomized(detector.backbone).double()
    ours = build_backbone(BackboneSettings("resnet50", "fpn", "batch")).trunk.eval().double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.rand(1, 3, 97, 70, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert list(found) == list(expected)
    for name, features in expected.items():
        torch.testing.assert_close(found[name], features, rtol=0, atol=1e-10)


def test_initialization_is_torchvisions_with_blocks_that_begin_as_identities() -> None:
    torch.manual_seed(3)
    expected = models.resnet18(weights=None, zero_init_residual=True).state_dict()
    torch.manual_seed(3)
    body = build_backbone(BackboneSettings("resnet18", "fpn", "batch")).trunk.body
    for name, tensor in body.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_frozen_normalization_is_constant_with_torchvisions_epsilon(tmp_path: Path) -> None:
    torch.save(randomized(models.resnet18(weights=None)).state_dict(), tmp_path / "weights.pth")
    trunk, tail, _ = build_backbone(BackboneSettings("resnet18", "c4", "frozen", str(tmp_path / "weights.pth")))
    layers = [layer for module in (trunk, tail) for layer in module.modules() if isinstance(layer, FrozenBatchNorm2d)]
    assert len(layers) == 20
    assert {layer.eps for layer in layers} == {1e-5}
    assert not any(layer.state_dict(keep_vars=True)["weight"].requires_grad for layer in layers)
    assert _batch_normalized(layers[0]) < 1e-5


def _batch_normalized(layer: FrozenBatchNorm2d) -> float:
    """Largest difference to the formula of batch normalization, written out in float64."""
    features = torch.rand(1, len(layer.weight), 2, 2, generator=torch.Generator().manual_seed(4))

    def column(values: Tensor) -> Tensor:
        return values.double()[None, :, None, None]

    centred = features.double() - column(layer.running_mean)
    expected = centred / (column(layer.running_var) + 1e-5).sqrt() * column(layer.weight) + column(layer.bias)
    return float((layer(features) - expected).abs().max())
