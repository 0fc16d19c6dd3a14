"""The whole detector: batches against single images, stored against normalized pixels, one process against several.

Shapes: ``B`` images, ``N`` objects of an image after padding, ``H, W`` rows and columns after padding.
"""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.functional import normalize

from detection import distributed
from detection.batch import Batch
from detection.config import InferenceSettings, ModelSettings, ProposalSettings, RegionSettings
from detection.model.faster_rcnn import FasterRCNN, anchor_sizes

CLASSES, CHANNELS = 3, 8
LOSSES = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


class Trunk(nn.Module):
    """Two convolutions that look beyond their cell, so that padding matters; then one map for each stride."""

    out_channels = CHANNELS

    def __init__(self, strides: tuple[int, ...], pooled_levels: int) -> None:
        super().__init__()
        self.strides, self.pooled_levels = strides, pooled_levels
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.levels = nn.ModuleList(nn.Conv2d(4, CHANNELS, stride, stride=stride) for stride in strides)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        stem = self.stem(images)
        return {str(number): level(stem) for number, level in enumerate(self.levels)}


class Tail(nn.Sequential):
    """A stand-in for conv5: halves 14 x 14 to 7 x 7."""

    out_channels, steps = 16, (1,)

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(CHANNELS, 16, 3, stride=2, padding=1), nn.ReLU())

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        return (features,)

    def finish(self, pooled: Tensor) -> Tensor:
        return self(pooled)


def detector(head: str, seed: int = 0, **roi: object) -> FasterRCNN:
    """An untrained detector with decided opinions: a pyramid, or a single map of stride 16."""
    torch.manual_seed(seed)
    pyramid = head == "fpn"
    settings = ModelSettings(
        head=head,
        rpn=ProposalSettings(
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 96.0) if pyramid else (16.0, 32.0, 64.0), ignore_border=not pyramid,
            samples=64, pre_nms_train=200, pre_nms_test=150, post_nms_train=100, post_nms_test=50, min_size=4.0,
        ),
        roi=RegionSettings(samples=32, hidden=16, class_init_std=0.5, box_init_std=0.1, **roi),
    )  # fmt: skip
    test = InferenceSettings(score_threshold=0.2, nms_iou=0.4, detections=30)
    trunk = Trunk((4, 8, 16, 32, 64), 4) if pyramid else Trunk((16,), 1)
    model = FasterRCNN(trunk, None if pyramid else Tail(), CLASSES, settings, test, image_size=(96, 192), seed=11)
    for name, weights in model.rpn.head.named_parameters():
        nn.init.normal_(weights, std=0.3 if "cls" in name else 0.05)
    return model


def scene(seed: int, count: int = 4) -> Batch:
    """Stored images of several sizes in one padded area of 128 x 192; the second has no objects."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([[96, 131], [128, 192], [100, 96], [127, 160]])[:count].float()
    images = torch.randint(0, 256, (count, 3, 128, 192), generator=generator, dtype=torch.uint8)
    for image, (height, width) in zip(images, sizes.int().tolist(), strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    corner = torch.rand(count, 5, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 10 + torch.rand(count, 5, 2, generator=generator) * 26), dim=2)
    labels = torch.randint(0, CLASSES + 1, (count, 5), generator=generator)
    labels[1], labels[[0, 2, 3][: count - 1], 0] = 0, 1
    ignore = (torch.arange(5) == 3).expand(count, 5) & (labels > 0)
    boxes[labels == 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return Batch(images, sizes, sizes * 1.5, torch.arange(count) + 100, boxes, labels, ignore, torch.arange(count))


def rows(batch: Batch, chosen: slice) -> Batch:
    return Batch(**{name: value[chosen] for name, value in vars(batch).items()})


def assert_same_detections(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float) -> None:
    assert torch.equal(found["labels"], expected["labels"])
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=atol, check_dtype=False)
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1000 * atol, check_dtype=False)


@pytest.mark.parametrize("head", ["fpn", "c4"])
@torch.no_grad()
def test_detections_of_an_image_do_not_depend_on_its_batch(head: str) -> None:
    model, batch = detector(head).double().eval(), scene(0)
    together = model(batch)
    assert sum(len(result["boxes"]) for result in together) > 20
    for image in range(len(batch)):
        (alone,) = model(rows(batch, slice(image, image + 1)))
        assert_same_detections(together[image], alone, atol=1e-10)
        limit = batch.original_sizes[image].flip(0).repeat(2)
        assert (alone["boxes"] >= 0).all() and (alone["boxes"] <= limit + 1e-4).all()


@pytest.mark.parametrize("head", ["fpn", "c4"])
@torch.no_grad()
def test_stored_and_listed_images_give_the_same(head: str) -> None:
    """A batch of bytes, with anything in its padding, against a list of images in [0, 1] that need no resizing."""
    model, batch = detector(head).double().eval(), rows(scene(1), slice(0, 1))
    clean = batch.images[0, :, :96, :131].double() / 255
    listed = model.prepare([clean], None)
    stored = torch.randint(0, 256, listed.images.shape, dtype=torch.uint8)
    stored[:, :, :96, :131] = batch.images[:, :, :96, :131]
    batch.images, batch.original_sizes = stored, batch.sizes
    pixels = model.normalize(batch)
    assert torch.equal(listed.sizes, batch.sizes)
    torch.testing.assert_close(pixels, listed.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        pixels[0, :, :96, :131], normalize(clean, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), rtol=0, atol=1e-6
    )
    assert (pixels[:, :, 96:] == 0).all() and (pixels[:, :, :, 131:] == 0).all()
    assert torch.equal(model.normalize(listed), listed.images)
    (found,), (expected,) = model(batch), model([clean])
    assert len(found["boxes"]) > 5
    assert_same_detections(found, expected, atol=1e-5)


def test_lists_carry_their_objects_into_the_batch() -> None:
    model = detector("c4")
    images = [torch.rand(3, 48, 60), torch.rand(3, 96, 96)]
    boxes = torch.tensor([[2.0, 4.0, 30.0, 40.0], [0.0, 0.0, 60.0, 48.0]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([2, 3]), "ignore": torch.tensor([False, True])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    batch = model.prepare(images, targets)
    assert batch.sizes.tolist() == [[96, 120], [96, 96]] and batch.original_sizes.tolist() == [[48, 60], [96, 96]]
    torch.testing.assert_close(batch.gt_boxes[0], 2 * boxes)
    assert batch.gt_boxes[1].tolist() == [[0, 0, 1, 1]] * 2
    assert batch.gt_labels.tolist() == [[2, 3], [0, 0]] and batch.gt_ignore.tolist() == [[False, True], [False, False]]
    assert batch.images.shape == (2, 3, 96, 128)
    with pytest.raises(ValueError, match="targets"):
        model(images)


@pytest.mark.parametrize(("head", "pooling"), [("fpn", "align"), ("fpn", "max"), ("c4", "align"), ("c4", "max")])
def test_boxes_and_losses_are_float32_under_autocast(head: str, pooling: str) -> None:
    """Against full precision: bf16 keeps 8 bits, and the sums behind a logit here have a few hundred terms."""
    model, batch = detector(head, pooling=pooling), scene(2)
    with torch.autocast("cpu", torch.bfloat16):
        features = list(model.backbone(model.normalize(batch)).values())
        assert all(each.dtype == torch.bfloat16 for each in features)
        proposals, _ = model.rpn(features, batch)
        losses = model(batch)
    assert proposals.boxes.dtype == proposals.scores.dtype == torch.float32 and proposals.boxes.isfinite().all()
    assert set(losses) == LOSSES
    for name, expected in model(batch).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], expected, rtol=0.05, atol=0.02)
    sum(losses.values()).backward()
    assert all(weights.grad.isfinite().all() for weights in model.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for result in model.eval()(batch):
            assert result["boxes"].dtype == result["scores"].dtype == torch.float32
            assert result["boxes"].isfinite().all()


def losses_and_gradients(model: FasterRCNN, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
    losses = model(batch)
    gradients = torch.autograd.grad(sum(losses.values()), list(model.parameters()))
    return {name: loss.detach() for name, loss in losses.items()}, list(gradients)


@pytest.mark.parametrize("head", ["fpn", "c4"])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_losses_do_not_depend_on_how_a_batch_is_split(head: str, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes whose losses and gradients are averaged, as DDP does, against one that has the whole batch.

    Each part is computed twice: the first time to see the counts it would send, then with the sums it would receive.
    """
    model, batch = detector(head, seed=1).double(), scene(3)
    # The image without objects has only background regions, and part of the images have few: uneven counts.
    batch.gt_boxes[2], batch.gt_labels[2] = torch.tensor([0.0, 0, 1, 1]), 0
    expected, expected_gradients = losses_and_gradients(model, batch)
    parts = [rows(batch, slice(0, cut)), rows(batch, slice(cut, 4))]

    def run(part: Batch, exchange: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        monkeypatch.setattr(distributed, "sum_over_processes", exchange)
        return losses_and_gradients(model, part)

    sent: list[list[Tensor]] = [[], []]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for counts, part in zip(sent, parts, strict=True):
        run(part, lambda count, counts=counts: counts.append(count.clone()) or count)
    totals = [first + second for first, second in zip(*sent, strict=True)]
    assert len(totals) == 2 and all((total > 0).all() for total in totals)
    received = []
    for part in parts:
        answers = iter(totals)
        received.append(run(part, lambda count, answers=answers: next(answers)))
    (losses, gradients), (also, more) = received
    for name, loss in expected.items():
        torch.testing.assert_close((losses[name] + also[name]) / 2, loss, rtol=0, atol=1e-12)
    for one, other, whole in zip(gradients, more, expected_gradients, strict=True):
        torch.testing.assert_close((one + other) / 2, whole, rtol=0, atol=1e-10)


def test_padded_objects_and_channels_last_change_nothing() -> None:
    model, batch = detector("fpn").double(), scene(4)
    expected, _ = losses_and_gradients(model, batch)
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(4, 8, 4)
    longer = dataclasses.replace(
        batch,
        gt_boxes=torch.cat((batch.gt_boxes, unit), dim=1),
        gt_labels=nn.functional.pad(batch.gt_labels, (0, 8)),
        gt_ignore=nn.functional.pad(batch.gt_ignore, (0, 8)),
    )
    found, _ = losses_and_gradients(model, longer)
    innermost, _ = losses_and_gradients(model.to(memory_format=torch.channels_last), batch)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=0, atol=1e-12)
        torch.testing.assert_close(innermost[name], loss, rtol=0, atol=1e-10)


def test_losses_repeat_for_equal_positions_and_change_with_them() -> None:
    model, batch = detector("fpn"), scene(5)
    moved = dataclasses.replace(batch, positions=batch.positions + 4)
    first, again, other = (model(each)["loss_objectness"].item() for each in (batch, batch, moved))
    assert first == again != other


@pytest.mark.parametrize("head", ["fpn", "c4"])
def test_nothing_is_read_back_outside_suppression(head: str) -> None:
    """On a GPU a value or a shape that depends on data stalls the step; the training losses need none."""
    readers = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item")

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
            assert not any(reader in func.__name__ for reader in readers), func
            indices = args[1] if func.__name__.startswith(("index.", "index_put")) else ()
            assert not any(index is not None and index.dtype == torch.bool for index in indices), func
            return func(*args, **(kwargs or {}))

    model, batch = detector(head), scene(6)
    features = list(model.backbone(model.normalize(batch)).values())
    proposals, _ = model.rpn(features, batch)
    logits, deltas = torch.zeros(4, 10, requires_grad=True), torch.zeros(4, 10, 4)
    anchors = proposals.boxes[0, :10]
    with Watch():
        model.normalize(batch)
        losses = model.rpn.losses(logits, deltas, anchors, batch) | model.roi_heads(features, proposals, batch)[1]
        sum(losses.values()).backward()
    assert set(losses) == LOSSES


def test_a_pyramid_takes_one_anchor_size_a_level() -> None:
    settings = ModelSettings(rpn=ProposalSettings(anchor_sizes=(8.0, 16.0)))
    assert anchor_sizes(settings, (16,)) == ((8.0, 16.0),)
    assert anchor_sizes(settings, (4, 8)) == ((8.0,), (16.0,))
    with pytest.raises(ValueError, match="3 levels takes 3 sizes"):
        anchor_sizes(settings, (4, 8, 16))
