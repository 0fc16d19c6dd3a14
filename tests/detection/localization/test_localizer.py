"""Localizers: their losses equal slow loops, their boxes lie where the anchors are, their parts are what they say.

Shapes: ``B`` images, ``N`` objects of an image after padding, ``A`` anchors of an image.
"""

import dataclasses
import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from detection.batch import Batch
from detection.config import Config, LocalizationSettings, ModelSettings
from detection.errors import UserError
from detection.localization.build import build_localizer
from detection.localization.localizer import STREAM, Localizer
from detection.model.sampling import random_keys

SIDE, K = 64, 5
LOC = LocalizationSettings(crop=SIDE, scales=(72, 96), anchor_sizes=(24.0, 48.0), anchor_ratios=(0.5, 1.0))


def config(backbone: str = "resnet18", norm: str = "group", **loc: object) -> Config:
    model = ModelSettings(norm=norm, freeze_at=0)
    return Config(backbone=backbone, weights="none", seed=7, model=model, loc=dataclasses.replace(LOC, **loc))


def localizer(backbone: str = "resnet18", norm: str = "group", **loc: object) -> Localizer:
    torch.manual_seed(0)
    return build_localizer(config(backbone, norm, **loc), K, load_weights=False)[0]


def meta(backbone: str, norm: str = "none", **loc: object) -> Localizer:
    """Shapes without numbers: VGG's fc6 alone has 100 million."""
    with torch.device("meta"):
        return localizer(backbone, norm, **loc)


def batch_of(objects: list[list[tuple[float, ...]]], labels: list[int], ignored: tuple = ()) -> Batch:
    """Crops of noise; image i shows `objects[i]`, of class `labels[i]`; `ignored` lists (image, object)."""
    count = len(objects)
    boxes = torch.tensor([0.0, 0, 1, 1]).repeat(count, 4, 1)
    gt_labels, gt_ignore = torch.zeros(count, 4, dtype=torch.int64), torch.zeros(count, 4, dtype=torch.bool)
    for image, found in enumerate(objects):
        for row, box in enumerate(found):
            boxes[image, row], gt_labels[image, row] = torch.tensor(box), labels[image]
    for place in ignored:
        gt_ignore[place] = True
    sizes = torch.full((count, 2), float(SIDE))
    images = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return Batch(images, sizes, sizes, torch.arange(count) + 40, boxes, gt_labels, gt_ignore, torch.arange(count))


SCENE = batch_of(
    [
        [(4, 6, 40, 50), (30, 30, 62, 60)],
        [(0, 0, 64, 64)],
        [(10, 10, 22, 20), (40, 5, 60, 60), (0, 40, 64, 64)],
        [],
    ],
    labels=[2, 5, 2, 0],
    ignored=((2, 2),),
)
"""Two objects; one as large as the crop; two and an ignored one; none."""


def slow_anchors(stride: int) -> list[list[float]]:
    """Row, column, ratio by size: a torchvision cell is centred on the corner of its place and rounded to pixels."""
    places = range(SIDE // stride)
    cells = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for ratio in (0.5, 1.0) for size in (24.0, 48.0)]
    return [
        [x * stride - round(w / 2), y * stride - round(h / 2), x * stride + round(w / 2), y * stride + round(h / 2)]
        for y, x, (w, h) in product(places, places, cells)
    ]


def iou(first: list[float], second: list[float]) -> float:
    return float(box_iou(torch.tensor([first]).double(), torch.tensor([second]).double()))


def smooth_l1(value: Tensor) -> Tensor:
    return 0.5 * value**2 / LOC.beta if abs(float(value.detach())) < LOC.beta else abs(value) - 0.5 * LOC.beta


def offsets(box: list[float], reference: list[float]) -> list[float]:
    (w, h), (rw, rh) = ((b[2] - b[0], b[3] - b[1]) for b in (box, reference))
    shifts = [((box[i] + box[i + 2]) - (reference[i] + reference[i + 2])) / 2 for i in (0, 1)]
    return [shifts[0] / rw, shifts[1] / rh, math.log(w / rw), math.log(h / rh)]


def slow_sample(references: list[list[float]], batch: Batch, image: int, keys: Tensor) -> list[tuple[int, int | None]]:
    """The 8 anchors of an image that count, each with its object; None: background. Written out one by one."""
    rows = [row for row in range(4) if batch.gt_labels[image, row] > 0]
    objects = {row: batch.gt_boxes[image, row].tolist() for row in rows if not batch.gt_ignore[image, row]}
    ignored = [batch.gt_boxes[image, row].tolist() for row in rows if batch.gt_ignore[image, row]]
    table = [{row: iou(reference, box) for row, box in objects.items()} for reference in references]
    top = {row: max(ious[row] for ious in table) for row in objects}
    positives, negatives = {}, []
    for number, ious in enumerate(table):
        best = max(ious.values(), default=0.0)
        if best >= LOC.fg_iou or any(value == top[row] > 0 for row, value in ious.items()):
            positives[number] = max(ious, key=ious.get)
        elif best < LOC.bg_iou and not any(_covered(references[number], box) for box in ignored):
            negatives.append(number)
    if not rows:
        return []
    drawn = sorted(positives, key=lambda number: int(keys[image, number]))[:4]
    filled = sorted(negatives, key=lambda number: int(keys[image, number]))[: 8 - len(drawn)]
    return [(number, positives[number]) for number in drawn] + [(number, None) for number in filled]


def _covered(reference: list[float], box: list[float]) -> bool:
    width = min(reference[2], box[2]) - max(reference[0], box[0])
    height = min(reference[3], box[3]) - max(reference[1], box[1])
    area = (reference[2] - reference[0]) * (reference[3] - reference[1])
    return max(width, 0) * max(height, 0) >= area / 2


@pytest.mark.parametrize(("layer", "stride"), [("conv5", 32), ("conv4", 16)])
def test_losses_and_gradients_of_rpn_equal_a_loop(layer: str, stride: int) -> None:
    built = localizer(layer=layer, box_weight=1.5)
    assert built.stride == stride
    references = slow_anchors(stride)
    images = SCENE.images
    with torch.no_grad():
        maps = built.features(images)
    assert maps.shape == (4, 512 if layer == "conv5" else 256, SIDE // stride, SIDE // stride)
    logits, deltas = built.layers(maps, SCENE.gt_labels.amax(dim=1, keepdim=True))
    logits, deltas = logits[:, 0].detach().requires_grad_(), deltas[:, 0].detach().requires_grad_()
    found = built.losses(logits, deltas, torch.tensor(references).float(), SCENE)
    given = torch.autograd.grad(sum(found.values()), (logits, deltas))

    keys = random_keys(7, STREAM, SCENE.positions, len(references))
    objectness, boxes, count = torch.zeros(()), torch.zeros(()), 0
    for image in range(4):
        for number, row in slow_sample(references, SCENE, image, keys):
            count += 1
            sign = 1 if row is None else -1
            objectness = objectness + torch.log1p(torch.exp(sign * logits[image, number]))
            if row is not None:
                targets = offsets(SCENE.gt_boxes[image, row].tolist(), references[number])
                boxes = boxes + sum(smooth_l1(deltas[image, number, i] - targets[i]) for i in range(4))
    assert count > 12 and boxes > 0
    expected = {"loss_objectness": objectness / count, "loss_box_reg": 1.5 * boxes / count}
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    for one, other in zip(given, torch.autograd.grad(sum(expected.values()), (logits, deltas)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(built(SCENE), found, rtol=1e-4, atol=1e-6)  # the whole way from the batch


def test_the_class_is_that_of_the_objects() -> None:
    """Only the rows of classes 2 and 5 learn; the image without an object teaches nothing, not even class 1."""
    built = localizer()
    sum(built(SCENE).values()).backward()
    for parameter in built.layers.parameters():
        learns = parameter.grad.flatten(1).abs().sum(dim=1) > 0
        assert learns.tolist() == [False, True, False, False, True]
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_an_anchor_without_offsets_is_its_box() -> None:
    """Places in pixels, not in places of the map: at stride 16 the anchor of row 2, column 3 is centred on (48, 32)."""
    built = localizer(layer="conv4")
    for parameter in built.layers.parameters():
        torch.nn.init.zeros_(parameter)
    maps = torch.rand(2, 256, 4, 4)
    labels = torch.tensor([[1, 3, 0], [2, 2, 5]])
    logits, boxes = built.outputs(maps, labels, (SIDE, SIDE))
    assert logits.shape == (2, 3, 4 * 4 * 4) and boxes.shape == (2, 3, 64, 4)
    expected = torch.tensor(slow_anchors(16)).float()
    assert torch.equal(boxes, expected.expand(2, 3, 64, 4))
    square = (2 * 4 + 3) * 4 + 2  # ratio 1, size 24
    assert boxes[0, 0, square].tolist() == [36, 20, 60, 44]


def test_outputs_follow_offsets_also_beyond_the_image() -> None:
    built = localizer(layer="conv4")
    for parameter in built.layers.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        built.layers.offsets.bias[2, 8:12] = torch.tensor([0.5, 0, math.log(2), 0])  # class 3, ratio 1 and size 24
        built.layers.scores.bias[2, 2] = 4.0
    logits, boxes = built.outputs(torch.rand(1, 256, 3, 4), torch.tensor([[3]]), (40, 60))
    best = (1 * 4 + 1) * 4 + 2  # row 1, column 1: centred on (16, 16), 24 x 24; moved to x 28, widened to 48
    torch.testing.assert_close(boxes[0, 0, best], torch.tensor([4.0, 4, 52, 28]))
    assert logits[0, 0, best] == 4
    torch.testing.assert_close(boxes[0, 0, 2], torch.tensor([-12.0, -12, 36, 12]))  # row 0, column 0


@pytest.mark.parametrize("method", ["rpn", "rcnn", "pcr"])
def test_padding_of_a_crop_makes_no_difference(method: str) -> None:
    built = localizer(method=method)
    crops = dataclasses.replace(SCENE, images=(SCENE.images * 60 + 128).clamp(0, 255).to(torch.uint8))
    padded = dataclasses.replace(crops, images=torch.nn.functional.pad(crops.images, (0, 32, 0, 64)))
    for name, loss in built(crops).items():
        assert torch.equal(loss, built(padded)[name])


def test_rcnn_by_hand() -> None:
    """IoU with the crop: a box of half the crop 0.5 (positive), a box that reaches 64 beyond 0.5, a quarter 0.25."""
    batch = batch_of([[(0, 0, 64, 32)], [(0, 0, 128, 64)], [(0, 0, 32, 32)], [(0, 0, 32, 32), (0, 0, 64, 60)], []],
                     [1, 2, 3, 4, 0], ())  # fmt: skip
    built = localizer(method="rcnn", beta=1.0)
    crop = torch.tensor([[0.0, 0, 64, 64]])
    sampled, matched = built.assign(crop, batch)
    assert sampled.is_positive[:, 0].tolist() == [True, True, False, True, False]
    assert sampled.is_sampled[:, 0].tolist() == [True, True, True, True, False]
    assert matched[3, 0] == 1
    logits = torch.tensor([[0.0], [1.0], [2.0], [-1.0], [9.0]])
    losses = built.losses(logits, torch.zeros(5, 1, 4), crop, batch)
    cross = math.log(2) + math.log1p(math.exp(-1)) + math.log1p(math.exp(2)) + math.log1p(math.exp(1))
    assert float(losses["loss_objectness"]) == pytest.approx(cross / 4, rel=1e-6)
    # Targets: (0, -1/4, 0, log 1/2), (1/2, 0, log 2, 0), (0, -2/64, 0, log 60/64); smooth L1 below 1 is half a square.
    squares = (1 / 16 + math.log(2) ** 2) + (1 / 4 + math.log(2) ** 2) + ((2 / 64) ** 2 + math.log(60 / 64) ** 2)
    assert float(losses["loss_box_reg"]) == pytest.approx(0.5 * squares / 4, rel=1e-5)


def test_rcnn_leaves_out_what_an_ignored_object_covers() -> None:
    batch = batch_of([[(0, 0, 20, 20), (0, 0, 64, 40)], [(0, 0, 20, 20), (0, 0, 64, 20)]], [1, 1], ((0, 1), (1, 1)))
    sampled, _ = localizer(method="rcnn").assign(torch.tensor([[0.0, 0, 64, 64]]), batch)
    assert sampled.is_sampled[:, 0].tolist() == [False, True] and not sampled.is_positive.any()


def test_pcr_by_hand() -> None:
    """The object with the largest IoU with the crop is the target, however small; no logit, no objectness."""
    batch = batch_of([[(0, 0, 8, 8), (0, 0, 32, 32)], [(16, 16, 48, 48)], []], [1, 2, 0])
    built = localizer(method="pcr", beta=1.0)
    crop = torch.tensor([[0.0, 0, 64, 64]])
    sampled, matched = built.assign(crop, batch)
    assert sampled.is_positive[:, 0].tolist() == [True, True, False] and matched[0, 0] == 1
    losses = built.losses(torch.zeros(3, 1), torch.zeros(3, 1, 4), crop, batch)
    # Targets: (-1/4, -1/4, log 1/2, log 1/2) and (0, 0, log 1/2, log 1/2).
    squares = 2 / 16 + 4 * math.log(2) ** 2
    assert list(losses) == ["loss_box_reg"]
    assert float(losses["loss_box_reg"]) == pytest.approx(0.5 * squares / 2, rel=1e-6)
    sum(built(batch).values()).backward()
    assert all(parameter.grad is not None for parameter in built.parameters())  # as DDP demands


@pytest.mark.parametrize("method", ["rcnn", "pcr"])
def test_the_image_is_the_reference(method: str) -> None:
    """Offsets (0, 1/2, log 2, 0) move the square of 64 down by 32 and widen it to 128, beyond the crop."""
    built = localizer(method=method)
    for parameter in built.layers.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        built.layers.offsets.bias[1] = torch.tensor([0, 0.5, math.log(2), 0])
    features = built.features(SCENE.images)
    assert features.shape == (4, 512)
    logits, boxes = built.outputs(features, torch.tensor([[2, 1]] * 4), (SIDE, SIDE))
    assert logits.shape == (4, 2, 1) and not logits.any()
    moved = [-32.0, 32, 96, 96]
    torch.testing.assert_close(boxes, torch.tensor([[moved], [[0, 0, 64, 64]]]).view(1, 2, 1, 4).expand(4, 2, 1, 4))


@pytest.mark.parametrize("method", ["rpn", "rcnn", "pcr"])
def test_boxes_and_losses_are_float32_under_autocast(method: str) -> None:
    built = localizer(method=method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = built.features(SCENE.images)
        logits, boxes = built.outputs(features, torch.tensor([[1, 2]] * 4), (SIDE, SIDE))
        losses = built(SCENE)
    assert torch.equal(logits, built.outputs(features.float(), torch.tensor([[1, 2]] * 4), (SIDE, SIDE))[0])
    assert features.dtype == torch.bfloat16
    assert {value.dtype for value in (logits, boxes, *losses.values())} == {torch.float32}
    expected = built(SCENE)
    torch.testing.assert_close(losses, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize(("method", "shape"), [("rpn", (2, 512, 14, 14)), ("pcr", (2, 4096)), ("rcnn", (2, 4096))])
def test_vgg(method: str, shape: tuple[int, ...]) -> None:
    built = meta("vgg16", method=method)
    features = built.features(torch.zeros(2, 3, 224, 224, device="meta"))
    labels = torch.ones(2, 3, dtype=torch.int64, device="meta")
    logits, deltas = built.layers(features, labels)
    anchors = 14 * 14 * 4 if method == "rpn" else 1
    assert (features.shape, built.stride) == (shape, 16)
    assert logits.shape == (2, 3, anchors) and deltas.shape == (2, 3, anchors, 4)
    convolutions = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    table = {stage.name: stage for stage in built.stages()}
    assert list(table) == [*convolutions, *([] if method == "rpn" else ["fc6", "fc7"]), "class layers"]
    assert sum(table[name].parameters for name in convolutions) == 14_714_688  # torchvision's vgg16().features


def test_vggs_map_is_pooled_as_vgg_does() -> None:
    """At 224 pixels the maximum of every 2 x 2 places, VGG's own last pooling, reaches fc6."""
    built = meta("vgg16", method="pcr")
    maps = torch.rand(1, 512, 14, 14)
    built.backbone.forward = lambda images: {"0": maps}
    read = []
    built.tail.forward = lambda pooled: read.append(pooled) or pooled.flatten(1)
    built.features(torch.zeros(1, 3, 224, 224))
    assert torch.equal(read[0], torch.nn.functional.max_pool2d(maps, 2))


def test_dropout_is_that_of_localization() -> None:
    assert meta("vgg16", method="pcr", dropout=0.25).tail.dropout.p == 0.25


def test_conv5_is_left_out_where_conv4_is_read() -> None:
    assert [stage.name for stage in localizer(layer="conv4").stages()] == [
        "conv1", "conv2", "conv3", "conv4", "class layers"
    ]  # fmt: skip
    table = localizer().stages()
    assert [stage.name for stage in table] == ["conv1", "conv2", "conv3", "conv4", "conv5", "class layers"]
    assert sum(stage.parameters for stage in table[:5]) == 11_689_512 - 513_000  # torchvision's, less its classifier
    assert table[5].parameters == K * (4 + 16) * (512 + 1)


def test_the_second_stage_has_the_firsts_names() -> None:
    """So that it can start from the first's weights."""
    first, second = localizer().state_dict(), localizer(method="rcnn").state_dict()
    assert list(first) == list(second)
    assert {name for name in first if first[name].shape != second[name].shape} == {
        f"layers.{layer}.{name}" for layer, name in product(("scores", "offsets"), ("weight", "bias"))
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "vgg16", "norm": "none", "layer": "conv4"}, ("loc.layer conv4", "vgg16", "conv5")),
        ({"backbone": "resnet19"}, ("resnet19", "resnet18")),
        ({"norm": "frozen"}, ("norm frozen", "--weights")),
        ({"backbone": "vgg16", "norm": "frozen"}, ("frozen", "vgg16")),
    ],
)
def test_what_does_not_go_together_is_a_users_mistake(settings: dict[str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        build_localizer(config(**settings), K)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
