"""ResNet-18/34/50/101/152 ("Deep Residual Learning for Image Recognition", arXiv 1512.03385), from torchvision.

The ``c4`` head shares conv1 to conv4 over the image, at stride 16, and runs conv5 on each region (appendix A of the
paper); the ``fpn`` head takes conv2 to conv5 into a pyramid. torchvision's networks halve in the 3x3 convolution of a
bottleneck where the paper has its first 1x1; the weights go with that.

Shapes: ``B`` images, ``R`` regions of an image, ``C`` channels, ``H, W`` rows and columns.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision import models

from backbones.blocks import FoldedBasicBlock, FoldedBottleneck, convolve
from backbones.errors import BackboneError
from backbones.norm import NORM_LAYERS, one_of, require_norm
from backbones.settings import BackboneSettings
from backbones.trunk import Assembly, Body, Staged, last_width, make_trunk

LAYOUTS = {
    "resnet18": (FoldedBasicBlock, [2, 2, 2, 2]),
    "resnet34": (FoldedBasicBlock, [3, 4, 6, 3]),
    "resnet50": (FoldedBottleneck, [3, 4, 6, 3]),
    "resnet101": (FoldedBottleneck, [3, 4, 23, 3]),
    "resnet152": (FoldedBottleneck, [3, 8, 36, 3]),
}
"""Table 1 of the paper: the kind of block, and how many there are in conv2 to conv5."""
LAYERS = ("layer1", "layer2", "layer3", "layer4")
"""torchvision's names of conv2, conv3, conv4, conv5."""
LAYER_STRIDES = (4, 8, 16, 32)
NORMS = ("frozen", "batch", "sync", "group")
IMAGENET_NORMS = ("frozen", "batch", "sync")


def build_resnet(settings: BackboneSettings) -> Assembly:
    """A residual network for the head `c4` or `fpn`, initialized as torchvision's but for identity blocks.

    Raises:
        BackboneError: the head or the normalization does not go with a residual network.
    """
    if settings.head not in ("c4", "fpn"):
        raise BackboneError(
            f"head {settings.head}: {settings.name} has no fc6 and fc7 to run on regions; use c4 or fpn, or a VGG"
        )
    require_norm(settings, NORMS)
    # Each block begins as the identity (Goyal et al., arXiv 1706.02677, section 5.1), or training from scratch drags.
    block, counts = LAYOUTS[settings.name]
    network = models.ResNet(block, counts, norm_layer=NORM_LAYERS[settings.norm], zero_init_residual=True)
    if settings.head == "c4":
        body, tail = ResNetBody(network, returned=("layer3",)), Conv5(network)
        published = (("", body), ("", tail))
    else:
        body, tail = ResNetBody(network, returned=LAYERS), None
        published = (("", body),)
    trunk = make_trunk(body, settings)
    if settings.norm in IMAGENET_NORMS:
        return Assembly(trunk, tail, published, imagenet=settings.name)
    why_none = f"were trained with batch normalization; use norm {one_of(IMAGENET_NORMS)}, or --weights none|FILE"
    return Assembly(trunk, tail, published, why_none=why_none)


class ResNetBody(Body):
    """conv1 up to the last of the returned layers; its tensors have torchvision's names."""

    normalized = (("conv1", "bn1"),)
    """See :func:`~backbones.blocks.fold`."""

    def __init__(self, network: models.ResNet, returned: tuple[str, ...]) -> None:
        """Takes over the layers of `network` and returns the outputs of those named in `returned`."""
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layers = LAYERS[: LAYERS.index(returned[-1]) + 1]
        for name in self.layers:
            self.add_module(name, getattr(network, name))
        self.returned = returned
        self.strides = tuple(LAYER_STRIDES[LAYERS.index(name)] for name in returned)
        self.channels = tuple(last_width(getattr(network, name)[-1]) for name in returned)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, 3, H, W) to maps (B, C, H / stride, W / stride), sizes rounded up at every halving."""
        features = self.maxpool(self.relu(convolve(self.conv1, self.bn1, images)))
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for name in self.layers:
            features = getattr(self, name)(features)
            if name in self.returned:
                maps[str(len(maps))] = features
        return maps

    def stages(self) -> dict[str, nn.Module]:
        """conv1, conv2, ... as in table 1 of the paper."""
        stem = nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool)
        return {"conv1": stem, **{f"conv{number}": getattr(self, name) for number, name in enumerate(self.layers, 2)}}


class Conv5(Staged):
    """The last stage as a network for regions; its tensors have torchvision's names."""

    def __init__(self, network: models.ResNet) -> None:
        super().__init__()
        self.layer4 = network.layer4
        self.out_channels = last_width(network.layer4[-1])
        self.steps: tuple[int, ...] = network.layer4[0].steps
        """For each map of :meth:`project`, how many bins of a pooled region :meth:`finish` moves on by."""

    def forward(self, regions: Tensor) -> Tensor:
        """Pooled regions (B * R, C, 14, 14) to (B * R, 2 * C, 7, 7); the first block halves the size."""
        return self.layer4(regions)

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, c, h, w) of a map (B, C, h, w): what of the first block is linear at each place by itself."""
        return self.layer4[0].project(features)

    def finish(self, *pooled: Tensor) -> Tensor:
        """As :meth:`forward`, from regions of the maps of :meth:`project`, each pooled at every `step`-th bin.

        Exact for a pooling that is linear in each channel by itself, as RoIAlign is and max-pooling is not.
        """
        first, *others = self.layer4
        features = first.finish(*pooled)
        for block in others:
            features = block(features)
        return features

    def stages(self) -> dict[str, nn.Module]:
        """conv5 alone."""
        return {"conv5": self.layer4}
