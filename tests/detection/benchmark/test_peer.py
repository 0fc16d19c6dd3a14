"""The peer is torchvision's, and has our detector's tensors under our detector's names."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from detection.benchmark.case import make_case
from detection.benchmark.peer import build_peer
from detection.model.build import build_detector

NETWORKS = [("resnet18", "c4"), ("resnet101", "c4"), ("resnet50", "fpn"), ("vgg16", "fc")]


@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_tensors_have_the_same_names_shapes_and_training(backbone: str, head: str) -> None:
    config = make_case({"backbone": backbone}, head, (96, 128), 1, 1).config
    with torch.device("meta"):
        peer, (ours, _) = build_peer(config, 20), build_detector(config, 20, load_weights=False)
    shapes = [{name: value.shape for name, value in side.state_dict().items()} for side in (ours, peer)]
    assert shapes[0] == shapes[1]
    trained = [{name for name, value in side.named_parameters() if value.requires_grad} for side in (ours, peer)]
    assert trained[0] == trained[1]
    assert len(trained[0]) < len(shapes[0])


@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_the_peer_is_made_of_torchvisions_classes_alone(backbone: str, head: str) -> None:
    config = make_case({"backbone": backbone}, head, (96, 128), 1, 1).config
    with torch.device("meta"):
        peer = build_peer(config, 20)
    assert type(peer).forward is GeneralizedRCNN.forward
    assert (type(peer.rpn), type(peer.roi_heads)) == (RegionProposalNetwork, RoIHeads)
    assert type(peer.rpn.anchor_generator) is AnchorGenerator
    own = {type(module).__module__ for module in peer.modules() if "detection.benchmark" in type(module).__module__}
    assert own <= {"detection.benchmark.peer"}
    assert not any(type(module).__module__.startswith(("detection.model", "backbones")) for module in peer.modules())
