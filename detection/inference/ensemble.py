"""Several detectors as one: the union of their proposals, the mean of what they say of it (ResNet paper, appendix B).

A single detector is an ensemble of one. Here the parts of a prediction meet: proposals, image pyramid, mirrored image,
refinement, selection.

Shapes: ``B`` images, ``P`` proposals of an image, ``D`` detections of an image. Regions and boxes are in pixels of the
reference: the images at the size that the first detector's proposals come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.batch import Batch
from detection.config import Config
from detection.data.dataset import ImageSize
from detection.data.loader import Images
from detection.inference.pyramid import ImagePyramid, Scorer, level_of, mean_of, mirror_images, mirrored
from detection.inference.refine import refine
from detection.model.boxes import unit_boxes
from detection.model.faster_rcnn import FasterRCNN
from detection.model.rpn import Proposals
from detection.model.selection import select_detections


class Sight(NamedTuple):
    """What a detector sees in a batch of images."""

    proposals: Proposals
    """(B, P, 4) in pixels of the reference."""
    score: Scorer
    """What it says of any region."""


@dataclass(frozen=True)
class Member:
    """A detector and the settings that it is run with."""

    detector: FasterRCNN
    config: Config

    @property
    def proposal_size(self) -> ImageSize:
        """The size at which proposals are made."""
        return ImageSize(self.config.data.test_min_size, self.config.data.test_max_size, self.config.model.padding)

    @property
    def region_sizes(self) -> list[ImageSize]:
        """The sizes that regions are pooled from; the limit of the longer side grows with the shorter one."""
        base, scales = self.proposal_size, self.config.test.scales
        # Multiplied first: the size of the proposals then comes out exactly as it is, and is not seen twice.
        return [ImageSize(scale, base.longest * scale / base.shorter, base.padding) for scale in scales] or [base]

    def look(self, images: Images, reference: Tensor) -> Sight:
        """Run trunk and proposal network on `images`, which hold all sizes of the detector.

        Args:
            reference: (B, 2) sizes of the images at the reference.
        """
        sizes = dict.fromkeys((self.proposal_size, *self.region_sizes))
        features = {size: self.detector.features(images[size]) for size in sizes}
        proposals = self._propose(features[self.proposal_size], images[self.proposal_size], reference)
        scorers = [self._pyramid({size: images[size] for size in self.region_sizes}, features, reference)]
        if self.config.test.flip:
            flipped = {size: mirror_images(images[size]) for size in self.region_sizes}
            features = {size: self.detector.features(batch) for size, batch in flipped.items()}
            scorers.append(mirrored(self._pyramid(flipped, features, reference), reference[:, 1]))
        return Sight(proposals, mean_of(scorers))

    def _propose(self, features: list[Tensor], batch: Batch, reference: Tensor) -> Proposals:
        proposals, _ = self.detector.rpn(features, batch)
        if self.config.compile:
            proposals = filled_up(proposals, self.config.model.rpn.post_nms_test)
        ratio = (reference / batch.sizes).flip(1).repeat(1, 2).unsqueeze(1)
        return proposals._replace(boxes=proposals.boxes * ratio)

    def _pyramid(self, images: Images, features: dict[ImageSize, list[Tensor]], reference: Tensor) -> ImagePyramid:
        heads = self.detector.roi_heads
        return ImagePyramid(heads, [level_of(heads, features[size], images[size], reference) for size in images])


def sizes_of(members: Sequence[Member]) -> list[ImageSize]:
    """Every size that one of the members looks at, once."""
    return list(dict.fromkeys(size for member in members for size in (member.proposal_size, *member.region_sizes)))


def introduce(members: Sequence[Member]) -> list[str]:
    """Sentences on what goes beyond one plain detector; none where nothing does."""
    test = members[0].config.test
    sentences = ["compiling with the first pictures, which takes a minute or more"] if members[0].config.compile else []
    sentences += [f"an ensemble of {len(members)} detectors"] if len(members) > 1 else []
    sentences += [sentence for member in members for sentence in _views(member)]
    if test.refine:
        times = "once" if test.refine_rounds == 1 else f"{test.refine_rounds} times"
        sentences.append(f"every region is refined {times}")
    if test.vote_iou:
        sentences.append(f"boxes are voted on at IoU {test.vote_iou:g}")
    return sentences


def _views(member: Member) -> list[str]:
    """The sizes and the mirrored image that a detector sees besides the size of its proposals."""
    test, base = member.config.test, member.config.data.test_min_size
    sentences = []
    if test.scales:
        sizes = ", ".join(map(str, test.scales))
        sentences.append(f"{member.config.backbone}: proposals at {base} pixels, regions at {sizes}")
        if not test.scales[0] <= base <= test.scales[-1]:
            sentences[-1] += f", none of them near {base}: test.scales around it cost less and find more"
    return sentences + ([f"{member.config.backbone}: the mirrored image too"] if test.flip else [])


def detect(members: Sequence[Member], images: Images) -> list[dict[str, Tensor]]:
    """The detections of each image: `boxes` (D, 4) in pixels of the original image, `labels` 1..K and `scores` (D,).

    The first member's settings say how detections are selected and how often regions are refined.

    Args:
        members: at least one, with the same classes, in evaluation mode.
        images: a batch at each size of :func:`sizes_of`, on the detectors' device.
    """
    batch, settings = images[members[0].proposal_size], members[0].config.test
    sights = [member.look(images, batch.sizes) for member in members]
    regions = unite([sight.proposals for sight in sights])
    rounds = settings.refine_rounds if settings.refine else 0
    outputs = refine(mean_of([sight.score for sight in sights]), regions.boxes, batch.sizes, rounds)
    return select_detections(outputs, regions.is_valid.repeat(1, rounds + 1), batch, settings)


def filled_up(proposals: Proposals, length: int) -> Proposals:
    """The proposals with unit boxes behind them that count for nothing: (B, `length`), whatever NMS has left.

    Regions then come in one size, for which compiled code and CUDA graphs are made once.
    """
    missing = length - proposals.scores.shape[1]
    boxes = torch.cat((proposals.boxes, unit_boxes(proposals.boxes, len(proposals.boxes), missing)), dim=1)
    return Proposals(boxes, F.pad(proposals.scores, (0, missing)), F.pad(proposals.is_valid, (0, missing)))


def unite(proposals: Sequence[Proposals]) -> Proposals:
    """All proposals of each image, one detector's after another's."""
    return Proposals(*(torch.cat(parts, dim=1) for parts in zip(*proposals, strict=True)))
