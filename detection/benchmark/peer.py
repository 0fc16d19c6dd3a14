"""The peer: torchvision's own Faster R-CNN, put together from torchvision's parts as its documentation shows it.

Nothing of ResiDet's model is in it; only the names of the tensors are those that our detector gives them, so that both
take the same state dict.

Shapes: ``R`` regions of all images, ``C`` channels, ``H, W`` rows and columns.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from detection.config import Config

RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
VGG_STARTS = (0, 5, 10, 17, 24)
"""Where each stage of VGG-16 begins among its `features`."""


class OneMap(nn.Module):
    """A backbone with a single map (torchvision's documentation: a network with the attribute `out_channels`)."""

    def __init__(self, body: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, 3, H, W) to one map "0" (B, C, H / 16, W / 16)."""
        maps = self.body(images)
        return OrderedDict([("0", maps)]) if isinstance(maps, Tensor) else maps


class Conv5(nn.Module):
    """conv5 on each region, averaged over its places."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.tail = nn.Module()
        self.tail.layer4 = layer4

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, 14, 14) to (R, 2 * C)."""
        return self.tail.layer4(pooled).mean(dim=(2, 3))


def build_peer(config: Config, num_classes: int) -> FasterRCNN:
    """Torchvision's detector with new weights; the first `freeze_at` stages are not trained.

    Args:
        num_classes: K, without the background.
    """
    model, rpn, roi, test = config.model, config.model.rpn, config.model.roi, config.test
    backbone, head, width = BUILDERS[model.head](config)
    sizes = tuple((size,) for size in rpn.anchor_sizes) if model.head == "fpn" else (rpn.anchor_sizes,)
    anchors = AnchorGenerator(sizes, (rpn.anchor_ratios,) * len(sizes))
    maps = [str(level) for level in range(4)] if model.head == "fpn" else ["0"]
    return FasterRCNN(
        backbone,
        min_size=config.data.test_min_size,
        max_size=config.data.test_max_size,
        size_divisible=model.padding,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(backbone.out_channels, anchors.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=rpn.pre_nms_train,
        rpn_pre_nms_top_n_test=rpn.pre_nms_test,
        rpn_post_nms_top_n_train=rpn.post_nms_train,
        rpn_post_nms_top_n_test=rpn.post_nms_test,
        rpn_nms_thresh=rpn.nms_iou,
        rpn_batch_size_per_image=rpn.samples,
        box_roi_pool=MultiScaleRoIAlign(maps, 14 if model.head == "c4" else 7, roi.sampling_ratio),
        box_head=head,
        box_predictor=FastRCNNPredictor(width, num_classes + 1),
        box_score_thresh=test.score_threshold,
        box_nms_thresh=test.nms_iou,
        box_detections_per_img=test.detections,
        box_batch_size_per_image=roi.samples,
    )


def _resnet(config: Config) -> models.ResNet:
    network = models.get_model(config.backbone, weights=None, norm_layer=FrozenBatchNorm2d)
    stages = [nn.ModuleList([network.conv1, network.bn1]), *(getattr(network, name) for name in RESNET_LAYERS)]
    for stage in stages[: config.model.freeze_at]:
        stage.requires_grad_(False)
    return network


def _c4(config: Config) -> tuple[nn.Module, nn.Module, int]:
    network = _resnet(config)
    width = network.fc.in_features
    body = IntermediateLayerGetter(network, {"layer3": "0"})
    return OneMap(body, width // 2), Conv5(network.layer4), width


def _fpn(config: Config) -> tuple[nn.Module, nn.Module, int]:
    network, channels, hidden = _resnet(config), config.model.pyramid_channels, config.model.roi.hidden
    widths = [network.fc.in_features >> shift for shift in (3, 2, 1, 0)]
    layers = {name: str(level) for level, name in enumerate(RESNET_LAYERS)}
    return BackboneWithFPN(network, layers, widths, channels), TwoMLPHead(channels * 7**2, hidden), hidden


def _fc(config: Config) -> tuple[nn.Module, nn.Module, int]:
    features = models.vgg16(weights=None, init_weights=False).features[:-1]
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    features[: VGG_STARTS[config.model.freeze_at]].requires_grad_(False)
    return OneMap(features, 512), TwoMLPHead(512 * 7**2, 4096), 4096


BUILDERS = {"c4": _c4, "fpn": _fpn, "fc": _fc}
"""From settings to backbone, region head, and how many numbers the head gives a region."""


def as_torchvision_takes(pictures: list, device: torch.device) -> list[Tensor]:
    """Pictures (H, W, 3) uint8 as images (3, H, W) in [0, 1] on `device`, converted there."""
    return [torch.from_numpy(picture).to(device).permute(2, 0, 1).float() / 255 for picture in pictures]
