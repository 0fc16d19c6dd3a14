"""Several detectors as one, against the same worked out one region at a time, and against a single detector.

Shapes: ``B`` images, ``D`` detections of an image, ``K`` classes.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from detection import checkpoint
from detection.errors import UserError
from detection.inference import predictor
from detection.inference.devices import autocast
from detection.inference.ensemble import Member, detect, introduce, sizes_of
from detection.inference.predictor import load_detector
from detection.inference.pyramid import mean_of
from detection.inference.refine import refine

SHAPES = ((60, 87), (75, 62))
"""Rows and columns of two images; they are seen enlarged or reduced."""
OTHER_SIZES = {"test_min_size": 48, "test_max_size": 80}

Detections = list[dict[str, Tensor]]


def assert_same(found: Detections, expected: Detections, score: float = 1e-10, box: float = 1e-8) -> None:
    """The same detections in the same order, numbers equal up to rounding (float64: 16 digits, a few of them lost)."""
    for one, other in zip(found, expected, strict=True):
        assert len(other["boxes"]) > 2 and torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=score)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=box)


@pytest.mark.parametrize(
    ("head", "count", "settings"),
    [
        ("c4", 2, {}),
        ("fpn", 2, {"scales": [48, 64]}),
        ("fc", 3, {}),
        ("fc", 2, {"scales": [48, 64], "flip": True}),
        ("fc", 3, {"refine": True, "vote_iou": 0.5}),
    ],
)
@torch.no_grad()
def test_a_detector_with_itself_is_the_detector(member, images_at, head: str, count: int, settings: dict) -> None:
    """Each proposal comes `count` times with equal scores and boxes: NMS leaves one, a mean of voters is as it was.

    A mean of equal numbers is that number up to its last bit, so the tolerance is that of rounding.
    """
    one = member(head, context=True, **settings)
    images = images_at(SHAPES, sizes_of([one]))
    assert_same(detect([one] * count, images), detect([one], images))


# Against the slow way


def slow_ensemble(slow: Callable, members: list[Member], images: dict, image: int) -> dict[str, Tensor]:
    """Detections of one image: a loop over proposals, detectors, classes."""
    first = members[0]
    test = first.config.test
    rows, columns = reference = images[first.proposal_size].sizes[image].tolist()
    union, scorers = [], []
    for each in members:
        batch = images[each.proposal_size]
        proposals, _ = each.detector.rpn(each.detector.features(batch), batch)
        height, width = batch.sizes[image].tolist()
        for x1, y1, x2, y2 in proposals.boxes[image][proposals.is_valid[image]].tolist():
            union.append((x1 * columns / width, y1 * rows / height, x2 * columns / width, y2 * rows / height))
        at = [images[size] for size in each.region_sizes]
        views = [(view.images[image], tuple(map(int, view.sizes[image].tolist()))) for view in at]
        scorers.append(slow(each, views, reference))
    found = []
    for region in union:
        said = [score(region) for score in scorers]
        boxes, scores = sum(boxes for boxes, _ in said) / len(said), sum(scores for _, scores in said) / len(said)
        for label, (score, (x1, y1, x2, y2)) in enumerate(zip(scores.tolist(), boxes.tolist(), strict=True), start=1):
            box = [min(max(x1, 0), columns), min(max(y1, 0), rows), min(max(x2, 0), columns), min(max(y2, 0), rows)]
            if score > test.score_threshold and min(box[2] - box[0], box[3] - box[1]) >= 0.01:
                found.append((score, label, box))
    kept = []
    for label in sorted({label for _, label, _ in found}):
        own = [item for item in found if item[1] == label]
        boxes, scores = (
            torch.tensor([item[2] for item in own]).double(),
            torch.tensor([item[0] for item in own]).double(),
        )
        kept += [own[row] for row in nms(boxes, scores, test.nms_iou).tolist()]
    best = sorted(kept, reverse=True)[: test.detections]
    full_rows, full_columns = images[first.proposal_size].original_sizes[image].tolist()
    back = torch.tensor([full_columns / columns, full_rows / rows] * 2, dtype=torch.float64)
    return {
        "boxes": torch.tensor([box for _, _, box in best], dtype=torch.float64) * back,
        "labels": torch.tensor([label for _, label, _ in best]),
        "scores": torch.tensor([score for score, _, _ in best], dtype=torch.float64),
    }


@torch.no_grad()
def test_detectors_that_differ_in_everything_against_the_slow_way(member, images_at, slow) -> None:
    """Trunk, head, context, sizes, scales, mirror image and selection are each one's own; the selection the first's.

    Pixels are normalized with constants in float32, which leaves 7 digits.
    """
    members = [
        member("c4", seed=2, context=True, data=OTHER_SIZES, nms_iou=0.6, detections=12),
        member("fc", seed=3, scales=[40, 56, 72], flip=True, score_threshold=0.2, detections=5),
        member("fpn", seed=1),
    ]
    images = images_at(SHAPES, sizes_of(members))
    expected = [slow_ensemble(slow, members, images, image) for image in range(len(SHAPES))]
    assert_same(detect(members, images), expected, score=1e-6, box=1e-4)


@torch.no_grad()
def test_the_order_of_the_others_makes_no_difference(member, images_at) -> None:
    first, second, third = (
        member("fpn", seed=1),
        member("c4", seed=2, data=OTHER_SIZES),
        member("fc", seed=3, flip=True),
    )
    images = images_at(SHAPES, sizes_of([first, second, third]))
    assert_same(detect([first, second, third], images), detect([first, third, second], images))


@torch.no_grad()
def test_the_first_ones_settings_select(member, images_at) -> None:
    """The detectors are the same, so that only threshold, NMS and number can differ."""
    one, few = member("fc"), member("fc", detections=3)
    images = images_at(SHAPES, sizes_of([one]))
    many, best = detect([one, few], images), detect([few, one], images)
    assert_same([{name: values[:3] for name, values in image.items()} for image in many], best)
    assert [len(image["scores"]) for image in best] == [3, 3]


@torch.no_grad()
def test_images_together_are_images_one_by_one(member, images_at) -> None:
    """Three images of one padded size; another number of proposals fills up each batch."""
    members = [member("fpn", seed=1, refine=True, vote_iou=0.5), member("fc", seed=2, data=OTHER_SIZES, flip=True)]
    images = images_at([(60, 87), (62, 84), (64, 88)], sizes_of(members))
    alone = []
    for row in range(3):
        part = {
            size: type(batch)(**{k: v[row : row + 1] for k, v in vars(batch).items()}) for size, batch in images.items()
        }
        alone += detect(members, part)
    assert_same(detect(members, images), alone)


def test_each_size_is_wanted_once(member) -> None:
    """64 of the first and 48 of the second; scales in pixels (limits in proportion); fpn pads to 64, fc to 32."""
    members = [member("fpn", scales=[48, 64]), member("fc", data=OTHER_SIZES), member("fpn", seed=1)]
    assert sizes_of(members) == [(64, 96, 64), (48, 72, 64), (48, 80, 32)]


# From files


@pytest.fixture(scope="module")
def other_classes(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """Writes the tiny run's detector as one of other classes."""
    state = checkpoint.load(tiny_run / "best.pt")
    path = tmp_path_factory.mktemp("others") / "other.pt"

    def write(names: list[str]) -> Path:
        checkpoint.save(path, {**state, "class_names": names})
        return path

    yield write
    path.unlink(missing_ok=True)


def test_an_ensemble_from_files_predicts_as_its_detector(tiny_run: Path, tiny_data: Path) -> None:
    """Twice the same file; in float32, of which a mean of two equal numbers loses nothing, boxes 1e-4 of a pixel."""
    picture = tiny_data / "JPEGImages" / "000008.jpg"
    one, two = load_detector(tiny_run / "best.pt", "cpu"), load_detector([tiny_run / "best.pt"] * 2, "cpu")
    found, expected = two(picture), one(picture)
    assert len(two.members) == 2 and len(expected) > 0
    assert found.labels.tolist() == expected.labels.tolist() and found.class_names == expected.class_names
    assert found.scores == pytest.approx(expected.scores, abs=1e-6)
    assert found.boxes == pytest.approx(expected.boxes, abs=1e-4)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["circle", "cross", "square", "star"], "it lacks triangle and {first} does not know star"),
        (["square", "circle", "cross", "triangle"], "they come in another order"),
    ],
)
def test_other_classes_are_refused_before_any_image_is_read(
    tiny_run: Path, other_classes, monkeypatch, names: list[str], why: str
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("an image is read")

    monkeypatch.setattr(predictor, "read_image", read)
    first, other = tiny_run / "best.pt", other_classes(names)
    with pytest.raises(UserError) as refused:
        load_detector([first, first, other], "cpu")
    assert str(refused.value) == (
        f"{other}: its classes are not those of {first} ({why.format(first=first)}); "
        "an ensemble needs detectors of the same classes"
    )


def test_bf16_hardly_changes_what_is_found(member, images_at) -> None:
    """Mixed types meet in context, maximum, means and votes; boxes and scores come out in float32."""
    test = {"scales": [48, 64], "flip": True, "refine": True, "vote_iou": 0.5, "score_threshold": 0.0, "nms_iou": 1.0}
    members = [member(head, context=True, **test) for head in ("c4", "fc")]
    for each in members:
        each.detector.float()
    images = images_at([(64, 96), (80, 64)], sizes_of(members))
    for batch in images.values():
        batch.sizes, batch.original_sizes = batch.sizes.float(), batch.original_sizes.float()
    regions = torch.tensor([[[4.0, 6, 40, 50], [20, 10, 60, 60], [0, 0, 30, 30]]] * 2)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
            sizes = images[members[0].proposal_size].sizes
            outputs = refine(mean_of([each.look(images, sizes).score for each in members]), regions, sizes, rounds=0)
            assert all(values.dtype == torch.float32 for values in outputs)
            found.append(outputs)
            assert all(values["boxes"].dtype == torch.float32 for values in detect(members, images))
    assert (found[0].scores - found[1].scores).abs().max() < 0.02
    assert (found[0].boxes - found[1].boxes).abs().max() < 1
    assert not torch.equal(found[0].scores, found[1].scores)


def test_what_goes_beyond_a_plain_detector_is_said(member) -> None:
    assert introduce([member("fpn")]) == []
    said = introduce([member("fpn", scales=[96, 128], refine=True, refine_rounds=2), member("c4", flip=True)])
    assert said == [
        "an ensemble of 2 detectors",
        "resnet18: proposals at 64 pixels, regions at 96, 128, none of them near 64: "
        "test.scales around it cost less and find more",
        "resnet18: the mirrored image too",
        "every region is refined 2 times",
    ]
    assert introduce([member("fpn", vote_iou=0.8)]) == ["boxes are voted on at IoU 0.8"]
