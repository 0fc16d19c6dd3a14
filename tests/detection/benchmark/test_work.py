"""Operations by their closed forms, stages by a slept time, synchronizations by where they come from."""

import importlib
import inspect
import json
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads

from detection.benchmark.work import (
    INSIDE,
    OUTSIDE,
    SELECTION,
    Stages,
    counted_events,
    counted_warnings,
    matrix_rate,
    operations,
    shares,
    write_trace,
)

CPU = torch.device("cpu")


def test_operations_of_a_convolution() -> None:
    """Two for each of 8 x 6 places, 5 filters, 4 channels and 3 x 3 taps."""
    layer, image = nn.Conv2d(4, 5, 3, padding=1), torch.zeros(1, 4, 8, 6)
    assert operations(lambda: layer(image)) == 2 * 8 * 6 * 5 * 4 * 9


def test_operations_of_a_training_step_are_three_times_those_of_the_product() -> None:
    weight, inputs = torch.zeros(7, 5, requires_grad=True), torch.zeros(11, 7, requires_grad=True)
    assert operations(lambda: (inputs @ weight).sum().backward()) == 3 * 2 * 11 * 7 * 5


def test_operations_of_compiled_code_count_too() -> None:
    layer = nn.Linear(6, 4)
    layer.compile(backend="eager")
    assert operations(lambda: layer(torch.zeros(3, 6))) == 2 * 3 * 6 * 4


def test_the_matrix_rate_is_of_two_operations_a_product() -> None:
    start = time.perf_counter()
    rate = matrix_rate(CPU, torch.float32, side=64)
    assert 2 * 64**3 / rate <= time.perf_counter() - start


class Slow(nn.Module):
    """A part that takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self) -> None:
        time.sleep(self.seconds)


class Detector(nn.Module):
    """Has what hooks are put on."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.rpn, self.roi_heads = Slow(0.02), Slow(0.04), Slow(0.06)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self) -> None:
        self.trunk(), self.rpn(), self.roi_heads()


def test_stages_of_a_prediction() -> None:
    detector = Detector()
    clock = Stages(detector, detector, CPU)
    seconds = [clock() for _ in range(3)]
    found = clock.medians(rounds=2)
    assert len(clock.turns) == 3 and seconds[0] == pytest.approx(sum(clock.turns[0].values()), abs=0.01)
    assert list(found) == ["trunk", "proposals", "region head"]
    assert list(found.values()) == pytest.approx([0.02, 0.04, 0.06], abs=0.019)
    assert not detector.rpn._forward_hooks and not detector.rpn._forward_pre_hooks


def test_stages_of_a_training_step() -> None:
    detector = Detector()
    optimizer = torch.optim.SGD(detector.parameters(), 0.1)

    def step() -> None:
        detector()
        time.sleep(0.03)
        detector.weight.grad = torch.ones(1)
        optimizer.step()
        time.sleep(0.05)

    clock = Stages(step, detector, CPU, optimizer)
    clock(), clock()
    found = clock.medians(rounds=1)
    assert list(found) == ["trunk", "proposals", "region head", "backward", "optimizer", "waiting"]
    assert [found["backward"], found["waiting"]] == pytest.approx([0.03, 0.05], abs=0.019)


def select() -> None:
    """Has the name of a selection, and is another function."""
    warnings.warn("called a synchronizing CUDA operation", stacklevel=1)


def test_synchronizations_are_told_apart_by_their_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    def warning_nms(boxes: torch.Tensor, scores: torch.Tensor, iou: float) -> torch.Tensor:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return torch.arange(len(scores))

    monkeypatch.setattr("torchvision.ops.boxes.nms", warning_nms)
    boxes, logits = torch.tensor([[0.0, 0, 4, 4]]), torch.zeros(1, 2)
    heads = RoIHeads(*[None] * 3, 0.5, 0.5, 1, 0.5, None, score_thresh=0.1, nms_thresh=0.5, detections_per_img=1)
    with counted_warnings() as found:
        heads.postprocess_detections(logits, torch.zeros(1, 8), [boxes], [(4, 4)])
        select()
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert found == {INSIDE: 1, OUTSIDE: 3}


@pytest.mark.parametrize(("name", "place"), SELECTION.items())
def test_what_selects_boxes_is_where_it_is_looked_for(name: str, place: str) -> None:
    module = importlib.import_module(place.removesuffix(".py").replace("/", "."))
    assert f"def {name}(" in inspect.getsource(module)


def test_waits_for_an_event_are_synchronizations_too(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(torch.cuda.Event, "synchronize", waited.append)
    found = Counter()
    with counted_events(found):
        torch.cuda.Event.synchronize("first"), torch.cuda.Event.synchronize("second")
    torch.cuda.Event.synchronize("third")
    assert found == {OUTSIDE: 2} and waited == ["first", "second", "third"]


def test_shares_in_words() -> None:
    assert shares({"trunk": 0.03, "rest": 0.01}) == {"trunk": "30 ms (75%)", "rest": "10 ms (25%)"}


def test_a_trace_names_the_operations(tmp_path: Path) -> None:
    write_trace(tmp_path / "new" / "trace.json", lambda: torch.ones(3) @ torch.ones(3))
    names = {event["name"] for event in json.loads((tmp_path / "new" / "trace.json").read_text())["traceEvents"]}
    assert "aten::dot" in names
