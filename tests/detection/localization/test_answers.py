"""A second look at proposals, and several localizers as one: against geometry by hand and slow versions."""

import math

import numpy as np
import pytest
import torch

from detection.localization import answers as answers_module
from detection.localization.answers import Answers, agree, best
from detection.localization.crops import warp

# The second look


def ramp(rows, columns):
    """Red grows with x and green with y, by one a pixel."""
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)


def mean_red(crops):
    return crops[:, 0].mean(dim=(1, 2)).view(-1, 1, 1)


@pytest.fixture
def second_look(told):
    """Makes an rcnn that says `logits` of the crops and `boxes`, after an rpn that says what it is told."""

    def make(proposals, logits, boxes, count=200, before=None):
        first = told(before or [0.0] * len(proposals), proposals, test="1crop", test_crop_from=64)
        return told(logits, boxes, first, method="rcnn", proposals=count, crop=32)

    return make


def test_proposals_are_warped_as_in_training(second_look):
    """The first stage looks at 64 x 64 pixels of an image that is 128 high and wide: proposals grow by 2."""
    proposals = [[10.0, 5.0, 42.0, 37.0], [20.0, 20.0, 30.0, 44.0]]
    run = second_look(proposals, lambda crops: mean_red(crops) / 100, [[8.0, 8.0, 24.0, 40.0]])
    image = ramp(128, 128)
    boxes, scores = run.propose(image, 1, 5)
    for crop, box in zip(run.members[0].localizer.seen[0], proposals, strict=True):
        expected = warp(image, 2 * np.array(box), 32).transpose(2, 0, 1)
        assert crop.numpy() == pytest.approx(expected.astype(float), abs=1.04)  # OpenCV rounds twice
    # A quarter from the left and top, three quarters from the left, a quarter more than its height.
    expected = [[36.0, 26.0, 68.0, 90.0], [45.0, 52.0, 55.0, 100.0]]
    assert boxes == pytest.approx(np.array(expected), abs=1e-3)
    means = [(10 + 42) - 0.5, (20 + 30) - 0.5]  # of x: the middles of the proposals, in pixels' centres
    assert scores == pytest.approx([1 / (1 + math.exp(-mean / 100)) for mean in means], abs=1e-4)


def test_the_new_score_decides_and_only_the_first_proposals_are_looked_at(monkeypatch, second_look):
    monkeypatch.setattr(answers_module, "REGIONS", 2)
    proposals = [[float(x), 4.0, x + 8.0, 12.0] for x in (0, 10, 20, 30, 40)]
    run = second_look(proposals, mean_red, [[0.0, 0.0, 32.0, 32.0]], count=3, before=[5.0, 4.0, 3.0, 2.0, 1.0])
    found = run(ramp(64, 64), [2, 0, 1])
    assert found.boxes[0].tolist() == [[20.0, 4.0, 28.0, 12.0], [0.0] * 4, [20.0, 4.0, 28.0, 12.0]]
    # 3 proposals of each of the two classes
    assert list(map(len, run.members[0].localizer.seen)) == [2, 2, 2]


def test_a_trained_second_stage_is_what_its_parts_say(locator, picture, normalized):
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
def test_a_member_given_twice_says_what_it_says_alone(copies, locator, picture, same):
    image = picture(96, 150)
    for loc in ({}, {"test": "1crop"}, {"method": "pcr", "test": "1crop"}):
        same(locator(*[4] * copies, **loc)(image, [1, 2, 3]), locator(4, **loc)(image, [1, 2, 3]))
