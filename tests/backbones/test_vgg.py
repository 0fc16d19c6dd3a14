"""VGG trunks and tails against torchvision's networks: sizes, values, counts."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from backbones import BackboneSettings, build_backbone, weights


def published(name: str) -> int:
    """Parameters of the whole classifier, as torchvision publishes them with its weights."""
    return models.get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (127, 71)])
def test_pyramid_sizes_are_those_of_the_constant_strides_rounded_down(size: tuple[int, int]) -> None:
    """The five poolings drop an odd last row; only the sixth level is rounded up."""
    trunk, tail, _ = build_backbone(BackboneSettings("vgg16", "fpn", "group", pyramid_channels=32))
    maps = trunk(torch.zeros(1, 3, *size))
    assert (trunk.strides, trunk.pooled_levels, tail) == ((4, 8, 16, 32, 64), 4, None)
    sides = [tuple(side // stride for side in size) for stride in (4, 8, 16, 32)]
    sides.append(tuple(-(-side // 2) for side in sides[-1]))
    assert [features.shape for features in maps.values()] == [(1, 32, *side) for side in sides]


def test_padded_images_have_whole_strides() -> None:
    trunk = build_backbone(BackboneSettings("vgg16", "fpn", "none", pyramid_channels=32)).trunk
    maps = trunk(torch.zeros(1, 3, 64, 128))
    assert [features.shape[2:] for features in maps.values()] == [(64 // s, 128 // s) for s in trunk.strides]


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_fc_trunk_has_stride_16(norm: str) -> None:
    with torch.device("meta"):
        trunk, tail, _ = build_backbone(BackboneSettings("vgg16", "fc", norm))
        maps = trunk(torch.zeros(2, 3, 97, 128))
        hidden = tail(torch.zeros(5, 512 * 7 * 7))
    assert (trunk.strides, trunk.out_channels, trunk.pooled_levels) == ((16,), 512, 1)
    assert {name: features.shape for name, features in maps.items()} == {"0": (2, 512, 6, 8)}
    assert (hidden.shape, tail.out_channels) == ((5, 4096), 4096)
    assert list(trunk.stages()) == ["conv1", "conv2", "conv3", "conv4", "conv5"]


@pytest.mark.parametrize(("name", "stages"), [("vgg16", [2, 2, 3, 3, 3]), ("vgg19", [2, 2, 4, 4, 4])])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_parameters_add_up_to_the_published_number(name: str, stages: list[int], norm: str) -> None:
    with torch.device("meta"):
        trunk, tail, _ = build_backbone(BackboneSettings(name, "fc", norm))
    classifier = 4096 * 1000 + 1000
    assert parameters(trunk, tail) + classifier == published(name + ("_bn" if norm == "batch" else ""))
    found = [sum(isinstance(layer, nn.Conv2d) for layer in stage) for stage in trunk.stages().values()]
    assert found == stages


@pytest.mark.parametrize(("name", "ends"), [("vgg16", (16, 23, 30, 31)), ("vgg19", (18, 27, 36, 37))])
def test_pyramid_reads_the_last_convolutions_and_the_last_pooling(name: str, ends: tuple[int, ...]) -> None:
    """`ends`: how many of torchvision's layers lead to the ends of conv3, conv4, conv5 (ReLU) and to pool5."""
    body = build_backbone(BackboneSettings(name, "fpn", "none")).trunk.body
    with torch.device("meta"):
        features = models.get_model(name).features
    features = features.to_empty(device="cpu")
    features.load_state_dict(body.state_dict(), strict=True)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = body(images)
        expected = [features[:end](images) for end in ends]
    assert body.channels == (256, 512, 512, 512)
    for ours, theirs in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_features_and_classifier_equal_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads a whole torchvision state dict (from memory, it is half a gigabyte) and compares up to fc7."""
    with torch.device("meta"):
        network = models.vgg16()
    generator = torch.Generator().manual_seed(0)
    state = {name: _scaled(tensor, generator) for name, tensor in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    monkeypatch.setattr(weights, "read", lambda path: state)
    trunk, tail, report = build_backbone(BackboneSettings("vgg16", "fc", "none", weights="vgg16.pth"))
    images = torch.rand(1, 3, 224, 224, generator=generator)
    with torch.no_grad():
        features = trunk.eval()(images)["0"]
        hidden = tail.eval()(nn.functional.max_pool2d(features, 2))
        expected = network.features(images)
        expected_hidden = network.classifier[:5].eval()(expected.flatten(1))
    torch.testing.assert_close(nn.functional.max_pool2d(features, 2), expected)
    torch.testing.assert_close(hidden, expected_hidden)
    assert hidden.std() > 0.01
    assert report == "weights vgg16.pth: 30 of 30 tensors loaded, 2 in the file not needed"


def _scaled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random values that keep the activations' size through a ReLU."""
    bound = math.sqrt(6 / max(tensor[0].numel(), 100))
    return torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator)


def test_dropout_follows_the_mode() -> None:
    with torch.device("meta"):
        tail = build_backbone(BackboneSettings("vgg16", "fc", "none", dropout=0.25)).tail
    assert tail.dropout.p == 0.25
    assert tail.train().dropout.training and not tail.eval().dropout.training


def test_initialization_is_torchvisions() -> None:
    """He's initialization by fan-out: variance 2 / (9 * channels), and zero biases."""
    body = build_backbone(BackboneSettings("vgg16", "fpn", "group")).trunk.body
    layers = [layer for layer in body if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 13
    for layer in layers[2:]:
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * layer.out_channels)), rel=0.02)
        assert not layer.bias.any()
    groups = [layer for layer in body if isinstance(layer, nn.GroupNorm)]
    assert [layer.num_channels for layer in groups] == [layer.out_channels for layer in layers]
    assert {layer.num_groups for layer in groups} == {32}
