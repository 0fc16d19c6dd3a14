"""Box refinement: a scorer by hand, then whole detectors against loops over regions, classes and boxes.

Shapes: ``B`` images, ``R`` regions of an image, ``K`` classes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from backbones.vgg import FullyConnected
from detection.batch import Batch
from detection.config import Config, DataSettings, InferenceSettings, ModelSettings, ProposalSettings, RegionSettings
from detection.config import from_dict as config_of
from detection.data import read_annotations
from detection.data.dataset import read_image, resize
from detection.inference.ensemble import Member, detect
from detection.inference.predictor import load_detector
from detection.inference.refine import refine, regressed_regions
from detection.model.faster_rcnn import FasterRCNN
from detection.model.selection import RegionOutputs

SIZES = torch.tensor([[50.0, 100.0], [100.0, 40.0]])
REGIONS = torch.tensor([[[0.0, 0.0, 20.0, 20.0], [70.0, 10.0, 90.0, 40.0]], [[4.0, 4.0, 24.0, 24.0]] * 2])


def moving_scorer(regions: Tensor) -> RegionOutputs:
    """The first class moves a region by 15 to the right, the second by 10 upwards; the better is named by the area."""
    right, up = (regions + torch.tensor(shift) for shift in ([15.0, 0, 15, 0], [0.0, -10, 0, -10]))
    is_small = (regions[..., 2] - regions[..., 0]) * (regions[..., 3] - regions[..., 1]) <= 400
    scores = torch.stack((torch.where(is_small, 0.2, 0.1), torch.where(is_small, 0.1, 0.3)), dim=-1)
    return RegionOutputs(torch.stack((right, up), dim=2), scores)


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_regions_move_from_round_to_round(rounds: int) -> None:
    """By hand: the small ones to the right until the edge at 40, the large one up until the edge at 0, then smaller."""
    expected = [
        REGIONS.tolist(),
        [[[15, 0, 35, 20], [70, 0, 90, 30]], [[19, 4, 39, 24]] * 2],
        [[[30, 0, 50, 20], [70, 0, 90, 20]], [[34, 4, 40, 24]] * 2],
    ]
    asked: list[Tensor] = []

    def score(regions: Tensor) -> RegionOutputs:
        asked.append(regions)
        return moving_scorer(regions)

    found = refine(score, REGIONS, SIZES, rounds)
    assert [regions.tolist() for regions in asked] == expected[: rounds + 1]
    # The union holds the rounds one after another, boxes as the scorer gave them: not cut.
    assert found.boxes.shape == (2, 2 * (rounds + 1), 2, 4) and found.scores.shape == (2, 2 * (rounds + 1), 2)
    for number in range(rounds + 1):
        outputs, part = moving_scorer(torch.tensor(expected[number])), slice(2 * number, 2 * number + 2)
        assert torch.equal(found.boxes[:, part], outputs.boxes) and torch.equal(found.scores[:, part], outputs.scores)


def test_the_next_region_is_the_box_of_the_best_class_whatever_the_background_says() -> None:
    """The background has 0.97 of the first region's probability; each image cuts at its own size."""
    boxes = torch.arange(24.0).view(2, 1, 3, 4) * 5
    scores = torch.tensor([[[0.005, 0.02, 0.005]], [[0.1, 0.2, 0.6]]])
    found = regressed_regions(RegionOutputs(boxes, scores), SIZES)
    assert found.tolist() == [[[20, 25, 30, 35]], [[40, 100, 40, 100]]]
    below = regressed_regions(RegionOutputs(boxes - 25, scores), SIZES)
    assert below.tolist() == [[[0, 0, 5, 10]], [[40, 80, 40, 90]]]


# Whole detectors

CLASSES = 3
TEST = InferenceSettings(score_threshold=0.15, nms_iou=0.3, detections=12, refine=True)
Found = tuple[float, int, list[float]]
"""Score, label from 1, box."""


class Trunk(nn.Module):
    """A convolution that looks beyond its cell, so that padding matters; then one map for each stride."""

    out_channels = 8

    def __init__(self, strides: tuple[int, ...], pooled_levels: int) -> None:
        super().__init__()
        self.strides, self.pooled_levels = strides, pooled_levels
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.levels = nn.ModuleList(nn.Conv2d(4, self.out_channels, stride, stride=stride) for stride in strides)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(number): level(self.stem(images).relu()) for number, level in enumerate(self.levels)}


class Tail(nn.Sequential):
    """A stand-in for conv5."""

    out_channels, steps = 16, (1,)

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        return (features,)

    def finish(self, pooled: Tensor) -> Tensor:
        return self(pooled)


class SmallFullyConnected(FullyConnected):
    """VGG's own fc6 and fc7, 16 wide."""

    out_channels = 16


def member(head: str, rounds: int = 1, vote_iou: float = 0.5, agnostic: bool = False, context: bool = False) -> Member:
    """An untrained detector with decided opinions, in float64."""
    torch.manual_seed(1)
    pyramid = head == "fpn"
    model = ModelSettings(
        head=head,
        global_context=context,
        rpn=ProposalSettings(
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 96.0) if pyramid else (16.0, 32.0, 64.0), min_size=4.0,
            pre_nms_test=100, post_nms_test=30, nms_iou=0.5,
        ),
        roi=RegionSettings(hidden=16, class_init_std=0.5, box_init_std=0.3, class_agnostic=agnostic),
    )  # fmt: skip
    trunk = Trunk((4, 8, 16, 32, 64), 4) if pyramid else Trunk((16,), 1)
    tail = {"fpn": None, "c4": Tail(), "fc": SmallFullyConnected(8, 0.5)}[head]
    test = replace(TEST, refine_rounds=rounds, vote_iou=vote_iou)
    detector = FasterRCNN(trunk, tail, CLASSES, model, test).double().eval()
    for name, weights in detector.rpn.head.named_parameters():
        nn.init.normal_(weights, std=0.3 if "cls" in name else 0.05)
    if head == "fc":
        nn.init.normal_(tail.fc6.weight, std=0.1)
        nn.init.normal_(tail.fc7.weight, std=0.3)
    return Member(detector, Config(model=model, test=test, data=DataSettings(test_min_size=96, test_max_size=192)))


def pictures(seed: int) -> Batch:
    """Three images of several sizes in one padded area of 128 x 192."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([[96.0, 131.0], [128.0, 192.0], [100.0, 96.0]], dtype=torch.float64)
    nothing = torch.zeros(3, 1, dtype=torch.int64)
    return Batch(
        torch.randint(0, 256, (3, 3, 128, 192), generator=generator, dtype=torch.uint8), sizes,
        sizes * torch.tensor([[2.0, 2.0], [0.5, 1.5], [1.0, 1.0]]), nothing[:, 0], torch.zeros(3, 1, 4), nothing,
        nothing.bool(), torch.arange(3),
    )  # fmt: skip


def slow_vector(detector: FasterRCNN, features: list[Tensor], box: list[float]) -> Tensor:
    """The head's vector of one region, pooled by torchvision from the one map that suits it (FPN paper, eq. 1)."""
    strides, size = detector.backbone.strides[: detector.backbone.pooled_levels], detector.roi_heads.box_roi_pool.size
    area = (box[2] - box[0]) * (box[3] - box[1])
    level = min(max(math.floor(4 + math.log2(math.sqrt(area) / 224)), 2), 5) - 2 if area > 0 and len(strides) > 1 else 0
    region = [torch.tensor([box], dtype=torch.float64)]
    return detector.roi_heads.box_head(roi_align(features[level], region, size, 1 / strides[level], 2))


def slow_outputs(detector: FasterRCNN, vector: Tensor, region: list[float]) -> list[Found]:
    """What the detector says of one region: for each class its score and its box, which is not cut."""
    logits, deltas = detector.roi_heads.box_predictor(vector)
    exponentials, deltas = [math.exp(logit) for logit in logits[0]], deltas.view(-1, 4).tolist()
    x1, y1, x2, y2 = region
    found = []
    for label in range(1, len(exponentials)):
        dx, dy, dw, dh = deltas[label if len(deltas) > 1 else 0]
        cx, cy = (x1 + x2) / 2 + dx / 10 * (x2 - x1), (y1 + y2) / 2 + dy / 10 * (y2 - y1)
        w, h = (x2 - x1) * min(math.exp(dw / 5), 62.5), (y2 - y1) * min(math.exp(dh / 5), 62.5)
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        found.append((exponentials[label] / sum(exponentials), label, box))
    return found


def slow_selection(candidates: list[Found], test: InferenceSettings) -> list[Found]:
    """Threshold, NMS and vote of one image, box by box."""

    def shared(a: list[float], b: list[float]) -> float:
        return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))

    def overlap(a: list[float], b: list[float]) -> float:
        return shared(a, b) / (shared(a, a) + shared(b, b) - shared(a, b))

    usable = [(s, k, b) for s, k, b in candidates if s > test.score_threshold and min(b[2] - b[0], b[3] - b[1]) >= 0.01]
    kept: list[Found] = []
    for score, label, box in sorted(usable, key=lambda one: -one[0]):
        if all(overlap(box, other) <= test.nms_iou for _, also, other in kept if also == label):
            kept.append((score, label, box))
    voted = []
    for score, label, box in kept[: test.detections]:
        if test.vote_iou:
            voters = [(s, b) for s, also, b in usable if also == label and overlap(box, b) >= test.vote_iou]
            box = [sum(s * b[side] for s, b in voters) / sum(s for s, _ in voters) for side in range(4)]
        voted.append((score, label, box))
    return voted


@torch.no_grad()
def slow_detections(member: Member, batch: Batch) -> list[Found]:
    """The detections in one image, region by region, boxes in pixels of the original image."""
    detector, test = member.detector, member.config.test
    features = detector.features(batch)
    proposals, _ = detector.rpn(features, batch)
    (height, width), (rows, columns) = batch.sizes[0].tolist(), batch.original_sizes[0].tolist()
    candidates = []
    for region in proposals.boxes[0][proposals.is_valid[0]].tolist():
        for _ in range(1 + test.refine_rounds * test.refine):
            vector = slow_vector(detector, features, region)
            if member.config.model.global_context:
                vector = torch.cat((vector, slow_vector(detector, features, [0, 0, width, height])), dim=1)
            outputs = slow_outputs(detector, vector, region)
            cut = [
                (score, label, [min(max(side, 0), limit) for side, limit in zip(box, [width, height] * 2, strict=True)])
                for score, label, box in outputs
            ]
            candidates += cut
            region = max(cut)[2]
    scale = [columns / width, rows / height] * 2
    found = slow_selection(candidates, test)
    return [(score, label, [v * f for v, f in zip(box, scale, strict=True)]) for score, label, box in found]


def rows(batch: Batch, image: int) -> Batch:
    return Batch(**{name: value[image : image + 1] for name, value in vars(batch).items()})


def require_same(found: dict[str, Any], expected: list[Found], atol: float) -> None:
    assert list(found["labels"]) == [label for _, label, _ in expected]
    assert np.asarray(found["scores"]) == pytest.approx(np.array([score for score, *_ in expected]), abs=1e-9)
    assert np.asarray(found["boxes"]) == pytest.approx(np.array([box for *_, box in expected]).reshape(-1, 4), abs=atol)


@pytest.mark.parametrize(
    ("head", "how"),
    [
        ("fpn", {}),
        ("c4", {}),
        ("fc", {}),
        ("fpn", {"rounds": 2}),
        ("c4", {"vote_iou": 0.0}),
        ("fpn", {"agnostic": True}),
        ("c4", {"agnostic": True, "rounds": 2, "vote_iou": 0.8}),
        ("fpn", {"context": True}),
        ("c4", {"context": True, "rounds": 2}),
        ("fc", {"context": True}),
    ],
)
@torch.no_grad()
def test_refined_detections_equal_the_loop(head: str, how: dict[str, Any]) -> None:
    refined, batch = member(head, **how), pictures(2)
    results = detect([refined], {refined.proposal_size: batch})
    for image, result in enumerate(results):
        expected = slow_detections(refined, rows(batch, image))
        assert len(expected) > 3
        require_same(result, expected, atol=1e-6)
    plain = Member(refined.detector, replace(refined.config, test=replace(refined.config.test, refine=False)))
    require_same(
        detect([plain], {plain.proposal_size: rows(batch, 0)})[0], slow_detections(plain, rows(batch, 0)), 1e-6
    )
    assert slow_detections(plain, rows(batch, 2)) != expected


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """A list that grows by one with each call."""
    calls: list[int] = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_trunk_and_the_proposals_run_once(rounds: int) -> None:
    refined = member("c4", rounds)
    detector = refined.detector
    parts = detector.backbone, detector.rpn, detector.roi_heads.box_head, detector.roi_heads.box_predictor
    with (
        counted(parts[0]) as trunk,
        counted(parts[1]) as proposals,
        counted(parts[2]) as head,
        counted(parts[3]) as two,
    ):
        detect([refined], {refined.proposal_size: pictures(0)})
    assert [len(calls) for calls in (trunk, proposals, head, two)] == [1, 1, rounds + 1, rounds + 1]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_predictor_refines_and_votes_as_the_loop_does(
    tiny_run: Path, tiny_config: dict[str, Any], batch_size: int
) -> None:
    """On all shapes of the tiny set; each image is padded as it alone would be, whatever the size of the batch."""
    test = {"refine": True, "refine_rounds": 2, "vote_iou": 0.5, "batch_size": batch_size, "score_threshold": 0.1}
    predictor = load_detector(tiny_run / "best.pt", "cpu", {"test": test})
    (own,) = predictor.members
    own.detector.double()
    data = read_annotations(config_of(tiny_config).data, "val")
    found = predictor.predict(data, lambda share: None)
    shapes = set()
    for index, path in enumerate(data.image_paths):
        batch = one_image(read_image(str(path)), own)
        shapes.add(tuple(batch.images.shape[2:]))
        here = found.select(found.image_indices == index)
        expected = slow_detections(own, batch)
        assert len(expected) > 3
        require_same(vars(here), expected, atol=1e-4)
    assert shapes == {(64, 64), (64, 128), (128, 64)}


def one_image(pixels: np.ndarray, own: Member) -> Batch:
    """An image (H, W, 3) at the size for proposals, padded to multiples of 64."""
    resized = torch.from_numpy(resize(pixels, own.proposal_size.resized(pixels.shape[:2]))).permute(2, 0, 1)
    height, width = resized.shape[1:]
    images = nn.functional.pad(resized, (0, -width % 64, 0, -height % 64)).unsqueeze(0)
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    sizes, original = torch.tensor([[height, width]]), torch.tensor([pixels.shape[:2]])
    return Batch(
        images, sizes.float(), original.float(), nothing[0], torch.zeros(1, 1, 4), nothing, nothing.bool(), nothing[0]
    )
