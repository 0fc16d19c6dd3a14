"""Small detectors with decided opinions, and what they say of regions worked out slowly, one region at a time.

Shapes: ``B`` images, ``R`` regions of an image, ``K`` classes.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from detection.config import from_dict, overlay
from detection.data.dataset import ImageSize, Sample, resize
from detection.data.loader import Images, collate_sizes
from detection.inference.ensemble import Member
from detection.model.build import build_detector
from detection.model.faster_rcnn import FasterRCNN

Settings = dict[str, object]
CLASSES = 3
HEADS = {
    "fpn": {"head": "fpn", "rpn": {"anchor_sizes": [8, 16, 32, 48, 64], "post_nms_test": 8}},
    "c4": {"head": "c4", "rpn": {"anchor_sizes": [16, 32, 64], "post_nms_test": 8}, "roi": {"pool_size": 4}},
    "fc": {"head": "fc", "rpn": {"anchor_sizes": [16, 32, 64], "post_nms_test": 8}},
}


class Trunk(nn.Sequential):
    """A stand-in for the convolutions of a VGG, or those of a residual network to conv4, at their stride."""

    strides, out_channels, pooled_levels = (16,), 8, 1

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 4, stride=4), nn.ReLU())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": super().forward(images)}


class Conv5(nn.Sequential):
    """A stand-in for a residual network's last stage on regions, in float64 far the slowest part."""

    out_channels, steps = 16, (1,)

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        return (features,)

    def finish(self, pooled: Tensor) -> Tensor:
        return self(pooled)


class FullyConnected(nn.Sequential):
    """A stand-in for fc6 and fc7, which have 100 million numbers."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__(nn.Flatten(1), nn.Linear(8 * 49, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())


@pytest.fixture
def member(tiny_config: Settings) -> Callable[..., Member]:
    """Makes an untrained detector for a head (c4, fpn, fc), in float64, with the settings it is run with."""

    def make(
        head: str,
        seed: int = 0,
        context: bool = False,
        data: Settings | None = None,
        **test: object,
    ) -> Member:
        torch.manual_seed(seed)
        chosen = {"model": {**HEADS[head], "global_context": context}, "data": data or {}, "test": test}
        config = from_dict(overlay(tiny_config, chosen))
        if head == "fpn":
            detector, _ = build_detector(config, CLASSES, load_weights=False)
        else:
            size = (config.data.test_min_size, config.data.test_max_size)
            tail = FullyConnected() if head == "fc" else Conv5()
            detector = FasterRCNN(Trunk(), tail, CLASSES, config.model, config.test, size)
        predictor = detector.roi_heads.box_predictor
        for layer in (detector.rpn.head.cls_logits, detector.rpn.head.bbox_pred, *predictor.children()):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
        return Member(detector.double().eval(), config)

    return make


@pytest.fixture
def images_at() -> Callable[..., Images]:
    """Images of 8 x 8 coloured fields, of given rows and columns, as one batch at each of the wanted sizes."""

    def make(shapes: Sequence[tuple[int, int]], sizes: Sequence[ImageSize], seed: int = 0) -> Images:
        rng = np.random.default_rng(seed)
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
        samples = []
        for number, shape in enumerate(shapes):
            # The colours of each size are drawn anew, so that a mistaken size shows.
            fields = [rng.integers(0, 256, (8, 8, 3), np.uint8) for _ in sizes]
            pictures = [resize(few, size.resized(shape)) for few, size in zip(fields, sizes, strict=True)]
            samples.append([Sample(picture, shape, *nothing, number, number) for picture in pictures])
        batches = collate_sizes(samples, sizes)
        for batch in batches.values():
            batch.sizes, batch.original_sizes = batch.sizes.double(), batch.original_sizes.double()
        return batches

    return make


@pytest.fixture
def slow() -> type["Slow"]:
    """The slow reference."""
    return Slow


class Slow:
    """What a detector says of the regions of one image, worked out one region at a time.

    Args:
        images: the image at each scale, small to large: padded uint8 (3, H, W), and the rows and columns it fills.
        reference: rows and columns of the image whose pixels regions are in.
        canonical: side of the square that the two scales of a region should be nearest to.
    """

    def __init__(
        self,
        member: Member,
        images: Sequence[tuple[Tensor, tuple[int, int]]],
        reference: tuple[float, float],
        canonical: float = 224.0,
    ) -> None:
        self.member, self.reference, self.canonical = member, reference, canonical
        self.sizes = [size for _, size in images]
        with torch.no_grad():
            self.maps = [trunk_maps(member, image, *size) for image, size in images]
            turned = [(mirror(image, *size), size) for image, size in images if member.config.test.flip]
            self.mirrored_maps = [trunk_maps(member, image, *size) for image, size in turned]

    @torch.no_grad()
    def __call__(self, region: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Boxes (K, 4) and scores (K,) of the region x1, y1, x2, y2."""
        boxes, scores = self.one_orientation(self.maps, region)
        if not self.member.config.test.flip:
            return boxes, scores
        (x1, y1, x2, y2), width = region, self.reference[1]
        turned, its_scores = self.one_orientation(self.mirrored_maps, (width - x2, y1, width - x1, y2))
        back = torch.tensor([[width - c, b, width - a, d] for a, b, c, d in turned.tolist()], dtype=torch.float64)
        return (boxes + back) / 2, (scores + its_scores) / 2

    def one_orientation(self, maps: list[list[Tensor]], region: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Pooled at each of two scales; the larger of the two numbers is taken at every place."""
        vectors = [self.vector(maps[scale], self.sizes[scale], region) for scale in self.two_scales(region)]
        merged = [max(numbers) for numbers in zip(*(vector.tolist() for vector in vectors), strict=True)]
        logits, deltas = self.member.detector.roi_heads.box_predictor(torch.tensor([merged], dtype=torch.float64))
        scores, weights = logits[0].exp() / logits[0].exp().sum(), self.member.config.model.roi.box_weights
        boxes = [slow_decode(offsets, region, weights) for offsets in deltas[0].view(-1, 4).tolist()]
        return torch.tensor(boxes[1:], dtype=torch.float64), scores[1:]

    def vector(self, maps: list[Tensor], size: tuple[int, int], region: Sequence[float]) -> Tensor:
        """(C,), or (2C,) with the whole image's vector behind the region's."""
        across, down = size[1] / self.reference[1], size[0] / self.reference[0]
        box = [region[0] * across, region[1] * down, region[2] * across, region[3] * down]
        vector = pooled_vector(self.member, maps, box)
        if not self.member.config.model.global_context:
            return vector
        return torch.cat((vector, pooled_vector(self.member, maps, [0.0, 0.0, float(size[1]), float(size[0])])))

    def two_scales(self, region: Sequence[float]) -> tuple[int, ...]:
        """The adjacent pair at which the region's areas are, by their logarithms, nearest to the canonical one."""
        if len(self.sizes) == 1:
            return (0,)
        (x1, y1, x2, y2), away = region, []
        for rows, columns in self.sizes:
            area = max((x2 - x1) * (y2 - y1), 1e-4) * columns / self.reference[1] * rows / self.reference[0]
            away.append(abs(math.log(area / self.canonical**2)))
        sums = [first + second for first, second in zip(away[:-1], away[1:], strict=True)]
        return sums.index(min(sums)), sums.index(min(sums)) + 1


def mirror(image: Tensor, rows: int, columns: int) -> Tensor:
    """The padded image with the part that the picture fills turned left to right."""
    turned = image.clone()
    turned[:, :rows, :columns] = image[:, :rows, :columns].flip(2)
    return turned


def trunk_maps(member: Member, image: Tensor, rows: int, columns: int) -> list[Tensor]:
    """The trunk's maps (1, C, h, w) of one padded image; the padding is 0 after normalization."""
    mean, std = member.config.model.image_mean, member.config.model.image_std
    pixels = torch.zeros(image.shape, dtype=torch.float64)
    for channel in range(3):
        filled = image[channel, :rows, :columns].double()
        pixels[channel, :rows, :columns] = (filled / 255 - mean[channel]) / std[channel]
    return list(member.detector.backbone(pixels[None]).values())


def pooled_vector(member: Member, maps: list[Tensor], box: Sequence[float]) -> Tensor:
    """The head's vector (C,) of one box, in pixels of the image that the maps are of."""
    model, heads = member.config.model, member.detector.roi_heads
    level, stride = 0, 16
    if model.head == "fpn":
        side = math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 1e-4))
        level = min(3, max(0, math.floor(4 + math.log2(side / 224)) - 2))
        stride = 4 * 2**level
    size = model.roi.pool_size or 7
    regions = [torch.tensor([box], dtype=torch.float64)]
    return heads.box_head(roi_align(maps[level], regions, size, 1 / stride, sampling_ratio=2))[0]


def slow_decode(offsets: Sequence[float], region: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The box that four offsets make of a region (R-CNN, appendix C)."""
    dx, dy, dw, dh = (offset / weight for offset, weight in zip(offsets, weights, strict=True))
    x1, y1, x2, y2 = region
    width, height = x2 - x1, y2 - y1
    x, y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
    width, height = width * math.exp(dw), height * math.exp(dh)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
