"""One box for a class that is known: per-class proposals, one regression, or one second look.

The network of "Deep Residual Learning for Image Recognition", appendix C (rpn, rcnn), and the comparison of VGG (pcr).
All three read features of an image and apply the layers of the classes asked for. They differ in the boxes that they
refer to, and in which of those are right:

- rpn: anchors at every place of a feature map.
- rcnn: the input itself, which is a proposal cut out of its image and warped to a square.
- pcr: the input itself, a crop that shows the object.

Objects may reach beyond the input.

Shapes: ``B`` images, ``N`` objects of an image after padding, ``n`` classes asked for in an image, ``A`` references of
an image (rpn: anchors in the order row, column, anchor; otherwise 1), ``S`` samples of an image, ``C`` channels,
``h, w`` rows and columns of a feature map.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Staged, Trunk
from backbones.vgg import POOLED_SIZE, FullyConnected
from detection.batch import Batch
from detection.config import Config, LocalizationSettings
from detection.localization.heads import ClassLayers
from detection.model.anchors import Anchors
from detection.model.assignment import Matches, match
from detection.model.boxes import decode, encode, full_precision, gather_boxes
from detection.model.build import Stage, describe
from detection.model.losses import box_loss, normalizer, objectness_loss
from detection.model.pixels import Normalizer
from detection.model.rpn import MAX_SIDE_RATIO
from detection.model.sampling import Sampled, random_keys, sample

STREAM = 3
"""Tells the draw of a localizer's anchors from a detector's draws."""
CONV5_STRIDE = 2
"""Of conv5 relative to conv4."""


class Localizer(nn.Module):
    """Finds the object of a class that an image is known, or guessed, to show.

    Args:
        trunk: images -> one feature map.
        tail: conv5 of a ResNet, to run on the whole map; fc6 and fc7 of VGG, to run on the map pooled to 7x7; or None.
        num_classes: K.
        config: `loc` says what is built; `model` how images are normalized; `seed` which anchors are sampled.
    """

    def __init__(self, trunk: Trunk, tail: Staged | None, num_classes: int, config: Config) -> None:
        super().__init__()
        loc = config.loc
        self.config = config
        self.normalize = Normalizer(config.model.image_mean, config.model.image_std)
        self.backbone = trunk
        self.tail = tail
        self.stride = trunk.strides[-1] * (1 if tail is None or self.has_vectors else CONV5_STRIDE)
        self.anchors = None
        if loc.method == "rpn":
            self.anchors = Anchors((loc.anchor_sizes,), loc.anchor_ratios, (self.stride,))
        per_place = self.anchors.num_anchors_per_location()[0] if self.anchors else 1
        channels = trunk.out_channels if tail is None else tail.out_channels
        self.layers = ClassLayers(channels, num_classes, per_place, scored=loc.method != "pcr")

    @property
    def has_vectors(self) -> bool:
        """Whether the tail turns a whole map into one vector (VGG's fc6 and fc7)."""
        return isinstance(self.tail, FullyConnected)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch of crops: ``loss_objectness`` (not of pcr, which scores nothing), ``loss_box_reg``.

        The class of an image is that of its objects, of which there is one class only. What lies beyond the side of a
        crop is padding and is cut off first.
        """
        side = self.config.loc.crop
        images = self.normalize(batch)[:, :, :side, :side]
        features = self.features(images)
        logits, deltas = self._predict(features, batch.gt_labels.amax(dim=1, keepdim=True))
        references = self._references(features, images.shape[-2:])
        return self.losses(logits.squeeze(1), deltas.squeeze(1), references, batch)

    def features(self, images: Tensor) -> Tensor:
        """What the class layers read of normalized images (B, 3, H, W): rpn maps (B, C, h, w), others vectors."""
        maps = self.backbone(images)["0"]
        if self.has_vectors:
            return self.tail(F.adaptive_max_pool2d(maps, POOLED_SIZE))  # VGG's last pooling, for crops of any size
        maps = maps if self.tail is None else self.tail(maps)
        return maps if self.anchors else maps.mean(dim=(2, 3))

    def outputs(self, features: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What the classes `labels` find in images with the given features.

        Args:
            features: as :meth:`features` gives them.
            labels: (B, n) int64, 1..K; where it is 0 (no class), what comes out means nothing.
            size: rows and columns of the images, less any padding.

        Returns:
            Logits (B, n, A) and boxes (B, n, A, 4) in pixels of the images, both at least float32. Boxes may reach
            beyond the images, which may be parts of larger ones. The logits of pcr are 0.
        """
        logits, deltas = self._predict(features, labels)
        return logits, decode(deltas, self._references(features, size), self.config.loc.box_weights, MAX_SIDE_RATIO)

    def losses(self, logits: Tensor, deltas: Tensor, references: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Losses of `logits` (B, A) and `deltas` (B, A, 4) over a sample of `references` (A, 4)."""
        loc = self.config.loc
        sampled, matched = self.assign(references, batch)
        sources = references[sampled.index]
        objects = gather_boxes(batch.gt_boxes, matched)
        objects = torch.where(sampled.is_positive.unsqueeze(-1), objects, sources)
        targets = encode(objects, sources, loc.box_weights)
        count = normalizer(sampled.is_sampled)
        regression = box_loss(gather_boxes(deltas, sampled.index), targets, sampled.is_positive, loc.beta, count)
        losses = {"loss_box_reg": loc.box_weight * regression}
        if loc.method == "pcr":
            return losses
        chosen = logits.gather(1, sampled.index)
        return {"loss_objectness": objectness_loss(chosen, sampled.is_positive, sampled.is_sampled, count), **losses}

    @torch.no_grad()
    def assign(self, references: Tensor, batch: Batch) -> tuple[Sampled, Tensor]:
        """The sampled references of each image and the object (B, S) that each is matched to.

        The rules are in :data:`STATES`; an image without any object trains nothing.
        """
        loc = self.config.loc
        is_object = (batch.gt_labels > 0) & ~batch.gt_ignore
        usable = (batch.gt_labels > 0).any(dim=1, keepdim=True).expand(-1, len(references))
        matches = match(references.unsqueeze(0), batch.gt_boxes, is_object, batch.gt_ignore, usable)
        is_positive, is_negative = STATES[loc.method](matches, loc)
        keys = random_keys(self.config.seed, STREAM, batch.positions, len(references))
        samples, positives = (loc.samples, int(loc.samples * loc.fg_fraction)) if self.anchors else (1, 1)
        sampled = sample(usable & is_positive, usable & is_negative & ~matches.covered, keys, samples, positives)
        return sampled, matches.index.gather(1, sampled.index)

    def stages(self) -> list[Stage]:
        """What the localizer consists of, in the order in which an image passes through it."""
        parts: dict[str, nn.Module] = dict(self.backbone.stages())
        if self.tail is not None:
            parts |= self.tail.stages()
        parts["class layers"] = self.layers
        return [describe(name, part) for name, part in parts.items()]

    def _predict(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, n, A) and offsets (B, n, A, 4), at least float32 under any autocast.

        In bf16 all scores from 8 to 16 would be one of 129 numbers, and the best of thousands a matter of order.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self.layers(full_precision(features), labels)

    def _references(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """The boxes (A, 4) that offsets refer to, in pixels: anchors, or the image of `size` rows, columns itself."""
        like = features.new_zeros((), dtype=torch.promote_types(features.dtype, torch.float32))
        if self.anchors:
            return self.anchors([features.shape[-2:]], like)
        rows, columns = size
        return like.new_tensor([[0, 0, columns, rows]])


States = tuple[Tensor, Tensor]
"""(B, A) bool twice: which references are positive, and which negative."""


def _anchor_states(matches: Matches, loc: LocalizationSettings) -> States:
    """Positive from `fg_iou` on or as the best of some object, negative below `bg_iou` (Faster R-CNN, 3.1.2)."""
    is_positive = (matches.iou >= loc.fg_iou) | matches.is_best
    return is_positive, ~is_positive & (matches.iou < loc.bg_iou)


def _proposal_states(matches: Matches, loc: LocalizationSettings) -> States:
    """Positive from `fg_iou` on, otherwise negative: which proposals are looked at was decided when they were cut."""
    is_positive = matches.iou >= loc.fg_iou
    return is_positive, ~is_positive


def _crop_states(matches: Matches, loc: LocalizationSettings) -> States:
    """Every crop that shows an object has one to find: the one with the largest IoU. None is negative."""
    return matches.iou > 0, torch.zeros_like(matches.is_best)


STATES: dict[str, Callable[[Matches, LocalizationSettings], States]] = {
    "rpn": _anchor_states,
    "rcnn": _proposal_states,
    "pcr": _crop_states,
}
"""Which references are right and which are wrong, by `loc.method`; what an ignored object covers is not wrong."""
