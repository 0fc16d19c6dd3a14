"""Both sides have the same losses and gradients; what differs is noticed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN as Peer

from detection.benchmark.agreement import Disagreement
from detection.benchmark.calibrated import calibrated_peer
from detection.benchmark.case import Case
from detection.benchmark.pictures import draw_samples
from detection.benchmark.train import OurTraining, PeerTraining, check_training, reference_batch
from detection.model import rpn

CPU = torch.device("cpu")


class Sides(NamedTuple):
    """Both sides with the same weights, and the batch in torchvision's form."""

    case: Case
    ours: OurTraining
    peer: Peer
    images: list[Tensor]
    targets: list[dict[str, Tensor]]

    def check(self) -> list[str]:
        """Names of the stages that agree."""
        detector, batch = self.ours.loop.detector, self.ours.batch
        return [check.stage for check in check_training(detector, self.peer, batch, self.images, self.targets)]


def make_sides(case: Case, folder: Path) -> Sides:
    """Both sides, calibrated on their batch."""
    samples = draw_samples(0, case.batch_size, case.size, classes=20)
    images, targets = reference_batch(samples)
    peer = calibrated_peer(case.config, 20, images)
    return Sides(case, OurTraining(case.config, peer.state_dict(), samples, folder, CPU), peer, images, targets)


@pytest.fixture(scope="module")
def sides(small_case: Callable[[str], Case], tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return make_sides(small_case("fpn"), tmp_path_factory.mktemp("train"))


@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_both_sides_train_the_same(small_case: Callable[[str], Case], tmp_path: Path, head: str) -> None:
    sides = make_sides(small_case(head), tmp_path)
    losses = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    gradients = {f"gradients of the {part}" for part in ("features", "proposal network", "region head", "trunk")}
    assert set(sides.check()) == {"trained tensors", "features", *losses, *gradients}
    assert all(value.grad is None for value in sides.ours.loop.detector.parameters())


def test_another_loss_is_noticed(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    original = rpn.objectness_loss
    monkeypatch.setattr(rpn, "objectness_loss", lambda *given: original(*given) / 2)
    with pytest.raises(Disagreement, match="^loss_objectness: the sides differ by"):
        sides.check()


def test_a_layer_that_only_one_side_trains_is_noticed(sides: Sides) -> None:
    weight = sides.peer.backbone.body["conv1"].weight
    weight.requires_grad_(True)
    with pytest.raises(Disagreement, match=r"^trained tensors: backbone.body.conv1.weight on one side only$"):
        sides.check()
    weight.requires_grad_(False)


def test_a_step_changes_the_trained_weights_of_either_side_alone(sides: Sides) -> None:
    theirs = PeerTraining(sides.peer, sides.case.config, sides.images, sides.targets, torch.float32)
    for side, detector in ((sides.ours, sides.ours.loop.detector), (theirs, sides.peer)):
        before = {name: value.detach().clone() for name, value in detector.named_parameters()}
        side()
        for name, value in detector.named_parameters():
            assert torch.equal(value, before[name]) != value.requires_grad, name
    assert sides.ours.loop.done == 1


def test_what_a_side_holds(sides: Sides) -> None:
    """Weights and constants, and the momentum of what is trained; gradients are gone after our step."""
    sides.ours()
    side: Any = sides.ours.side()
    detector = side.detector
    weights = sum(value.nbytes for value in (*detector.parameters(), *detector.buffers()))
    momentum = sum(value.nbytes for value in detector.parameters() if value.requires_grad)
    held = sum(value.nbytes for value in side.held())
    assert held == weights + momentum + sides.ours.batch.images.nbytes
