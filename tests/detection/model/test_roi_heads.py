"""Sampled regions, their losses and the final detections equal loops over images and regions.

Shapes: ``B`` images, ``P`` proposals, ``R`` regions, ``N`` objects of an image after padding, ``K`` classes.
"""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from detection.batch import Batch
from detection.config import InferenceSettings, RegionSettings
from detection.model.box_heads import box_head, box_predictor
from detection.model.pooling import RegionPooling
from detection.model.roi_heads import RoIHeads, of_class
from detection.model.rpn import Proposals

CLASSES, CHANNELS = 3, 2
SETTINGS = RegionSettings(bg_iou_low=0.1, samples=16, hidden=6, class_init_std=0.5, box_init_std=0.3)
TEST = InferenceSettings(score_threshold=0.15, nms_iou=0.3, detections=12)
EVERYTHING = {"samples": 10_000, "fg_fraction": 1.0}
"""All that may be sampled is sampled."""


def heads(**changes: object) -> RoIHeads:
    torch.manual_seed(0)
    settings = dataclasses.replace(SETTINGS, **changes)
    head = box_head("fpn", CHANNELS, None, settings, 3)
    predictor = box_predictor(6, CLASSES, settings)
    return RoIHeads(RegionPooling((8,), 3, "align", 2), head, predictor, 1, settings, TEST, False, seed=5).double()


def features(seed: int, images: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, CHANNELS, 12, 16, generator=generator, dtype=torch.float64).requires_grad_()]


def scene(seed: int) -> tuple[Proposals, Batch]:
    """Proposals around the objects and elsewhere, on whole pixels; the last image has no objects."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        corner = torch.randint(0, 60, (*shape, 2), generator=generator)
        return torch.cat((corner, corner + torch.randint(8, 36, (*shape, 2), generator=generator)), dim=-1).double()

    gt_boxes, boxes = draw(3, 6), draw(3, 60)
    near = gt_boxes.repeat(1, 5, 1) + torch.randint(-4, 5, (3, 30, 4), generator=generator)
    boxes[:, 20:50] = near.clamp(0, 96)
    labels = torch.randint(1, CLASSES + 1, (3, 6), generator=generator)
    labels[:, 5], labels[2] = 0, 0
    ignore = torch.zeros(3, 6, dtype=torch.bool)
    ignore[:2, 3:5] = True
    gt_boxes[:, 4] = gt_boxes[:, 0] + 1  # an ignored box on an object: it is no candidate itself
    gt_boxes[labels == 0] = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    is_valid = torch.rand(3, 60, generator=generator) < 0.9
    boxes[~is_valid] = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    sizes = torch.tensor([[96.0, 128.0], [90.0, 100.0], [96.0, 96.0]])
    batch = Batch(
        torch.zeros(3, 3, 96, 128), sizes, sizes * torch.tensor([[2.0, 2.0], [0.5, 0.5], [1.0, 1.0]]),
        torch.arange(3) + seed, gt_boxes, labels, ignore, torch.arange(3),
    )  # fmt: skip
    return Proposals(boxes, is_valid.double(), is_valid), batch


def exact_overlap(first: list[float], second: list[float]) -> Fraction:
    width = Fraction(min(first[2], second[2])) - Fraction(max(first[0], second[0]))
    height = Fraction(min(first[3], second[3])) - Fraction(max(first[1], second[1]))
    return max(width, Fraction(0)) * max(height, Fraction(0))


def slow_regions(proposals: Proposals, batch: Batch, image: int, add_gt: bool, low: str) -> tuple[list, list]:
    """Foreground (box, label, object's box) and background boxes of one image, in any order."""
    rows = range(batch.gt_labels.shape[1])
    gt, ignore = batch.gt_boxes[image].tolist(), batch.gt_ignore[image].tolist()
    objects = [row for row in rows if batch.gt_labels[image, row] > 0 and not ignore[row]]
    candidates = proposals.boxes[image][proposals.is_valid[image]].tolist()
    candidates += [gt[row] for row in objects] if add_gt else []
    foreground, background = [], []
    for box in candidates:
        area, best, match = exact_overlap(box, box), Fraction(0), None
        for row in objects:
            shared = exact_overlap(box, gt[row])
            iou = shared / (area + exact_overlap(gt[row], gt[row]) - shared)
            if iou > best:
                best, match = iou, row
        if best >= Fraction("0.5"):
            foreground.append((box, batch.gt_labels[image, match].item(), gt[match]))
        elif best >= Fraction(low) and not any(2 * exact_overlap(box, gt[r]) >= area for r in rows if ignore[r]):
            background.append(box)
    return foreground, background


@pytest.mark.parametrize("add_gt", [True, False])
@pytest.mark.parametrize("low", ["0.1", "0"])
@pytest.mark.parametrize("seed", range(3))
def test_regions_equal_the_exact_loop(seed: int, low: str, add_gt: bool) -> None:
    proposals, batch = scene(seed)
    regions = heads(bg_iou_low=float(low), add_gt=add_gt, **EVERYTHING).select_regions(proposals, batch)
    for image in range(3):
        foreground, background = slow_regions(proposals, batch, image, add_gt, low)
        is_positive = regions.labels[image] > 0
        parts = (part[image][is_positive].tolist() for part in (regions.boxes, regions.labels, regions.gt_boxes))
        assert sorted(zip(*parts, strict=True)) == sorted(foreground)
        is_negative = regions.is_sampled[image] & ~is_positive
        assert sorted(regions.boxes[image][is_negative].tolist()) == sorted(background)
        # What is not foreground is its own target, and what is not sampled is the unit box.
        assert torch.equal(regions.gt_boxes[image][~is_positive], regions.boxes[image][~is_positive])
        rest = regions.boxes[image][~regions.is_sampled[image]]
        assert torch.equal(rest, torch.tensor([0.0, 0, 1, 1]).to(rest).expand_as(rest))
        assert regions.is_sampled[image].sum() == len(foreground) + len(background)
    # The image without objects has IoU 0 everywhere: background only where the band begins at 0.
    assert (regions.labels[2] == 0).all() and regions.is_sampled[2].any() == (low == "0")


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_at_most_the_given_share_is_foreground(fraction: float) -> None:
    proposals, batch = scene(1)
    regions = heads(fg_fraction=fraction).select_regions(proposals, batch)
    assert regions.boxes.shape == (3, 16, 4)
    for image in range(3):
        foreground, background = slow_regions(proposals, batch, image, True, "0.1")
        count = min(len(foreground), int(16 * fraction))
        assert (regions.labels[image] > 0).sum() == count
        assert regions.is_sampled[image].sum() == count + min(len(background), 16 - count)
        assert all(
            box in [f[0] for f in foreground] for box in regions.boxes[image][regions.labels[image] > 0].tolist()
        )


def smooth_l1(difference: Tensor, beta: float) -> Tensor:
    size = abs(difference)
    return difference**2 / (2 * beta) if size < beta else size - beta / 2


@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_and_gradients_equal_the_loop(agnostic: bool) -> None:
    roi_heads, (proposals, batch), maps = heads(class_agnostic=agnostic, box_weight=3.0), scene(2), features(2)
    _, losses = roi_heads(maps, proposals, batch)
    regions = roi_heads.select_regions(proposals, batch)
    logits, deltas = roi_heads.predict(roi_heads.describe(maps, regions.boxes, batch.sizes))
    assert logits.shape == (3, 16, 4) and deltas.shape == (3, 16, 1 if agnostic else 4, 4)
    classification, regression = [], []
    for image, place in regions.is_sampled.nonzero().tolist():
        label = regions.labels[image, place].item()
        exponentials = [math.e**logit for logit in logits[image, place]]
        classification.append(-torch.log(exponentials[label] / sum(exponentials)))
        if label > 0:
            x1, y1, x2, y2 = regions.boxes[image, place].tolist()
            u1, v1, u2, v2 = regions.gt_boxes[image, place].tolist()
            targets = (
                10 * ((u1 + u2) - (x1 + x2)) / 2 / (x2 - x1),
                10 * ((v1 + v2) - (y1 + y2)) / 2 / (y2 - y1),
                5 * math.log((u2 - u1) / (x2 - x1)),
                5 * math.log((v2 - v1) / (y2 - y1)),
            )
            offsets = deltas[image, place, 0 if agnostic else label]
            regression += [smooth_l1(offset - target, 1.0) for offset, target in zip(offsets, targets, strict=True)]
    count = len(classification)
    assert 0 < len(regression) < 4 * count < 4 * 48
    expected = [sum(classification) / count, 3 * sum(regression) / count]
    inputs = [*maps, *roi_heads.parameters()]
    for name, other in zip(("loss_classifier", "loss_box_reg"), expected, strict=True):
        torch.testing.assert_close(losses[name], other, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(sum(each), inputs) for each in (losses.values(), expected)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("agnostic", [False, True])
def test_images_without_any_region_weigh_nothing(agnostic: bool) -> None:
    roi_heads, (proposals, batch), maps = heads(class_agnostic=agnostic), scene(3), features(3)
    inputs = [*maps, *roi_heads.parameters()]
    kept = torch.tensor([True, False, False])
    empty = dataclasses.replace(batch, gt_labels=batch.gt_labels.clone())
    empty.gt_labels[1:] = 0
    proposals = proposals._replace(is_valid=proposals.is_valid & kept.unsqueeze(1))
    assert not roi_heads.select_regions(proposals, empty).is_sampled[1:].any()

    # The image that has regions decides alone ...
    alone = Batch(**{name: value[:1] for name, value in vars(empty).items()})
    first = Proposals(*(part[:1] for part in proposals))
    _, losses = roi_heads(maps, proposals, empty)
    _, expected = roi_heads([maps[0][:1]], first, alone)
    assert expected["loss_box_reg"] > 0
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=0, atol=1e-12)

    # ... and where no image has any, all is zero and nothing is NaN.
    empty.gt_labels[:] = 0
    _, losses = roi_heads(maps, proposals._replace(is_valid=torch.zeros_like(proposals.is_valid)), empty)
    assert [loss.item() for loss in losses.values()] == [0, 0]
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(sum(losses.values()), inputs))


def test_of_class() -> None:
    deltas, labels = torch.randn(2, 5, 4, 4), torch.tensor([[0, 1, 2, 3, 1], [3, 3, 0, 2, 1]])
    expected = torch.stack([torch.stack([deltas[b, r, c] for r, c in enumerate(row)]) for b, row in enumerate(labels)])
    assert torch.equal(of_class(deltas, labels), expected)
    assert torch.equal(of_class(deltas[:, :, 2:3], labels), deltas[:, :, 2])


def slow_detections(logits: Tensor, deltas: Tensor, proposals: Proposals, batch: Batch, image: int) -> list[tuple]:
    """(score, label, box in original pixels) of one image from the definitions, best first."""
    (height, width), (rows, columns) = batch.sizes[image].tolist(), batch.original_sizes[image].tolist()
    found = []
    for place in proposals.is_valid[image].nonzero().flatten().tolist():
        x1, y1, x2, y2 = proposals.boxes[image, place].tolist()
        exponentials = [math.exp(logit) for logit in logits[image, place]]
        for label in range(1, CLASSES + 1):
            score = exponentials[label] / sum(exponentials)
            dx, dy, dw, dh = deltas[image, place, label if deltas.shape[2] > 1 else 0].tolist()
            cx, cy = (x1 + x2) / 2 + dx / 10 * (x2 - x1), (y1 + y2) / 2 + dy / 10 * (y2 - y1)
            w, h = (x2 - x1) * min(math.exp(dw / 5), 62.5), (y2 - y1) * min(math.exp(dh / 5), 62.5)
            box = [max(cx - w / 2, 0), max(cy - h / 2, 0), min(cx + w / 2, width), min(cy + h / 2, height)]
            if score > TEST.score_threshold and min(box[2] - box[0], box[3] - box[1]) >= 0.01:
                found.append((score, label, box))
    kept = []
    for score, label, box in sorted(found, key=lambda candidate: -candidate[0]):
        rivals = [other for _, also, other in kept if also == label]
        if not rivals or box_iou(torch.tensor([box]), torch.tensor(rivals)).max() <= TEST.nms_iou:
            kept.append((score, label, box))
    scale = [columns / width, rows / height] * 2
    return [(s, label, [v * f for v, f in zip(box, scale, strict=True)]) for s, label, box in kept[: TEST.detections]]


@pytest.mark.parametrize("agnostic", [False, True])
def test_detections_equal_the_loop(agnostic: bool) -> None:
    roi_heads, (proposals, batch), maps = heads(class_agnostic=agnostic).eval(), scene(4), features(4)
    batch.original_sizes[1] = torch.tensor([45.0, 200.0])  # each axis has its own factor
    with torch.no_grad():
        detections, losses = roi_heads(maps, proposals, batch)
        logits, deltas = roi_heads.predict(roi_heads.describe(maps, proposals.boxes, batch.sizes))
    assert losses == {}
    for image, result in enumerate(detections):
        expected = slow_detections(logits, deltas, proposals, batch, image)
        assert 3 < len(expected) <= TEST.detections and result["labels"].tolist() == [label for _, label, _ in expected]
        scores, boxes = ([row[part] for row in expected] for part in (0, 2))
        torch.testing.assert_close(result["scores"], torch.tensor(scores, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(result["boxes"], torch.tensor(boxes, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_raised_before_decoding(kind: torch.dtype) -> None:
    class Given(nn.Module):
        def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(len(vectors))
            logits, deltas = (torch.randn(len(vectors), n, generator=generator).to(kind) for n in (4, 16))
            return (logits.float(), deltas.float()) if self.exact else (logits, deltas)

    roi_heads, (proposals, batch), maps = heads().float().eval(), scene(4), features(4)
    proposals = proposals._replace(boxes=proposals.boxes.float())
    roi_heads.box_predictor = Given()
    found = []
    for exact in (True, False):
        roi_heads.box_predictor.exact = exact
        with torch.no_grad():
            found.append(roi_heads([maps[0].float()], proposals, batch)[0])
    for expected, result in zip(*found, strict=True):
        assert len(result["boxes"]) > 3 and result["boxes"].dtype == result["scores"].dtype == torch.float32
        assert all(torch.equal(result[name], value) for name, value in expected.items())


def test_an_image_without_proposals_has_no_detections() -> None:
    roi_heads, (proposals, batch), maps = heads().eval(), scene(5), features(5)
    proposals = proposals._replace(is_valid=torch.zeros_like(proposals.is_valid))
    for result in roi_heads(maps, proposals, batch)[0]:
        assert [tuple(result[name].shape) for name in ("boxes", "labels", "scores")] == [(0, 4), (0,), (0,)]
