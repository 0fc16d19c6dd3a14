"""Assignment, losses and selection of proposals equal loops over images and anchors.

Shapes: ``B`` images, ``A`` anchors of an image, ``N`` objects of an image after padding.
"""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detection.batch import Batch
from detection.config import ProposalSettings
from detection.model.anchors import Anchors
from detection.model.boxes import decode
from detection.model.rpn import RegionProposalNetwork, per_anchor, proposal_head

STRIDES, SHAPES = (16, 32), [(7, 9), (4, 5)]
"""Maps of a padded area of 112 x 144 pixels, the second rounded up."""
SETTINGS = ProposalSettings(samples=32, pre_nms_train=40, post_nms_train=25, pre_nms_test=40, post_nms_test=25)


class Head(nn.Module):
    """Gives the scores and offsets it was made with, in the layout of a convolution's output."""

    def __init__(self, logits: list[Tensor], deltas: list[Tensor]) -> None:
        super().__init__()
        self.given = logits, deltas

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return self.given


def network(head: nn.Module | None = None, **changes: object) -> tuple[RegionProposalNetwork, Tensor]:
    """A proposal network and its anchors (A, 4), in float64."""
    anchors = Anchors(((16.0, 32.0), (64.0, 64.0)), (0.5, 1.0, 2.0), STRIDES)
    rpn = RegionProposalNetwork(anchors, head or nn.Identity(), dataclasses.replace(SETTINGS, **changes), seed=3)
    return rpn, anchors(SHAPES, torch.zeros(1, dtype=torch.float64))


def scene(seed: int, scale: float = 1.0) -> Batch:
    """Four images in one padded area; quarters of pixels, so that IoUs are exact. The last has no objects."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([[112.0, 144.0], [96.0, 101.0], [75.0, 144.0], [90.0, 90.0]])
    limit = sizes.flip(1).unsqueeze(1)
    corner = (torch.rand(4, 6, 2, generator=generator) * (limit - 8) * 4).floor() / 4
    side = (8 + torch.rand(4, 6, 2, generator=generator) ** 2 * 90).floor()
    gt_boxes = torch.cat((corner, torch.minimum(corner + side, limit)), dim=2).double()
    labels = torch.randint(0, 4, (4, 6), generator=generator)
    labels[:, 0], labels[3] = 1, 0
    ignore = (labels > 0) & (torch.rand(4, 6, generator=generator) < 0.4)
    ignore[:, 0] = False
    gt_boxes[labels == 0] = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    positions = torch.arange(4) + 10 * seed
    return Batch(
        torch.zeros(4, 3, 112, 144), sizes, sizes * scale, positions, gt_boxes, labels, ignore, torch.arange(4)
    )


def exact_overlap(first: list[float], second: list[float]) -> Fraction:
    width = Fraction(min(first[2], second[2])) - Fraction(max(first[0], second[0]))
    height = Fraction(min(first[3], second[3])) - Fraction(max(first[1], second[1]))
    return max(width, Fraction(0)) * max(height, Fraction(0))


def exact_iou(first: list[float], second: list[float]) -> Fraction:
    shared = exact_overlap(first, second)
    return shared / (exact_overlap(first, first) + exact_overlap(second, second) - shared)


def slow_states(anchors: Tensor, batch: Batch, image: int, ignore_border: bool) -> tuple[dict[int, int], set[int]]:
    """Positive anchors with their object, and negative anchors, of one image."""
    height, width = batch.sizes[image].tolist()
    rows = range(batch.gt_labels.shape[1])
    boxes, ignore = batch.gt_boxes[image].tolist(), batch.gt_ignore[image].tolist()
    objects = [row for row in rows if batch.gt_labels[image, row] > 0 and not ignore[row]]
    usable = {
        number: anchor
        for number, anchor in enumerate(anchors.tolist())
        if not ignore_border or (anchor[0] >= 0 and anchor[1] >= 0 and anchor[2] <= width and anchor[3] <= height)
    }
    table = {number: {row: exact_iou(anchor, boxes[row]) for row in objects} for number, anchor in usable.items()}
    top = {row: max((ious[row] for ious in table.values()), default=Fraction(0)) for row in objects}
    positives, negatives = {}, set()
    for number, ious in table.items():
        best = max(ious.values(), default=Fraction(0))
        if best >= Fraction("0.7") or any(ious[row] == top[row] > 0 for row in objects):
            positives[number] = next(row for row in objects if ious[row] == best)
        elif best < Fraction("0.3"):
            half = exact_overlap(usable[number], usable[number]) / 2
            if not any(exact_overlap(usable[number], boxes[row]) >= half for row in rows if ignore[row]):
                negatives.add(number)
    return positives, negatives


@pytest.mark.parametrize("ignore_border", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_assignment_equals_the_exact_loop(seed: int, ignore_border: bool) -> None:
    rpn, anchors = network(ignore_border=ignore_border, samples=10_000, fg_fraction=1.0)  # all that may be sampled is
    batch = scene(seed)
    sampled, matched = rpn.assign(anchors, batch)
    left_out = 0
    for image in range(len(batch)):
        positives, negatives = slow_states(anchors, batch, image, ignore_border)
        index, is_positive = sampled.index[image], sampled.is_positive[image]
        found = dict(zip(index[is_positive].tolist(), matched[image, is_positive].tolist(), strict=True))
        assert found == positives
        assert set(index[sampled.is_sampled[image] & ~is_positive].tolist()) == negatives
        assert sampled.is_sampled[image].sum() == len(positives) + len(negatives)
        left_out += len(anchors) - len(positives) - len(negatives)
    assert sampled.is_positive[:3].any(dim=1).all() and not sampled.is_positive[3].any() and left_out > 0


def test_border_anchors_are_masked_before_matching() -> None:
    """An object at the corner keeps a positive anchor: the best of those inside the unpadded image."""
    rpn, anchors = network(samples=10_000)
    batch = scene(0)
    batch.gt_labels[:] = 0
    batch.gt_labels[1, 0], batch.gt_boxes[1, 0] = 2, torch.tensor([85.0, 80.0, 101.0, 96.0], dtype=torch.float64)
    sampled, _ = rpn.assign(anchors, batch)
    chosen = anchors[sampled.index[1][sampled.is_positive[1]]]
    inside = (anchors >= 0).all(dim=1) & (anchors[:, 2] <= 101) & (anchors[:, 3] <= 96)
    ious = box_iou(anchors, batch.gt_boxes[1, :1]).squeeze(1)
    assert len(chosen) >= 1 and (chosen[:, 2] <= 101).all() and (chosen[:, 3] <= 96).all()
    assert (box_iou(chosen, batch.gt_boxes[1, :1]) == ious[inside].max()).all() and ious.max() > ious[inside].max()


def random_outputs(seed: int, images: int = 4, kind: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(images, 6, *shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    deltas = [torch.randn(images, 24, *shape, generator=generator, dtype=torch.float64) * 0.3 for shape in SHAPES]
    return [part.to(kind).requires_grad_() for part in logits], [part.to(kind).requires_grad_() for part in deltas]


def anchor_by_anchor(logits: list[Tensor], deltas: list[Tensor], image: int) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs for one image in the order of the anchors: map, row, column, shape."""
    scores, offsets = [], []
    for score_map, offset_map in zip(logits, deltas, strict=True):
        for y in range(score_map.shape[2]):
            for x in range(score_map.shape[3]):
                for shape in range(6):
                    scores.append(score_map[image, shape, y, x])
                    offsets.append(offset_map[image, 4 * shape : 4 * shape + 4, y, x])
    return scores, offsets


def smooth_l1(difference: Tensor, beta: float) -> Tensor:
    size = abs(difference)
    return difference**2 / (2 * beta) if size < beta else size - beta / 2


def slow_losses(logits: list[Tensor], deltas: list[Tensor], rpn: RegionProposalNetwork, batch: Batch) -> list[Tensor]:
    """Objectness and box loss from the definitions, given the sample; positives and objects by the exact loop."""
    anchors = rpn.anchor_generator(SHAPES, batch.gt_boxes)
    sampled, _ = rpn.assign(anchors, batch)
    objectness, regression, count = [], [], 0
    for image in range(len(batch)):
        positives, _ = slow_states(anchors, batch, image, rpn.settings.ignore_border)
        scores, offsets = anchor_by_anchor(logits, deltas, image)
        for number in sampled.index[image][sampled.is_sampled[image]].tolist():
            count += 1
            sign = -1 if number in positives else 1
            objectness.append(torch.log1p(torch.exp(sign * scores[number])))
            if number not in positives:
                continue
            x1, y1, x2, y2 = anchors[number].tolist()
            u1, v1, u2, v2 = batch.gt_boxes[image, positives[number]].tolist()
            width, height = x2 - x1, y2 - y1
            targets = (
                ((u1 + u2) - (x1 + x2)) / 2 / width,
                ((v1 + v2) - (y1 + y2)) / 2 / height,
                math.log((u2 - u1) / width),
                math.log((v2 - v1) / height),
            )
            pairs = zip(offsets[number], targets, strict=True)
            regression += [smooth_l1(offset - target, 1 / 9) for offset, target in pairs]
    return [sum(objectness) / count, rpn.settings.box_weight * sum(regression) / count]


@pytest.mark.parametrize("ignore_border", [True, False])
def test_losses_and_gradients_with_ignored_boxes_equal_the_loop(ignore_border: bool) -> None:
    batch, (logits, deltas) = scene(1), random_outputs(1)
    assert (batch.gt_ignore & (batch.gt_labels > 0)).any()
    rpn, _ = network(Head(logits, deltas), ignore_border=ignore_border, box_weight=2.0)
    _, losses = rpn([], batch)
    assert list(losses) == ["loss_objectness", "loss_rpn_box_reg"]
    expected = slow_losses(logits, deltas, rpn, batch)
    for loss, other in zip(losses.values(), expected, strict=True):
        torch.testing.assert_close(loss, other, rtol=0, atol=1e-10)
    inputs = [*logits, *deltas]
    gradients = [torch.autograd.grad(sum(each), inputs, materialize_grads=True) for each in (losses.values(), expected)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


def test_an_image_in_which_no_anchor_fits_weighs_nothing() -> None:
    """Neither does an object that no anchor overlaps make anything positive."""
    (logits, deltas), batch = random_outputs(2), scene(2)
    rpn, anchors = network(Head(logits, deltas))
    batch.sizes[:] = 9.0  # smaller than any anchor
    sampled, _ = rpn.assign(anchors, batch)
    assert not sampled.is_sampled.any() and not sampled.is_positive.any()
    _, losses = rpn([], batch)
    assert [loss.item() for loss in losses.values()] == [0, 0]
    assert all((g == 0).all() for g in torch.autograd.grad(sum(losses.values()), [*logits, *deltas]))

    batch.sizes[0] = torch.tensor([112.0, 144.0])
    _, losses = rpn([], batch)
    alone = [part[:1].detach().requires_grad_() for part in (*logits, *deltas)]
    rpn.head.given = alone[:2], alone[2:]
    first = {key: value[:1] for key, value in vars(batch).items()}
    _, expected = rpn([], Batch(**first))
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=0, atol=1e-12)
    assert expected["loss_objectness"] > 0


def slow_proposals(rpn: RegionProposalNetwork, batch: Batch, image: int, limits: tuple[int, int]) -> list[tuple]:
    """(score, box) of one image: the best of each map, clipped, large enough, without near-duplicates."""
    anchors = rpn.anchor_generator(SHAPES, batch.gt_boxes)
    (height, width), original_height = batch.sizes[image].tolist(), batch.original_sizes[image, 0].item()
    smallest = rpn.settings.min_size * height / original_height
    logits, deltas = anchor_by_anchor(*rpn.head.given, image)
    split, candidates = 6 * SHAPES[0][0] * SHAPES[0][1], []
    for level, numbers in enumerate((range(split), range(split, len(anchors)))):
        best = sorted(numbers, key=lambda number: -logits[number].item())[: limits[0]]
        for number in best:
            box = decode(deltas[number].detach(), anchors[number], (1, 1, 1, 1), 62.5).tolist()
            box = [min(max(v, 0), limit) for v, limit in zip(box, (width, height, width, height), strict=True)]
            score = 1 / (1 + math.exp(-logits[number].item()))
            if min(box[2] - box[0], box[3] - box[1]) >= smallest and score >= rpn.score_thresh:
                candidates.append((score, level, box))
    kept = []
    for score, level, box in sorted(candidates, key=lambda candidate: -candidate[0]):
        rivals = [other for _, number, other in kept if number == level]
        if not rivals or box_iou(torch.tensor([box]), torch.tensor(rivals)).max() <= 0.7:
            kept.append((score, level, box))
    return [(score, box) for score, _, box in kept[: limits[1]]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("changes", [{}, {"min_size": 40.0}, {"score_threshold": 0.9}])
def test_selection_equals_the_loop(changes: dict[str, float], training: bool) -> None:
    """min_size is in pixels of the original image, twice as large as the resized one here."""
    rpn, _ = network(Head(*random_outputs(4)), pre_nms_test=30, post_nms_test=12, **changes)
    batch = scene(4, scale=2.0)
    rpn.train(training)
    proposals, _ = rpn([], batch)
    limits = (40, 25) if training else (30, 12)
    assert proposals.boxes.shape[1] == (25 if training else proposals.is_valid.sum(dim=1).max())
    for image in range(len(batch)):
        expected = slow_proposals(rpn, batch, image, limits)
        count = len(expected)
        assert 0 < count and proposals.is_valid[image].tolist() == [True] * count + [False] * (
            len(proposals.boxes[0]) - count
        )
        boxes, scores = torch.tensor([box for _, box in expected]), torch.tensor([score for score, _ in expected])
        torch.testing.assert_close(proposals.boxes[image, :count].float(), boxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(proposals.scores[image, :count].float(), scores, rtol=0, atol=1e-6)
        rest = proposals.boxes[image, count:]
        assert torch.equal(rest, torch.tensor([0.0, 0, 1, 1]).to(rest).expand_as(rest))
        assert (proposals.scores[image, count:] == 0).all()


def test_no_proposal_survives_and_shapes_stay_sound() -> None:
    rpn, _ = network(Head(*random_outputs(5)), min_size=1000.0)
    for training in (True, False):
        proposals, _ = rpn.train(training)([], scene(5))
        assert not proposals.is_valid.any() and proposals.boxes.shape == (4, 25 if training else 1, 4)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_give_float32_boxes_and_losses(kind: torch.dtype) -> None:
    batch, (logits, deltas) = scene(6), random_outputs(6, kind=kind)
    batch.gt_boxes = batch.gt_boxes.float()
    rpn, _ = network(Head(logits, deltas))
    proposals, losses = rpn([], batch)
    rpn.head.given = [part.float() for part in logits], [part.float() for part in deltas]
    expected, expected_losses = rpn([], batch)
    assert proposals.boxes.dtype == proposals.scores.dtype == torch.float32
    assert all(loss.dtype == torch.float32 for loss in losses.values()) and losses == expected_losses
    assert torch.equal(proposals.boxes, expected.boxes)


def test_anchors_equal_torchvision_and_keep_their_stride_at_odd_sizes() -> None:
    sizes, ratios = ((32.0, 64.0), (128.0, 256.0)), (0.5, 1.0, 2.0)
    theirs = AnchorGenerator(sizes, (ratios,) * 2)
    maps = [torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 6, 8)]
    expected = theirs(ImageList(torch.zeros(1, 3, 192, 256), [(192, 256)]), maps)[0]
    assert torch.equal(Anchors(sizes, ratios, (16, 32))([(12, 16), (6, 8)], expected), expected)

    # 600 rows and a map of 38: torchvision infers a stride of 600 // 38 = 15. Here row 37 is centred on 37 * 16.
    anchors = Anchors(((128.0, 256.0, 512.0),), ratios, (16,))([(38, 50)], torch.zeros(1))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.view(38, 50, 9, 2)[37, 49].tolist() == [[49 * 16, 37 * 16]] * 9
    areas = ((anchors[:, 2:] - anchors[:, :2]).prod(dim=1)).view(38, 50, 3, 3)[0, 0]
    torch.testing.assert_close(areas.sqrt(), torch.tensor([128.0, 256.0, 512.0]).expand(3, 3), rtol=0.005, atol=0)


@pytest.mark.parametrize(("channels", "width"), [(0, 8), (8, 8), (5, 5)])
def test_width_of_the_head(channels: int, width: int) -> None:
    head = proposal_head(8, 9, channels)
    logits, deltas = head([torch.zeros(2, 8, 4, 6)])
    assert head.conv[0][0].weight.shape == (width, 8, 3, 3)
    assert logits[0].shape == (2, 9, 4, 6) and deltas[0].shape == (2, 36, 4, 6)


def test_offsets_are_read_the_same_in_any_memory_layout() -> None:
    deltas = torch.arange(2.0 * 12 * 3 * 5).view(2, 12, 3, 5)
    flat = per_anchor(deltas)
    assert flat[1, (2 * 5 + 4) * 3 + 1].tolist() == deltas[1, 4:8, 2, 4].tolist()
    assert torch.equal(per_anchor(deltas.contiguous(memory_format=torch.channels_last)), flat)
