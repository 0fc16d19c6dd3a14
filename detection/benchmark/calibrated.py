"""A seeded detector that behaves like a trained one, where no trained weights are at hand.

Without statistics a frozen normalization would normalize nothing, and an untrained classifier finds nothing. So the
statistics are taken from the inputs and then frozen, proposals and classes are spread, and the background is made as
likely as leaves a number of detections in every image. All of it happens to the peer, whose state dict ours takes over.

Shapes: ``R`` regions of all images, ``K`` classes.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from detection.benchmark.peer import build_peer
from detection.config import Config
from detection.errors import UserError

LEAST_DETECTIONS = 20
"""Of every image; a comparison of fewer says little."""
HIDDEN_STD, OBJECTNESS_STD, ANCHOR_DELTA_STD = 1.0, 2.0, 0.1
CLASS_STD, REGION_DELTA_STD = 3.0, 1.0
"""Spread of hidden values, logits and encoded offsets over the places of the images, or over the regions."""
RESIDUAL_GAIN = 0.2
"""Mean factor of the normalization that ends a residual block."""
BACKGROUND_BIASES = [step / 4 for step in range(60, -61, -1)]
"""Tried in this order: the likeliest background first."""


def calibrated_peer(config: Config, num_classes: int, images: list[Tensor]) -> FasterRCNN:
    """The peer in evaluation mode, on the device of the `images` (3, H, W), with weights that follow from the seed.

    Raises:
        UserError: the images are too small for so many detections.
    """
    torch.manual_seed(config.seed)
    peer = build_peer(config, num_classes).to(images[0].device).eval()
    with torch.no_grad():
        calibrate(peer, images)
    return peer


def calibrate(peer: FasterRCNN, images: list[Tensor]) -> None:
    """Give `peer` statistics, and heads that say something, on these images."""
    prepared, _ = peer.transform(images)
    take_statistics(peer.backbone, prepared.tensors)
    features = peer.backbone(prepared.tensors)
    spread_proposals(peer.rpn.head, list(features.values()))
    proposals, _ = peer.rpn(prepared, features)
    heads = peer.roi_heads
    pooled = heads.box_roi_pool(features, proposals, prepared.image_sizes)
    take_statistics(heads.box_head, pooled)
    vectors = heads.box_head(pooled)
    for layer, std in ((heads.box_predictor.cls_score, CLASS_STD), (heads.box_predictor.bbox_pred, REGION_DELTA_STD)):
        spread(layer, layer(vectors), std)
    choose_background(peer, vectors, proposals, prepared.image_sizes)


def take_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Each frozen normalization in `network` gets the statistics of what reaches it, and random factors and shifts."""
    hooks = [
        layer.register_forward_pre_hook(partial(_take, gain=gain)) for layer, gain in _normalizations(network).items()
    ]
    network(inputs)
    for hook in hooks:
        hook.remove()


def _normalizations(network: nn.Module) -> dict[FrozenBatchNorm2d, float]:
    """With the mean factor of each: small where a residual block ends, as training leaves it.

    With large ones every block would mix its input anew, and a hundred layers would turn roundings into differences.
    """
    gains = {layer: 1.0 for layer in network.modules() if isinstance(layer, FrozenBatchNorm2d)}
    for block in network.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            gains[block.bn3 if isinstance(block, Bottleneck) else block.bn2] = RESIDUAL_GAIN
    return gains


def _take(layer: FrozenBatchNorm2d, inputs: tuple[Tensor], gain: float) -> None:
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    layer.weight.uniform_(0.5 * gain, 1.5 * gain)
    layer.bias.uniform_(-0.3, 0.3)


def spread(layer: nn.Module, outputs: Tensor, std: float) -> None:
    """Shift and scale `layer` so that each column of its `outputs` (n, m) has mean 0 and the given deviation."""
    variance, mean = torch.var_mean(outputs, dim=0)
    factor = std / variance.sqrt().clamp(min=1e-6)
    layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.copy_((layer.bias - mean) * factor)


def spread_proposals(head: RPNHead, features: Sequence[Tensor]) -> None:
    """Spread the hidden layer, the logits and the offsets of a proposal head over all places of the maps."""
    spread(head.conv[0][0], columns([head.conv[0][0](part) for part in features]), HIDDEN_STD)
    hidden = [head.conv(part) for part in features]
    for layer, std in ((head.cls_logits, OBJECTNESS_STD), (head.bbox_pred, ANCHOR_DELTA_STD)):
        spread(layer, columns([layer(part) for part in hidden]), std)


def columns(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, h, w) as rows of C numbers, one for each place."""
    return torch.cat([part.permute(0, 2, 3, 1).flatten(0, 2) for part in maps])


def choose_background(peer: FasterRCNN, vectors: Tensor, proposals: list[Tensor], sizes: list[tuple[int, int]]) -> None:
    """Lower the background's bias until every image has :data:`LEAST_DETECTIONS`.

    Args:
        vectors: (R, C) of the `proposals` of the images of these `sizes`.
    """
    logits, deltas = peer.roi_heads.box_predictor(vectors)
    is_background = torch.arange(logits.shape[1], device=logits.device) == 0
    for bias in BACKGROUND_BIASES:
        found = peer.roi_heads.postprocess_detections(logits + bias * is_background, deltas, proposals, sizes)
        if min(map(len, found[0])) >= LEAST_DETECTIONS:
            peer.roi_heads.box_predictor.cls_score.bias[0] += bias
            return
    raise UserError(
        f"--size: images so small give fewer than {LEAST_DETECTIONS} detections; give a larger size, as 128x160"
    )
