"""Localizers at test time: against a slow direct version, against geometry worked out by hand, and alone as together.

Shapes: ``B`` images, ``n`` asked classes, ``A`` answers, ``S`` side of a crop.
"""

import itertools
import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detection import checkpoint, distributed
from detection.config import Config, from_dict, overlay, to_dict
from detection.data import read_annotations
from detection.data.dataset import resized_size, without_objects
from detection.errors import UserError
from detection.localization import answers as answers_module
from detection.localization import locate as locate_module
from detection.localization.answers import AS_STORED, Answers, agree, best
from detection.localization.build import build_localizer
from detection.localization.crops import warp
from detection.localization.localizer import Localizer
from detection.localization.locate import Locator, LocMember, load_first_stage, load_locator
from detection.localization.over_set import gather
from detection.model.pixels import Normalizer

CLASSES = ("circle", "cross", "square")
CPU = torch.device("cpu")
BASE = {
    "backbone": "resnet18",
    "weights": "none",
    "device": "cpu",
    "model": {"norm": "group", "freeze_at": 0},
    "data": {"workers": 0},
    "train": {"precision": "fp32"},
    "loc": {"layer": "conv4", "crop": 64, "anchor_sizes": [20, 40], "test_scales": [48, 80], "test_crop_from": 80},
}


def settings(**loc: object) -> Config:
    return from_dict(overlay(BASE, {"loc": loc}))


class Trunk(nn.Sequential):
    """A stand-in for a backbone, at VGG's stride."""

    strides, out_channels = (16,), 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 4, stride=4), nn.ReLU())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": super().forward(images)}


def localizer(seed: int = 0, **loc: object) -> Localizer:
    """An untrained localizer with decided opinions."""
    torch.manual_seed(seed)
    made = Localizer(Trunk(), None, len(CLASSES), settings(**loc))
    for rows in (made.layers.scores, made.layers.offsets):
        if rows is not None:
            nn.init.normal_(rows.weight, std=0.5)
            nn.init.normal_(rows.bias, std=0.5)
    return made


def locator(*seeds: int, first_stage: Locator | None = None, **loc: object) -> Locator:
    members = [LocMember(localizer(seed, **loc), settings(**loc), first_stage) for seed in seeds or (0,)]
    return Locator(members, CLASSES, CPU)


def picture(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    fields = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(fields, (columns, rows), interpolation=cv2.INTER_CUBIC)


def normalized(image: np.ndarray) -> Tensor:
    colour = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(colour.transpose(2, 0, 1)[None]).float()


def same(first, second, abs=1e-4):
    assert first.boxes == pytest.approx(second.boxes, abs=abs)
    assert first.scores == pytest.approx(second.scores, abs=1e-6)


# The whole image, place by place


def decoded(deltas: np.ndarray, anchor: tuple[float, ...]) -> list[float]:
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = (anchor[0] + anchor[2]) / 2 + deltas[0] * width, (anchor[1] + anchor[3]) / 2 + deltas[1] * height
    wide, high = (side * math.exp(min(d, math.log(62.5))) for side, d in ((width, deltas[2]), (height, deltas[3])))
    return [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]


def shapes(made: Localizer) -> list[tuple[float, ...]]:
    """Anchors around (0, 0), rounded as torchvision rounds them; the ratio comes first, then the size."""
    loc = made.config.loc
    cells = []
    for ratio, size in itertools.product(loc.anchor_ratios, loc.anchor_sizes):
        wide, high = size / math.sqrt(ratio), size * math.sqrt(ratio)
        cells.append(tuple(float(np.round(side / 2)) for side in (-wide, -high, wide, high)))
    return cells


def every_answer(made: Localizer, image: np.ndarray, label: int) -> list[tuple[float, list[float], bool]]:
    """Score, box in original pixels and whether it counts, of each place, anchor and size.

    An anchor centred in the padding does not count, and no box that lies beyond the image.
    """
    found, original = [], image.shape[:2]
    scores, offsets = ({k: v.detach().numpy() for k, v in rows.named_parameters()} for rows in made.layers.children())
    for scale in made.config.loc.test_scales:
        rows, columns = resized_size(original, scale, 4 * scale)
        pixels = cv2.resize(image, (columns, rows)) if (rows, columns) != original else image
        padded = np.zeros((1, 3, -(-rows // 32) * 32, -(-columns // 32) * 32), np.float32)
        padded[:, :, :rows, :columns] = normalized(pixels)
        maps = made.backbone(torch.from_numpy(padded))["0"][0].detach().numpy()
        for row, column in np.ndindex(maps.shape[1:]):
            for number, cell in enumerate(shapes(made)):
                feature = maps[:, row, column]
                logit = scores["weight"][label - 1, number] @ feature + scores["bias"][label - 1, number]
                part = slice(4 * number, 4 * number + 4)
                deltas = offsets["weight"][label - 1, part] @ feature + offsets["bias"][label - 1, part]
                anchor = [c + s for c, s in zip((16 * column, 16 * row) * 2, cell, strict=True)]
                sides = (columns, rows) * 2
                box = [min(max(b, 0), s) for b, s in zip(decoded(deltas, anchor), sides, strict=True)]
                box = [b * o / s for b, o, s in zip(box, original[::-1] * 2, sides, strict=True)]
                is_inside = 16 * row < rows and 16 * column < columns
                found.append((1 / (1 + math.exp(-logit)), box, is_inside and box[0] < box[2] and box[1] < box[3]))
    return found


@pytest.mark.parametrize("shape", [(96, 150), (130, 70), (64, 64)])
def test_the_best_of_all_places_anchors_and_sizes_wins(shape):
    image, run = picture(*shape), locator()
    found = run(image, [3, 1, 2])
    assert (found.boxes.shape, found.scores.shape) == ((1, 3, 4), (1, 3))
    assert (found.boxes.dtype, found.scores.dtype) == (np.float64, np.float64)
    for place, label in enumerate([3, 1, 2]):
        score, box, _ = max(each for each in every_answer(run.members[0].localizer, image, label) if each[2])
        assert found.scores[0, place] == pytest.approx(score, abs=1e-5)
        assert found.boxes[0, place] == pytest.approx(box, abs=1e-3)


def test_proposals_are_the_best_boxes_in_order():
    image, run = picture(96, 150), locator()
    expected = sorted((each for each in every_answer(run.members[0].localizer, image, 2) if each[2]), reverse=True)
    boxes, scores = run.propose(image, 2, 30)
    assert scores == pytest.approx([score for score, *_ in expected[:30]], abs=1e-5)
    assert boxes == pytest.approx(np.array([box for _, box, _ in expected[:30]]), abs=1e-3)
    boxes, scores = run.propose(image, 2, 10**6)
    assert len(boxes) == len(scores) == len(expected)


class Says:
    """A localizer that says what it is told, and keeps what it saw."""

    stride = 16
    normalize = Normalizer((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))

    def __init__(self, logits, boxes):
        self.logits, self.boxes, self.seen = logits, torch.tensor(boxes), []

    def eval(self):
        return self

    def features(self, images):
        self.seen.append(images)
        return images.new_zeros(len(images), 1, *(length // self.stride for length in images.shape[-2:]))

    def outputs(self, features, labels, size):
        count = len(features), labels.shape[1]
        logits = self.logits(self.seen[-1]) if callable(self.logits) else torch.tensor(self.logits)
        return logits.expand(*count, -1), self.boxes.expand(*count, -1, 4)


def test_places_in_the_padding_do_not_count():
    """40 x 70 pixels are padded to 64 x 96: rows 0, 16, 32 of the grid are on the image, and columns 0 to 64."""
    logits = torch.zeros(4, 6)
    logits[3, 0], logits[0, 5], logits[2, 4], logits[1, 1] = 9, 8, 7, 6
    boxes = [[float(i), 0.0, i + 8.0, 8.0] for i in range(24)]
    says = Says(logits.flatten().tolist(), boxes)
    run = Locator([LocMember(says, settings(test_scales=[40]))], CLASSES, CPU)
    found = run(picture(40, 70), [1])
    assert found.boxes[0, 0].tolist() == boxes[2 * 6 + 4]
    assert found.scores[0, 0] == pytest.approx(1 / (1 + math.exp(-7)), abs=1e-12)
    two, _ = run.propose(picture(40, 70), 1, 2)
    assert two.tolist() == [boxes[2 * 6 + 4], boxes[6 + 1]]
    (seen, _) = says.seen
    assert seen.shape == (1, 3, 64, 96)
    assert torch.equal(seen[0, :, :40, :70], torch.from_numpy(picture(40, 70)).permute(2, 0, 1).float())
    assert not seen[:, :, 40:].any() and not seen[:, :, :, 70:].any()


def test_a_very_long_image_shrinks():
    says = Says([0.0] * 16, [[0.0, 0.0, 8.0, 8.0]] * 16)
    Locator([LocMember(says, settings(test_scales=[32]))], CLASSES, CPU)(picture(20, 2000), [1])
    assert says.seen[0].shape == (1, 3, 32, 128)


# The centre


def centre(image: np.ndarray, size: tuple[int, int], corner: tuple[int, int], side: int = 64) -> np.ndarray:
    """The square at `corner` (x, y) of the image resized to `size` (rows, columns)."""
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized[corner[1] : corner[1] + side, corner[0] : corner[0] + side]


def saw(says, crop: np.ndarray) -> bool:
    return torch.equal(says.seen[0][0], torch.from_numpy(crop).permute(2, 0, 1).float())


def test_one_crop_by_hand():
    """200 x 300 pixels become 100 x 150, so the square of 64 begins at x 43, y 18."""
    says = Says([0.0], [[10.0, 20.0, 30.0, 40.0]])
    run = Locator([LocMember(says, settings(test="1crop", test_crop_from=100))], CLASSES, CPU)
    image = picture(200, 300)
    found = run(image, [2])
    assert found.boxes[0, 0].tolist() == [106.0, 76.0, 146.0, 116.0]
    assert saw(says, centre(image, (100, 150), (43, 18)))


@pytest.mark.parametrize(
    ("shape", "size", "corner", "box"),
    [
        ((32, 160), (64, 320), (128, 0), [64, 0, 96, 32]),  # enlarged by 2, so that the crop fits
        ((129, 64), (129, 64), (0, 32), [0, 32, 64, 96]),
        ((8, 8), (64, 64), (0, 0), [0, 0, 8, 8]),
    ],
)
def test_one_crop_of_small_and_odd_images(shape, size, corner, box):
    says = Says([0.0], [[0.0, 0.0, 64.0, 64.0]])
    run = Locator([LocMember(says, settings(test="1crop", test_crop_from=32))], CLASSES, CPU)
    image = picture(*shape)
    assert run(image, [2]).boxes[0, 0].tolist() == box
    assert saw(says, centre(image, size, corner))


def test_pcr_gives_the_box_of_its_crop():
    """100 x 150 pixels become 80 x 120, so the square of 64 begins at x 28, y 8."""
    run, image = locator(method="pcr", test="1crop"), picture(100, 150)
    made = run.members[0].localizer
    features = made.features(normalized(centre(image, (80, 120), (28, 8))))
    _, boxes = made.outputs(features, torch.tensor([[3]]), (64, 64))
    expected = (boxes[0, 0, 0].detach().numpy() + [28, 8, 28, 8]) * 1.25
    assert run(image, [3]).boxes[0, 0] == pytest.approx(expected, abs=1e-3)


# The second look


def ramp(rows, columns):
    """Red grows with x and green with y, by one a pixel."""
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)


def second_look(proposals, says, count=200, logits=None):
    first = Says(logits or [0.0] * len(proposals), proposals)
    before = Locator([LocMember(first, settings(test="1crop", test_crop_from=64))], CLASSES, CPU)
    config = settings(method="rcnn", proposals=count, crop=32)
    return Locator([LocMember(says, config, before)], CLASSES, CPU)


def test_proposals_are_warped_as_in_training():
    """The first stage looks at 64 x 64 pixels of an image that is 128 high and wide: proposals grow by 2."""
    proposals = [[10.0, 5.0, 42.0, 37.0], [20.0, 20.0, 30.0, 44.0]]
    says = Says(lambda crops: crops[:, 0].mean(dim=(1, 2)).view(-1, 1, 1) / 100, [[8.0, 8.0, 24.0, 40.0]])
    image = ramp(128, 128)
    boxes, scores = second_look(proposals, says).propose(image, 1, 5)
    for crop, box in zip(says.seen[0], proposals, strict=True):
        expected = warp(image, 2 * np.array(box), 32).transpose(2, 0, 1)
        assert crop.numpy() == pytest.approx(expected.astype(float), abs=1.04)  # OpenCV rounds twice
    # A quarter from the left and top, three quarters from the left, a quarter more than its height.
    expected = [[36.0, 26.0, 68.0, 90.0], [45.0, 52.0, 55.0, 100.0]]
    assert boxes == pytest.approx(np.array(expected), abs=1e-3)
    means = [(10 + 42) - 0.5, (20 + 30) - 0.5]  # of x: the middles of the proposals, in pixels' centres
    assert scores == pytest.approx([1 / (1 + math.exp(-mean / 100)) for mean in means], abs=1e-4)


def test_the_new_score_decides_and_only_the_first_proposals_are_looked_at(monkeypatch):
    monkeypatch.setattr(answers_module, "REGIONS", 2)
    proposals = [[float(x), 4.0, x + 8.0, 12.0] for x in (0, 10, 20, 30, 40)]
    says = Says(lambda crops: crops[:, 0].mean(dim=(1, 2)).view(-1, 1, 1), [[0.0, 0.0, 32.0, 32.0]])
    run = second_look(proposals, says, count=3, logits=[5.0, 4.0, 3.0, 2.0, 1.0])
    found = run(ramp(64, 64), [2, 0, 1])
    assert found.boxes[0].tolist() == [[20.0, 4.0, 28.0, 12.0], [0.0] * 4, [20.0, 4.0, 28.0, 12.0]]
    assert [len(crops) for crops in says.seen] == [2, 2, 2]  # 3 proposals of each of the two classes


def test_a_trained_second_stage_is_what_its_parts_say():
    image, before = picture(90, 140), locator(1)
    run = locator(2, method="rcnn", crop=32, proposals=6, first_stage=before)
    made = run.members[0].localizer
    boxes, _ = before.propose(image, 2, 6)
    expected = []
    for box in boxes:
        features = made.features(normalized(warp(image, box, 32)))
        logits, found = made.outputs(features, torch.tensor([[2]]), (32, 32))
        at = found[0, 0, 0].detach().numpy() / 32 * np.tile(box[2:] - box[:2], 2) + np.tile(box[:2], 2)
        expected.append((logits.sigmoid().item(), at.clip(0, [140, 90, 140, 90])))
    found, scores = run.propose(image, 2, 6)
    assert len(scores) == 6
    expected.sort(key=lambda each: -each[0])
    # Colours are not rounded here: nearly the same.
    assert scores == pytest.approx([score for score, _ in expected], abs=0.01)
    assert found[0] == pytest.approx(expected[0][1], abs=0.5)


# Several


def said(*pairs):
    boxes, scores = zip(*pairs, strict=True)
    return Answers(torch.tensor([[boxes]], dtype=torch.float32), torch.tensor([[scores]], dtype=torch.float64))


def test_an_ensemble_takes_the_box_that_all_agree_on():
    left, right = (0, 0, 10, 10), (20, 20, 30, 30)
    near = (0, 0, 10, 5)  # half of left: IoU 0.5
    first, second = said((left, 0.9), (right, 0.8)), said((near, 0.1), (right, 0.7))
    found = best(agree([first, second]), 4)
    assert found.scores.flatten().tolist() == pytest.approx([0.75, 0.75, 0.5, 0.5])
    assert found.boxes[0, 0].tolist() == [list(map(float, box)) for box in (right, right, left, near)]
    alone = said((left, 0.9)), said((right, 0.6))
    assert best(agree(alone), 2).scores.flatten().tolist() == [0.45, 0.3]  # nobody else saw it: 0


def slow_agreement(answers):
    """The best box and its score for one class of one image, pair by pair."""

    def iou(a, b):
        width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return width * height / (sum(areas) - width * height)

    members = [list(zip(each.boxes[0, 0].tolist(), each.scores[0, 0].tolist(), strict=True)) for each in answers]
    named = [pair for each in members for pair in sorted(each, key=lambda pair: -pair[1])[:20]]

    def mean(box):
        supports = [max((score for other, score in each if iou(box, other) >= 0.5), default=0) for each in members]
        return sum(supports) / len(supports)

    return max(((mean(box), score, box) for box, score in named), key=lambda each: each[:2])


def test_agreement_against_a_slow_version():
    rng = np.random.default_rng(3)
    for _ in range(20):
        answers = []
        for count in (30, 15, 40):
            corner = rng.uniform(0, 60, (count, 2))
            boxes = np.concatenate([corner, corner + rng.uniform(15, 40, (count, 2))], axis=1).astype(np.float32)
            answers.append(said(*zip(boxes.tolist(), rng.random(count).tolist(), strict=True)))
        found, (score, _, box) = best(agree(answers), 1), slow_agreement(answers)
        assert found.scores.item() == pytest.approx(score)
        assert found.boxes[0, 0, 0].tolist() == pytest.approx(box, abs=1e-4)


@pytest.mark.parametrize("copies", [2, 3])
def test_a_member_given_twice_says_what_it_says_alone(copies):
    image = picture(96, 150)
    for loc in ({}, {"test": "1crop"}, {"method": "pcr", "test": "1crop"}):
        same(locator(*[4] * copies, **loc)(image, [1, 2, 3]), locator(4, **loc)(image, [1, 2, 3]))


# Data sets


@pytest.fixture
def data(tiny_config):
    return read_annotations(from_dict(tiny_config).data, "train")


LABELS = np.array([[1, 2], [3, 0], [0, 0], [2, 2], [1, 3], [0, 1], [3, 2], [2, 1]])


def test_a_set_gives_what_its_images_give(data):
    shares, run = [], locator()
    found = run.locate(data, LABELS, shares.append)
    assert shares == pytest.approx(np.arange(1, 9) / 8)
    for index, path in enumerate(data.image_paths):
        alone = run(str(path), LABELS[index].tolist())
        assert found.boxes[index] == pytest.approx(alone.boxes[0], abs=1e-3)
        assert found.scores[index] == pytest.approx(alone.scores[0], abs=1e-6)
    none = LABELS == 0
    assert not found.boxes[none].any() and not found.scores[none].any()
    assert (found.scores[~none] > 0).all() and (found.boxes[~none] <= data.sizes.max()).all()
    assert (found.boxes[~none][:, 2:] > found.boxes[~none][:, :2]).all()


def test_batches_make_no_difference(data):
    run = locator()
    expected = run.locate(data, LABELS, lambda share: None)
    config = from_dict(overlay(to_dict(run.config), {"test": {"batch_size": 3}}))
    three = Locator([LocMember(run.members[0].localizer, config)], CLASSES, CPU)
    shares = []
    same(three.locate(data, LABELS, shares.append), expected)
    assert len(shares) < 8


def test_proposals_of_a_set_are_those_of_each_image(data):
    torch.manual_seed(7)
    made = Localizer(Trunk(), None, 4, settings())
    run = Locator([LocMember(made, settings(test="1crop"))], data.class_names, CPU)
    given = [data.labels[data.objects(index)] for index in range(len(data))]
    one = given.index(next(labels for labels in given if len(set(labels.tolist())) == 1))
    found = run.propose_all(data, 10_000, lambda share: None)
    assert found.shape == (8, 10_000, 4) and found.dtype == np.float32
    boxes, _ = run.propose(str(data.image_paths[one]), int(given[one][0]), 10_000)
    assert found[one, : len(boxes)] == pytest.approx(boxes, abs=1e-3)
    assert len(boxes) == 4 * 4 * 6 and not found[one, len(boxes) :].any()


@pytest.mark.parametrize("processes", [3, 11])
def test_several_processes_give_what_one_gives(data, monkeypatch, processes):
    run = locator()
    expected = run.locate(data, LABELS, lambda share: None)
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    gathered = []

    def keep(part):
        gathered.append(part)
        return gathered

    monkeypatch.setattr(distributed, "gather_objects", keep)
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        if rank < processes - 1:
            with pytest.raises(RuntimeError, match="exactly once"):
                run.locate(data, LABELS, lambda share: None)
    same(run.locate(data, LABELS, lambda share: None), expected, abs=0)
    assert sorted(index for _, seen in gathered for index in seen) == list(range(8))


@pytest.mark.parametrize("seen", [[0, 1], [0, 1, 1], [0, 1, 2, 2], []])
def test_an_image_that_is_missing_or_computed_twice_is_a_fault(seen):
    with pytest.raises(RuntimeError, match="exactly once"):
        gather([(np.zeros(len(seen)),)] if seen else [], seen, 3)


# Checkpoints


def write(path, made: Localizer, names=CLASSES, kind="localizer"):
    """A localizer as a run leaves it."""
    state = {"kind": kind, "config": to_dict(made.config), "class_names": list(names), "model": made.state_dict()}
    checkpoint.save(path, {**state, "category_ids": [7, 8, 9]})
    return path


def test_a_localizer_is_loaded_with_its_names_and_ids(tmp_path):
    made, _ = build_localizer(settings(), 3)
    path = write(tmp_path / "last.pt", made)
    run, image = load_locator(tmp_path, "cpu", {"loc": {"test_scales": [64]}}), picture(60, 90)
    assert (run.class_names, run.category_ids) == (CLASSES, (7, 8, 9))
    assert run.config.loc.test_scales == (64,)
    assert all(
        torch.equal(value, made.state_dict()[name]) for name, value in run.members[0].localizer.state_dict().items()
    )
    same(load_locator([tmp_path, path], "cpu", {"loc": {"test_scales": [64]}})(image, [1, 3]), run(image, [1, 3]))


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Writes untrained localizers with the stand-in of a backbone, which is then loaded too."""

    def build(config, num_classes, *, load_weights):
        return Localizer(Trunk(), None, num_classes, config), ""

    monkeypatch.setattr(locate_module, "build_localizer", build)

    def save(name, names=CLASSES, kind="localizer", **loc):
        return write(tmp_path / name, localizer(**loc), names, kind)

    return save


@pytest.fixture
def rpn(saved):
    return saved("rpn.pt")


def test_a_second_stage_brings_its_first(rpn, saved):
    path = saved("rcnn.pt", method="rcnn", crop=32, proposals=4, first_stage=str(rpn))
    run = load_locator(path, "cpu", {"loc": {"test_scales": [48, 64]}})
    (member,) = run.members
    assert member.first_stage.config.loc.method == "rpn"
    assert member.first_stage.config.loc.test_scales == (48, 64)
    assert member.first_stage.config.loc.crop == 64
    assert [size.shorter for size in member.sizes] == [48, 64, 0] and member.sizes[-1] == AS_STORED
    boxes, scores = run.propose(picture(60, 90), 2, 9)
    assert boxes.shape == (4, 4) and (np.diff(scores) <= 0).all()


def refused(words, action, *arguments):
    with pytest.raises(UserError) as caught:
        action(*arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_first_stage_that_cannot_be_one_is_refused(rpn, saved):
    refused("loc.first_stage (empty): no such checkpoint", load_first_stage, settings(method="rcnn"), CLASSES, CPU)
    other = settings(method="rcnn", first_stage="nowhere.pt")
    refused("loc.first_stage nowhere.pt: no such checkpoint", load_first_stage, other, CLASSES, CPU)
    ours = settings(method="rcnn", first_stage=str(rpn))
    refused("its classes are not those of the rcnn", load_first_stage, ours, ("circle",), CPU)
    pcr = settings(method="rcnn", test="1crop", first_stage=str(saved("pcr.pt", method="pcr", test="1crop")))
    refused("a trained pcr, but proposals are made by an rpn", load_first_stage, pcr, CLASSES, CPU)


def test_pcr_on_whole_images_is_refused(saved):
    path = saved("pcr2.pt", method="pcr", test="1crop")
    refused("pcr has no score to choose among places by", load_locator, path, "cpu", {"loc": {"test": "dense"}})


def test_what_does_not_fit_is_refused(rpn, saved):
    refused("no checkpoint was given", load_locator, [])
    refused("give a dictionary", load_locator, rpn, "cpu", "dense")
    refused("unknown setting settings: loc.tests", load_locator, rpn, "cpu", {"loc": {"tests": "dense"}})
    refused("the checkpoint holds a detector", load_locator, saved("det.pt", kind="detector"), "cpu")
    for name, value in (("anchor_sizes", [8]), ("method", "pcr"), ("layer", "conv5")):
        words = f"it was trained with loc.{name} "
        refused(words, load_locator, rpn, "cpu", {"loc": {name: value}})
    other = saved("other.pt", names=("circle", "square", "cross"))
    refused("an ensemble needs the same classes", load_locator, [rpn, other], "cpu")


def test_labels_of_no_class_are_refused():
    for label in (4, -1):
        refused(f"label {label}: the localizer knows labels 1 to 3", locator(), picture(60, 60), [1, label])
    for label in (0.5, "circle"):
        refused("labels: give a row of whole numbers for each of 1 images", locator(), picture(60, 60), [label])


def test_labels_of_other_images_and_an_empty_set_are_refused(data):
    none = without_objects(CLASSES, [], [], np.zeros((0, 2)))
    refused("no usable image", locator().locate, none, LABELS[:0], lambda share: None)
    refused("for each of 8 images", locator().locate, data, LABELS[:7], lambda share: None)
