"""Losses, gradients, proposals and detections equal torchvision's own, in float64."""

import itertools

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from detection.batch import Batch
from detection.config import InferenceSettings, ModelSettings, ProposalSettings, RegionSettings
from detection.model.faster_rcnn import FasterRCNN
from detection.model.roi_heads import STREAM as REGIONS
from detection.model.sampling import random_keys

CLASSES, CHANNELS = 3, 8
STRIDES = (4, 8, 16, 32, 64)


class Pyramid(nn.Module):
    """Five maps of the right strides from one convolution each."""

    out_channels, pooled_levels, strides = CHANNELS, 4, STRIDES

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(3, CHANNELS, stride, stride=stride) for stride in STRIDES)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: level(images) for name, level in zip(["0", "1", "2", "3", "pool"], self.levels, strict=True)}


def settings() -> ModelSettings:
    return ModelSettings(
        head="fpn",
        rpn=ProposalSettings(
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 96.0), ignore_border=False, samples=64, min_size=0.0,
            pre_nms_train=200, pre_nms_test=150, post_nms_train=120, post_nms_test=60,
        ),
        roi=RegionSettings(samples=48, hidden=16, beta=1 / 9, class_init_std=0.3, box_init_std=0.1),
    )  # fmt: skip


def pair() -> tuple[FasterRCNN, TorchvisionFasterRCNN]:
    """Our detector and torchvision's with the same weights."""
    torch.manual_seed(0)
    test = InferenceSettings(score_threshold=0.05, nms_iou=0.5, detections=40)
    ours = FasterRCNN(Pyramid(), None, CLASSES, settings(), test, image_size=(128, 192)).double()
    theirs = TorchvisionFasterRCNN(
        Pyramid(), min_size=128, max_size=192, size_divisible=64,
        rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in settings().rpn.anchor_sizes), ((0.5, 1.0, 2.0),) * 5),
        rpn_head=RPNHead(CHANNELS, 3),
        rpn_pre_nms_top_n_train=200, rpn_pre_nms_top_n_test=150,
        rpn_post_nms_top_n_train=120, rpn_post_nms_top_n_test=60, rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        box_head=TwoMLPHead(CHANNELS * 49, 16), box_predictor=FastRCNNPredictor(16, CLASSES + 1),
        box_batch_size_per_image=48, box_detections_per_img=40,
    ).double()  # fmt: skip
    for name, weights in ours.rpn.head.named_parameters():
        nn.init.normal_(weights, std=0.3 if "cls" in name else 0.05)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def scene(seed: int, count: int = 3) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Random images and objects; the second image has no objects."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for number in range(count):
        height, width = (int(v) for v in torch.randint(90, 160, (2,), generator=generator))
        images.append(torch.rand(3, height, width, generator=generator, dtype=torch.float64))
        objects = 0 if number == 1 else 5
        corner = torch.rand(objects, 2, generator=generator, dtype=torch.float64) * 60
        side = 8 + torch.rand(objects, 2, generator=generator, dtype=torch.float64) * 70
        limit = torch.tensor([width, height], dtype=torch.float64)
        boxes = torch.cat((corner, torch.minimum(corner + side, limit)), dim=1)
        labels = torch.randint(1, CLASSES + 1, (objects,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels})
    return images, targets


class Given:
    """A sampler for torchvision that returns the samples drawn by ours."""

    def __init__(self, positive: list[torch.Tensor], negative: list[torch.Tensor]) -> None:
        self.masks = positive, negative

    def __call__(self, labels: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        for mask, negative, label in zip(*self.masks, labels, strict=True):
            assert (label[mask.bool()] >= 1).all() and (label[negative.bool()] == 0).all()
        return self.masks


def masks_of(index: torch.Tensor, chosen: torch.Tensor, count: int) -> list[torch.Tensor]:
    mask = torch.zeros(len(index), count, dtype=torch.uint8)
    return list(mask.scatter_add(1, index, chosen.to(torch.uint8)))


@pytest.mark.parametrize("seed", range(4))
def test_proposal_losses_and_gradients(seed: int) -> None:
    ours, theirs = pair()
    images, targets = scene(seed)
    batch = ours.prepare(images, targets)
    prepared, resized = theirs.transform(images, targets)
    features = [f.detach().requires_grad_() for f in ours.backbone(batch.images).values()]
    their_features = {str(k): f.detach().clone().requires_grad_() for k, f in enumerate(features)}

    _, losses = ours.rpn(features, batch)
    anchors = ours.rpn.anchor_generator([f.shape[-2:] for f in features], batch.gt_boxes)
    sampled, _ = ours.rpn.assign(anchors, batch)
    positive = masks_of(sampled.index, sampled.is_positive & sampled.is_sampled, len(anchors))
    negative = masks_of(sampled.index, ~sampled.is_positive & sampled.is_sampled, len(anchors))
    theirs.rpn.fg_bg_sampler = Given(positive, negative)
    _, expected = theirs.rpn(prepared, their_features, resized)

    assert sampled.is_positive[0].sum() > 3 and sampled.is_positive[1].sum() == 0
    assert sampled.is_sampled.all()
    for name in ("loss_objectness", "loss_rpn_box_reg"):
        torch.testing.assert_close(losses[name], expected[name], rtol=0, atol=1e-6, check_dtype=False)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for mine, other in zip(features, their_features.values(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-6)
    for mine, other in zip(ours.rpn.parameters(), theirs.rpn.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_region_losses_and_gradients(seed: int) -> None:
    ours, theirs = pair()
    images, targets = scene(seed)
    batch = ours.prepare(images, targets)
    prepared, resized = theirs.transform(images, targets)
    features = [f.detach().requires_grad_() for f in ours.backbone(batch.images).values()]
    their_features = {str(k): f.detach().clone().requires_grad_() for k, f in enumerate(features[:4])}
    proposals, _ = ours.rpn([f.detach() for f in features], batch)

    _, losses = ours.roi_heads(features, proposals, batch)
    regions = ours.roi_heads.select_regions(proposals, batch)
    assert regions.is_sampled.all() and (regions.labels[0] > 0).sum() >= 5 and (regions.labels[1] == 0).all()
    valid = [boxes[keep] for boxes, keep in zip(proposals.boxes, proposals.is_valid, strict=True)]
    positive, negative = [], []
    for image, boxes in enumerate(valid):
        candidates = torch.cat((boxes, resized[image]["boxes"]))
        drawn = (candidates[:, None] == regions.boxes[image][None]).all(dim=2)
        # A proposal may coincide with an object; each sampled region then stands for one of the equal candidates.
        first = (drawn.cumsum(0) == 1) & drawn
        foreground = regions.labels[image] > 0
        positive.append((first & foreground).any(dim=1).to(torch.uint8))
        negative.append((first & ~foreground).any(dim=1).to(torch.uint8))
    theirs.roi_heads.fg_bg_sampler = Given(positive, negative)
    _, expected = theirs.roi_heads(their_features, valid, prepared.image_sizes, resized)

    for name in ("loss_classifier", "loss_box_reg"):
        torch.testing.assert_close(losses[name], expected[name], rtol=0, atol=1e-6, check_dtype=False)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for mine, other in zip(features, their_features.values(), strict=False):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-6)
    for mine, other in zip(ours.roi_heads.parameters(), theirs.roi_heads.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-6)


def test_training_proposals_equal_torchvision() -> None:
    ours, theirs = pair()
    images, targets = scene(7)
    batch = ours.prepare(images, targets)
    prepared, resized = theirs.transform(images, targets)
    features = ours.backbone(batch.images)
    proposals, _ = ours.rpn(list(features.values()), batch)
    expected, _ = theirs.rpn(prepared, features, resized)
    for boxes, keep, other in zip(proposals.boxes, proposals.is_valid, expected, strict=True):
        torch.testing.assert_close(boxes[keep], other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_detections_of_a_list_of_images_equal_torchvision(seed: int) -> None:
    ours, theirs = (detector.eval() for detector in pair())
    images, _ = scene(seed)
    with torch.no_grad():
        mine, expected = ours(images), theirs(images)
    assert sum(len(result["boxes"]) for result in mine) > 20
    for result, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(result["labels"], other["labels"])
        torch.testing.assert_close(result["scores"], other["scores"], rtol=0, atol=1e-9)
        # Sizes are kept in float32, so coordinates agree to a few float32 roundings.
        torch.testing.assert_close(result["boxes"], other["boxes"], rtol=0, atol=1e-4)


def test_training_on_a_list_returns_the_four_losses_of_torchvision() -> None:
    ours, theirs = pair()
    images, targets = scene(1)
    assert set(ours(images, targets)) == set(theirs(images, targets))


def test_state_dict_has_torchvisions_names() -> None:
    ours, theirs = pair()
    assert set(ours.state_dict()) == set(theirs.state_dict())


def test_losses_do_not_depend_on_padding_of_objects() -> None:
    ours, _ = pair()
    images, targets = scene(2)
    batch = ours.prepare(images, targets)
    longer = Batch(**{**vars(batch)})
    longer.gt_boxes = torch.cat((batch.gt_boxes, torch.tensor([0.0, 0, 1, 1]).to(batch.gt_boxes).repeat(3, 3, 1)), 1)
    longer.gt_labels = nn.functional.pad(batch.gt_labels, (0, 3))
    longer.gt_ignore = nn.functional.pad(batch.gt_ignore, (0, 3))
    features = list(ours.backbone(batch.images).values())
    (proposals, one), (_, other) = ours.rpn(features, batch), ours.rpn(features, longer)
    assert one == other
    keys = random_keys(0, REGIONS, batch.positions, proposals.boxes.shape[1] + longer.gt_boxes.shape[1])
    assert (keys[:, : proposals.boxes.shape[1] + batch.gt_boxes.shape[1]] < 2**56).all()
    first, second = (ours.roi_heads.select_regions(proposals, b) for b in (batch, longer))
    for mine, also in itertools.zip_longest(first, second):
        assert torch.equal(mine, also)
