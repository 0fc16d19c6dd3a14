"""The two sibling layers of a localizer: for every class one layer of scores and one of offsets.

Only the rows of the classes asked for are computed: one class an image in training, five guesses at test time, not
the 1000 of ImageNet.

Shapes: ``B`` images, ``K`` classes, ``n`` classes asked for in an image, ``C`` channels, ``h, w`` rows and columns,
``P`` places (h * w, or 1 for a vector), ``a`` anchors at a place, ``A`` anchors of an image in the order row, column,
anchor.
"""

import torch
from torch import Tensor, nn

INIT_STD = 0.01
"""Standard deviation of a new layer's first weights (Faster R-CNN, section 3.1.3); biases begin at 0."""


class ClassLayers(nn.Module):
    """1x1 convolutions to K x a scores and K x 4a offsets, of which an image computes those of its own classes.

    Each score is the logit of a binary decision of its own, so that classes do not compete (ResNet paper, appendix C).

    Args:
        channels: C of the features.
        num_classes: K.
        anchors: a, of one place.
        scored: False has no layer of scores; every logit is 0.
    """

    def __init__(self, channels: int, num_classes: int, anchors: int, scored: bool = True) -> None:
        super().__init__()
        self.scores = ClassRows(channels, num_classes, anchors) if scored else None
        self.offsets = ClassRows(channels, num_classes, 4 * anchors)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, n, A) and offsets (B, n, A, 4).

        Args:
            features: maps (B, C, h, w) or vectors (B, C).
            labels: (B, n) int64, 1..K; where it is 0 (no class), what comes out means nothing.
        """
        places = features.reshape(*features.shape[:2], -1)
        deltas = self.offsets(places, labels).reshape(*labels.shape, -1, 4)
        if self.scores is None:
            return deltas.new_zeros(deltas.shape[:-1]), deltas
        return self.scores(places, labels).flatten(2), deltas


class ClassRows(nn.Module):
    """A linear layer of K x `outputs` rows, kept class by class."""

    def __init__(self, channels: int, num_classes: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, outputs, channels))
        self.bias = nn.Parameter(torch.zeros(num_classes, outputs))
        nn.init.normal_(self.weight, std=INIT_STD)

    def forward(self, places: Tensor, labels: Tensor) -> Tensor:
        """The outputs (B, n, P, outputs) of the classes `labels` (B, n) at `places` (B, C, P)."""
        rows = (labels - 1).clamp(min=0).flatten()
        weight = self.weight.index_select(0, rows).view(len(labels), -1, places.shape[1])
        bias = self.bias.index_select(0, rows).view(len(labels), -1, 1)
        values = weight @ places + bias
        return values.unflatten(1, (labels.shape[1], self.bias.shape[1])).transpose(2, 3)
