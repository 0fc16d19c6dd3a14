"""Normalized maps have the mean and deviation that were drawn for them; every image has enough detections."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detection.benchmark.calibrated import LEAST_DETECTIONS, calibrated_peer, spread
from detection.benchmark.case import make_case
from detection.benchmark.peer import as_torchvision_takes
from detection.benchmark.pictures import draw_pictures
from detection.errors import UserError

CPU = torch.device("cpu")


def test_every_normalization_of_the_trunk_has_the_statistics_of_its_inputs(predictors: dict[str, Any]) -> None:
    _, peer, pictures = predictors["fpn"]
    means: dict[FrozenBatchNorm2d, Tensor] = {}  # taken at once: the ReLU that follows works in place

    def note(layer: FrozenBatchNorm2d, _: tuple[Tensor], output: Tensor) -> None:
        means[layer] = output.mean(dim=(0, 2, 3))

    layers = [layer for layer in peer.backbone.modules() if isinstance(layer, FrozenBatchNorm2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    prepared, _ = peer.transform(as_torchvision_takes(pictures, CPU))
    with torch.no_grad():
        peer.backbone(prepared.tensors)
    for hook in hooks:
        hook.remove()
    assert len(means) == 20  # ResNet-18: conv1, 16 in blocks, 3 on shortcuts
    for layer, mean in means.items():
        torch.testing.assert_close(mean, layer.bias, rtol=0, atol=1e-4)
    largest = [layer.weight.max().item() for layer in means]
    assert sum(value < 0.31 for value in largest) == 8  # the ends of the blocks
    assert max(largest) <= 1.5


def test_every_image_has_enough_detections(predictors: dict[str, Any]) -> None:
    for _, peer, pictures in predictors.values():
        with torch.no_grad():
            found = peer(as_torchvision_takes(pictures, CPU))
        assert min(len(image["boxes"]) for image in found) >= LEAST_DETECTIONS


def test_the_same_seed_gives_the_same_weights(predictors: dict[str, Any]) -> None:
    predictor, peer, pictures = predictors["fpn"]
    again = calibrated_peer(predictor.config, 20, as_torchvision_takes(pictures, CPU)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in peer.state_dict().items())


def test_spread_gives_each_column_mean_0_and_the_deviation() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(5, 3), torch.rand(40, 5)
    with torch.no_grad():
        spread(layer, layer(inputs), 2.0)
        outputs = layer(inputs)
    torch.testing.assert_close(outputs.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.std(dim=0), torch.full((3,), 2.0))


def test_too_few_detections_are_a_mistake() -> None:
    settings = {"backbone": "resnet18", "device": "cpu", "model": {"rpn": {"post_nms_test": 2}}}
    settings["data"] = {"classes": ["one"]}
    config = make_case(settings, "c4", (64, 64), 1, 1).config
    with pytest.raises(UserError, match="fewer than 20 detections; give a larger size"):
        calibrated_peer(config, 1, as_torchvision_takes(draw_pictures(0, 1, (64, 64)), CPU))
