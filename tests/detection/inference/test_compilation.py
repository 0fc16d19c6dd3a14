"""Compiled parts: the same numbers under the same names, from few variants.

The capture of a whole detector is checked with torch's backend that generates no code, which takes seconds. That code
is generated and runs is checked on a small network.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from detection.config import from_dict, overlay
from detection.errors import UserError
from detection.inference.compilation import compile_parts, returns_to_sizes
from detection.inference.ensemble import Member, detect, filled_up, sizes_of
from detection.model.rpn import Proposals

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def anew():
    """Nothing compiled before counts, and the limit is put back."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


@pytest.fixture
def captured(monkeypatch):
    """Has parts captured as for compilation, and run as they are."""
    monkeypatch.setattr(torch, "compile", partial(_captured, torch.compile))


def _captured(compile, function, dynamic=None, mode=None):
    return compile(function, dynamic=dynamic, backend="eager")


class Small(nn.Module):
    """A network with one of the parts."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.rest = nn.Linear(4, 2)

    def forward(self, images):
        return self.rest(self.backbone(images).mean((2, 3)))


def test_code_is_generated_once_for_all_sizes_and_gives_the_same_gradients():
    torch.manual_seed(0)
    plain = Small()
    compiled = copy.deepcopy(plain)
    compile_parts(compiled, CPU, is_graphed=True)
    counters.clear()
    for shape in ((2, 3, 16, 24), (2, 3, 24, 16), (3, 3, 20, 20)):
        images = torch.randn(shape)
        for network in (plain, compiled):
            network.zero_grad()
            network(images).square().sum().backward()
        for (name, expected), found in zip(plain.named_parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6, msg=name)
    assert counters["stats"]["unique_graphs"] == 1
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_a_missing_compiler_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    with pytest.raises(UserError, match="^--compile: torch cannot compile here .*no-such-compiler.*g") as caught:
        compile_parts(Small(), CPU, is_graphed=False)
    assert "\n" not in str(caught.value)


def losses_and_gradients(detector, batch):
    detector.train().zero_grad()
    losses = detector(batch)
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}, [p.grad for p in detector.parameters()]


def test_training_and_prediction_are_those_of_the_plain_detector_in_few_variants(member, images_at, captured):
    """Trunk, proposal head, region head; the map is once as wide as it has channels: one more."""
    plain = member("c4", data={"test_min_size": 64, "test_max_size": 128})
    compiled = Member(copy.deepcopy(plain.detector), from_dict(overlay(vars(plain.config), {"compile": True})))
    compile_parts(compiled.detector, CPU, is_graphed=False)
    counters.clear()
    (size,) = sizes_of([plain])
    for shapes in ([(130, 200), (150, 180)], [(200, 130), (180, 150)]):
        batch = images_at(shapes, [size])[size]
        expected, gradients = losses_and_gradients(plain.detector, batch)
        found, own = losses_and_gradients(compiled.detector, batch)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(own, gradients)
    assert counters["stats"]["unique_graphs"] == 4
    for shapes in ([(130, 200), (150, 180)], [(200, 130), (180, 150), (190, 130)]):
        images = images_at(shapes, [size])
        plain.detector.eval(), compiled.detector.eval()
        with torch.inference_mode():
            torch.testing.assert_close(detect([compiled], images), detect([plain], images))
    assert counters["stats"]["unique_graphs"] <= 8
    assert list(compiled.detector.state_dict()) == list(plain.detector.state_dict())


def test_a_copy_of_a_compiled_network_is_not_compiled(captured):
    """The moving average is such a copy; code that belongs to the weights of another would be wrong."""
    network = Small()
    compile_parts(network, CPU, is_graphed=False)
    other = copy.deepcopy(network)
    assert network.backbone._compiled_call_impl is not None
    assert other.backbone._compiled_call_impl is None


def test_regions_are_filled_up_to_one_number():
    boxes, scores = torch.rand(2, 3, 4), torch.rand(2, 3)
    is_valid = torch.tensor([[True, True, True], [True, False, False]])
    filled = filled_up(Proposals(boxes, scores, is_valid), 5)
    assert torch.equal(filled.boxes[:, :3], boxes)
    assert filled.boxes[:, 3:].tolist() == [[[0, 0, 1, 1]] * 2] * 2
    assert filled.scores[:, 3:].tolist() == [[0, 0]] * 2
    assert filled.is_valid.tolist() == [[True, True, True, False, False], [True, False, False, False, False]]
    assert torch.equal(filled_up(filled, 5).boxes, filled.boxes)


@pytest.mark.parametrize(
    ("given", "in_training", "in_prediction"),
    [
        ({}, True, True),
        ({"data": {"min_size": [480, 600]}}, False, True),
        ({"data": {"augment": {"scale_jitter": [0.5, 1.0]}}}, False, True),
        ({"test": {"scales": [400, 600]}}, False, False),
    ],
)
def test_graphs_are_for_images_that_return_to_few_sizes(given, in_training, in_prediction):
    config = from_dict(given)
    assert returns_to_sizes(config, is_training=True) == in_training
    assert returns_to_sizes(config, is_training=False) == in_prediction
