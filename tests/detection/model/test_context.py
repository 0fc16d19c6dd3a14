"""Global context equals a loop that pools the whole image alone and puts its vector behind one region's at a time.

Shapes: ``B`` images, ``R`` regions of an image, ``C`` numbers that describe a region, ``K`` classes.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from backbones.vgg import FullyConnected
from detection import checkpoint
from detection.batch import Batch
from detection.config import Config, InferenceSettings, ModelSettings, ProposalSettings, RegionSettings, from_dict
from detection.errors import UserError
from detection.inference.ensemble import Member, detect
from detection.inference.predictor import load_detector
from detection.model.build import build_detector
from detection.model.faster_rcnn import FasterRCNN
from detection.model.rpn import Proposals
from detection.training.run import train

CLASSES = 3
HEADS = ("c4", "fpn", "fc")
SIZES = torch.tensor([[112.0, 150.0], [128.0, 100.0]], dtype=torch.float64)
"""Rows and columns of two images in 128 x 160 pixels; on a pyramid both are pooled from the map of stride 8."""


class SmallFullyConnected(FullyConnected):
    """VGG's own fc6 and fc7, 16 wide."""

    out_channels = 16


class OneMap(nn.Module):
    """A stand-in for VGG's convolutions: one map of stride 16."""

    out_channels, pooled_levels, strides = 8, 1, (16,)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, self.out_channels, 16, stride=16)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": self.layer(images).relu()}


def settings(head: str, global_context: bool = True) -> ModelSettings:
    return ModelSettings(
        head=head, norm="none" if head == "fc" else "group", freeze_at=0, pyramid_channels=8,
        global_context=global_context,
        rpn=ProposalSettings(
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 96.0) if head == "fpn" else (32.0, 64.0), min_size=4.0, samples=16,
            pre_nms_train=50, post_nms_train=16, pre_nms_test=50, post_nms_test=4,
        ),
        roi=RegionSettings(samples=4, fg_fraction=0.5, hidden=16, dropout=0.0, class_init_std=0.3, box_init_std=0.1),
    )  # fmt: skip


def detector(head: str, global_context: bool = True) -> FasterRCNN:
    """ResNet-18 with group normalization for c4 and fpn; small layers for fc. In float64."""
    torch.manual_seed(0)
    model, test = settings(head, global_context), InferenceSettings(score_threshold=0.1)
    if head == "fc":
        return FasterRCNN(OneMap(), SmallFullyConnected(8, 0.0), CLASSES, model, test).double()
    return build_detector(Config(backbone="resnet18", weights="none", model=model, test=test), CLASSES)[0].double()


@pytest.fixture(scope="module", params=HEADS)
def model(request: pytest.FixtureRequest) -> FasterRCNN:
    """A test sets training or evaluation; nothing else of it may change."""
    return detector(request.param)


def maps(model: FasterRCNN, seed: int = 0) -> list[Tensor]:
    """Features of two images of 128 x 160 pixels, random in the padding too."""
    generator, trunk = torch.Generator().manual_seed(seed), model.backbone
    shapes = [(2, trunk.out_channels, 128 // stride, 160 // stride) for stride in trunk.strides]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def scene(seed: int = 0) -> tuple[Proposals, Batch]:
    """Two images with three objects each, and proposals near these and further away."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64) * 40
    gt_boxes = torch.cat((corner, corner + 16 + torch.rand(2, 3, 2, generator=generator) * 30), dim=-1)
    boxes = gt_boxes.repeat(1, 4, 1) + torch.randn(2, 12, 4, generator=generator).mul(3)
    boxes[:, 3:] += 24
    labels = torch.randint(1, CLASSES + 1, (2, 3), generator=generator)
    is_valid = torch.ones(2, 12, dtype=torch.bool)
    batch = Batch(
        torch.zeros(2, 3, 128, 160, dtype=torch.uint8), SIZES, SIZES, torch.arange(2),
        gt_boxes, labels, labels == 0, torch.arange(2),
    )  # fmt: skip
    return Proposals(boxes.clamp(min=0, max=90), is_valid.double(), is_valid), batch


def slow_vector(model: FasterRCNN, features: list[Tensor], image: int, box: list[float]) -> Tensor:
    """(C,): one region, pooled by torchvision from the one map that suits it, through the head alone."""
    strides, size = model.backbone.strides[: model.backbone.pooled_levels], model.roi_heads.box_roi_pool.size
    level = 0
    if len(strides) > 1:  # FPN paper, eq. 1; the first map has stride 2**2
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = min(max(math.floor(4 + math.log2(side / 224)), 2), 5) - 2
    region = [torch.tensor([box], dtype=torch.float64)]
    pooled = roi_align(features[level][image : image + 1], region, size, 1 / strides[level], 2)
    return model.roi_heads.box_head(pooled)[0]


def slow_outputs(model: FasterRCNN, features: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, R, K+1) and offsets (B, R, K+1, 4): a layer's left half reads the region, the right the image."""
    predictor, rows = model.roi_heads.box_predictor, []
    for image, (height, width) in enumerate(SIZES.tolist()):
        context = slow_vector(model, features, image, [0, 0, width, height])
        for box in boxes[image].tolist():
            own = slow_vector(model, features, image, box)
            for layer in (predictor.cls_score, predictor.bbox_pred):
                left, right = layer.weight.chunk(2, dim=1)
                rows.append(left @ own + right @ context + layer.bias)
    logits, deltas = torch.stack(rows[::2]), torch.stack(rows[1::2])
    return logits.view(2, -1, CLASSES + 1), deltas.view(2, -1, CLASSES + 1, 4)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_losses_and_gradients_equal_the_loop(model: FasterRCNN) -> None:
    heads, features, (proposals, batch) = model.train().roi_heads, maps(model), scene()
    _, losses = heads(features, proposals, batch)
    regions = heads.select_regions(proposals, batch)
    assert regions.is_sampled.all() and (regions.labels > 0).any(dim=1).all() and (regions.labels == 0).any()
    logits, deltas = slow_outputs(model, features, regions.boxes)
    foreground = regions.labels > 0
    chosen = deltas[foreground][torch.arange(foreground.sum()), regions.labels[foreground]]
    targets = heads.box_coder.encode_single(regions.gt_boxes[foreground], regions.boxes[foreground])
    expected = {
        "loss_classifier": F.cross_entropy(logits.flatten(0, 1), regions.labels.flatten()),
        "loss_box_reg": F.smooth_l1_loss(chosen, targets, reduction="sum") / regions.labels.numel(),
    }
    inputs = [*features[: heads.pooled_levels], *heads.parameters()]
    gradients = [
        torch.autograd.grad(sum(each.values()), inputs, allow_unused=True, materialize_grads=True)
        for each in (losses, expected)
    ]
    for name, loss in losses.items():
        close(loss, expected[name])
    for mine, other in zip(*gradients, strict=True):
        close(mine, other)
    for layer in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred):
        number = next(place for place, weights in enumerate(inputs) if weights is layer.weight)
        assert all(half.abs().sum() > 0 for half in gradients[0][number].chunk(2, dim=1))


@torch.no_grad()
def test_outputs_equal_the_loop(model: FasterRCNN) -> None:
    heads, features, (proposals, batch) = model.eval().roi_heads, maps(model, 1), scene(1)
    boxes = proposals.boxes[:, ::3]
    outputs = heads.predict(heads.describe(features, boxes, batch.sizes))
    for found, expected in zip(outputs, slow_outputs(model, features, boxes), strict=True):
        close(found, expected)
    for image, (height, width) in enumerate(SIZES.tolist()):
        close(
            heads.context(heads.sources(features), SIZES)[image],
            slow_vector(model, features, image, [0, 0, width, height]),
        )


@torch.no_grad()
def test_the_context_of_a_constant_image_is_the_vector_of_any_region_in_it(model: FasterRCNN) -> None:
    heads, (proposals, batch) = model.eval().roi_heads, scene(2)
    features = [torch.full_like(part, 0.7) for part in maps(model)]
    size = heads.box_roi_pool.size
    alone = heads.box_head(torch.full((1, model.backbone.out_channels, size, size), 0.7, dtype=torch.float64))[0]
    boxes = proposals.boxes[:, ::3]
    close(heads.describe(features, boxes, batch.sizes), torch.cat((alone, alone)).expand(2, 4, -1))
    close(heads.context(heads.sources(features), batch.sizes), alone.expand(2, -1))


def test_the_context_sees_all_of_the_image_and_nothing_of_the_padding(model: FasterRCNN) -> None:
    """RoIAlign at the right and the lower edge reads one cell more, as for any region that ends there (torchvision)."""
    heads, features = model.eval().roi_heads, maps(model)
    level = 1 if heads.pooled_levels > 1 else 0
    stride = model.backbone.strides[level]
    gradient = torch.autograd.grad(heads.context(heads.sources(features), SIZES).square().sum(), features[level])[0]
    for image, (height, width) in enumerate(SIZES.tolist()):
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        reached = gradient[image].abs().sum(dim=0) > 0
        assert not reached[rows + 1 :].any() and not reached[:, columns + 1 :].any()
        assert all(part.any() for part in (reached[0], reached[:, 0], reached[rows - 1], reached[:, columns - 1]))


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_only_the_two_sibling_layers_are_wider(head: str) -> None:
    wide, plain = ({n: tuple(t.shape) for n, t in detector(head, on).state_dict().items()} for on in (True, False))
    width = 512 if head == "c4" else 16
    assert {name: (shape, wide[name]) for name, shape in plain.items() if shape != wide[name]} == {
        "roi_heads.box_predictor.cls_score.weight": ((4, width), (4, 2 * width)),
        "roi_heads.box_predictor.bbox_pred.weight": ((16, width), (16, 2 * width)),
    }
    assert wide.keys() == plain.keys()


def pictures(seed: int) -> Batch:
    generator, (_, batch) = torch.Generator().manual_seed(seed), scene()
    batch.images = torch.randint(0, 256, (2, 3, 128, 160), generator=generator, dtype=torch.uint8)
    return batch


@torch.no_grad()
def test_the_head_sees_each_image_once(model: FasterRCNN, request: pytest.FixtureRequest) -> None:
    """Rows that pass the head: R regions and one image; with one round of refinement 2 R and one."""
    batch, rows = pictures(0), []
    hook = model.eval().roi_heads.box_head.register_forward_pre_hook(lambda _, pooled: rows.append(len(pooled[0])))
    request.addfinalizer(hook.remove)
    found = {}
    for refine, count in ((False, 4 + 1), (True, 2 * 4 + 1)):
        config = from_dict({"test": {"refine": refine, "score_threshold": 0.1}})
        member = Member(model, config)
        found[refine] = detect([member], {member.proposal_size: batch})
        assert sum(rows) == 2 * count
        rows.clear()
    expected = model(batch)
    assert rows == [2 * (4 + 1)]
    for result, other in zip(found[False], expected, strict=True):  # the two ways to an image's detections agree
        assert len(result["scores"]) > 0
        for name, values in result.items():
            close(values, other[name])


def test_in_training_the_image_is_one_row_among_its_regions(model: FasterRCNN, request: pytest.FixtureRequest) -> None:
    """So that the statistics of batch normalization come from one call."""
    rows: list[int] = []
    hook = model.train().roi_heads.box_head.register_forward_pre_hook(lambda _, pooled: rows.append(len(pooled[0])))
    request.addfinalizer(hook.remove)
    model.roi_heads(maps(model), *scene())
    assert rows == [2 * (4 + 1)]


def test_a_run_trains_the_context_and_its_checkpoint_predicts(
    tiny_config: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    tiny_config["model"]["global_context"] = True
    tiny_config["train"]["iterations"] = 2
    tiny_config["output"] = str(tmp_path / "context")
    folder = train(from_dict(tiny_config), tiny_config)
    predictor = load_detector(folder, "cpu")
    layers = predictor.members[0].detector.roi_heads.box_predictor
    assert layers.cls_score.weight.shape == (5, 64) and layers.bbox_pred.weight.shape == (20, 64)
    # Adam moves a weight by about the learning rate in each step, but only where there is a gradient.
    moments = checkpoint.load(folder)["optimizer"]["state"].values()
    squares = [state["exp_avg_sq"] for state in moments if state["exp_avg_sq"].shape in ((5, 64), (20, 64))]
    assert len(squares) == 2 and all(half.sum() > 0 for square in squares for half in square.chunk(2, dim=1))
    found = predictor(tiny_data / "JPEGImages" / "000008.jpg")
    assert len(found) > 0 and set(found.labels) <= {1, 2, 3, 4}
    with pytest.raises(UserError, match="trained with model.global_context true, which cannot become false"):
        load_detector(folder, "cpu", {"model": {"global_context": False}})
    shutil.rmtree(folder)


def test_a_detector_without_context_cannot_be_given_it(tiny_run: Path) -> None:
    with pytest.raises(UserError, match="best.pt: it was trained with model.global_context false") as caught:
        load_detector(tiny_run / "best.pt", "cpu", {"model": {"global_context": True}})
    assert "which cannot become true now" in str(caught.value) and "\n" not in str(caught.value)
