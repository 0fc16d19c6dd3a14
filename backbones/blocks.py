"""Residual blocks in which constant normalization costs nothing: it is folded into the convolution before it.

Normalization with constants is ``y * scale + shift`` for each channel, so that of a convolution's output is a
convolution too: its weights times `scale`, and `shift` as its bias. In training the product is formed anew in every
forward pass: weights are stored, trained and saved as ever, and their gradients pass through the product. A network
that will only predict is given the products once, by :func:`fold`.

Shapes: ``B`` images or regions, ``C`` channels, ``H, W`` rows and columns, ``P`` the width of a block's inner layers.
"""

import copy

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from backbones.norm import constants

_SHORTCUT = ("downsample.0", "downsample.1")


def fold(network: nn.Module) -> None:
    """Replace each convolution with constant normalization by one that is both, with a bias.

    What `network` computes stays the same to the last bit. It has other tensors then, so that it is not one to save.

    Args:
        network: in evaluation mode, on its device. Its modules that call :func:`convolve` name the convolutions, each
            with its normalization, in `normalized`; all others stay as they are.
    """
    for module in list(network.modules()):
        layers = dict(module.named_modules()) if hasattr(module, "normalized") else {}
        for name, norm in getattr(module, "normalized", ()):
            affine = constants(layers[norm]) if norm in layers else None
            if affine is not None:
                module.set_submodule(name, _scaled(layers[name], *affine))
                module.set_submodule(norm, nn.Identity())


def _scaled(convolution: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """The convolution with its output times `scale` (C,) plus `shift` (C,)."""
    scaled = copy.deepcopy(convolution)
    scaled.weight = nn.Parameter(convolution.weight.detach() * scale.detach().view(-1, 1, 1, 1))
    scaled.bias = nn.Parameter(shift.detach().clone())
    return scaled


def convolve(convolution: nn.Conv2d, norm: nn.Module, features: Tensor) -> Tensor:
    """norm(convolution(features)) for a convolution without bias, or for what :func:`fold` has made of both."""
    affine = constants(norm)
    if affine is None:
        return norm(convolution(features))
    scale, shift = affine
    return F.conv2d(
        features, convolution.weight * scale.view(-1, 1, 1, 1), shift, convolution.stride, convolution.padding
    )


def project(convolution: nn.Conv2d, norm: nn.Module, features: Tensor) -> Tensor:
    """The linear part of a 1x1 convolution with its normalization, at every place whatever the stride."""
    affine = constants(norm)
    weight = convolution.weight if affine is None else convolution.weight * affine[0].view(-1, 1, 1, 1)
    return F.conv2d(features, weight)


def complete(convolution: nn.Conv2d, norm: nn.Module, projected: Tensor) -> Tensor:
    """What :func:`project` has left out: normalization, or of one with constants the shift."""
    affine = constants(norm)
    shift = convolution.bias if affine is None else affine[1]
    return norm(projected) if shift is None else projected + shift.to(projected.dtype).view(-1, 1, 1)


class FoldedBasicBlock(BasicBlock):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    steps = (1,)
    """See :meth:`project`."""
    normalized = (("conv1", "bn1"), ("conv2", "bn2"), _SHORTCUT)
    """See :func:`fold`."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, P, H / stride, W / stride), sizes rounded up."""
        hidden = self.relu(convolve(self.conv1, self.bn1, features))
        hidden = convolve(self.conv2, self.bn2, hidden)
        return self.relu(hidden.add_(features if self.downsample is None else convolve(*self.downsample, features)))

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        """The features themselves: nothing that counts in this block is linear at a place."""
        return (features,)

    def finish(self, features: Tensor) -> Tensor:
        """As :meth:`forward`."""
        return self(features)


class FoldedBottleneck(Bottleneck):
    """1x1, 3x3 (with the stride) and 1x1 convolutions (ResNet-50 and deeper)."""

    steps = (1, 2)
    """See :meth:`project`: the first layer is read everywhere, the projection at every second place."""
    normalized = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), _SHORTCUT)
    """See :func:`fold`."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 * P, H / stride, W / stride), sizes rounded up."""
        hidden = convolve(self.conv1, self.bn1, features)
        return self._rest(hidden, features if self.downsample is None else convolve(*self.downsample, features))

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        """What begins a block of stride 2 linearly: first layer (B, P, H, W) and shortcut (B, 4 * P, H, W).

        Both are linear at each place by itself, as RoIAlign is in each channel by itself. Taken on a map, before many
        regions are pooled from it, they are computed once for each place of the map and not once for each bin.
        """
        return project(self.conv1, self.bn1, features), project(*self.downsample, features)

    def finish(self, hidden: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output (B, 4 * P, H / 2, W / 2) from what :meth:`project` has begun.

        Args:
            hidden: (B, P, H, W).
            shortcut: (B, 4 * P, H / 2, W / 2): every second row and column.
        """
        return self._rest(complete(self.conv1, self.bn1, hidden), complete(*self.downsample, shortcut))

    def _rest(self, hidden: Tensor, shortcut: Tensor) -> Tensor:
        hidden = self.relu(convolve(self.conv2, self.bn2, self.relu(hidden)))
        return self.relu(convolve(self.conv3, self.bn3, hidden).add_(shortcut))
