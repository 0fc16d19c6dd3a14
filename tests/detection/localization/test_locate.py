"""Localizers at test time: against a slow direct version, against geometry worked out by hand, and on whole sets."""

import itertools
import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detection.config import from_dict, overlay, to_dict
from detection.data import jpeg
from detection.data.dataset import resized_size, without_objects
from detection.localization.localizer import Localizer
from detection.localization.locate import Locator, LocMember

CLASSES = ("circle", "cross", "square")
CPU = torch.device("cpu")

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


def every_answer(made: Localizer, image: np.ndarray, label: int, normalized: Any) -> list[tuple[float, list[float]]]:
    """Score and box in original pixels of each place, anchor and size that counts.

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
                if 16 * row < rows and 16 * column < columns and box[0] < box[2] and box[1] < box[3]:
                    found.append((1 / (1 + math.exp(-logit)), box))
    return found


@pytest.mark.parametrize("shape", [(96, 150), (130, 70), (64, 64)])
def test_the_best_of_all_places_anchors_and_sizes_wins(shape, locator, picture, normalized):
    image, run = picture(*shape), locator()
    found = run(image, [3, 1, 2])
    assert (found.boxes.shape, found.scores.shape) == ((1, 3, 4), (1, 3))
    assert (found.boxes.dtype, found.scores.dtype) == (np.float64, np.float64)
    for place, label in enumerate([3, 1, 2]):
        score, box = max(every_answer(run.members[0].localizer, image, label, normalized))
        assert found.scores[0, place] == pytest.approx(score, abs=1e-5)
        assert found.boxes[0, place] == pytest.approx(box, abs=1e-3)


def test_proposals_are_the_best_boxes_in_order(locator, picture, normalized):
    image, run = picture(96, 150), locator()
    expected = sorted(every_answer(run.members[0].localizer, image, 2, normalized), reverse=True)
    boxes, scores = run.propose(image, 2, 30)
    assert scores == pytest.approx([score for score, _ in expected[:30]], abs=1e-5)
    assert boxes == pytest.approx(np.array([box for _, box in expected[:30]]), abs=1e-3)
    boxes, scores = run.propose(image, 2, 10**6)
    assert len(boxes) == len(scores) == len(expected)


def test_places_in_the_padding_do_not_count(told, picture):
    """40 x 70 pixels are padded to 64 x 96: rows 0, 16, 32 of the grid are on the image, and columns 0 to 64."""
    logits = torch.zeros(4, 6)
    logits[3, 0], logits[0, 5], logits[2, 4], logits[1, 1] = 9, 8, 7, 6
    boxes = [[float(i), 0.0, i + 8.0, 8.0] for i in range(24)]
    run = told(logits.flatten().tolist(), boxes, test_scales=[40])
    found = run(picture(40, 70), [1])
    assert found.boxes[0, 0].tolist() == boxes[2 * 6 + 4]
    assert found.scores[0, 0] == pytest.approx(1 / (1 + math.exp(-7)), abs=1e-12)
    two, _ = run.propose(picture(40, 70), 1, 2)
    assert two.tolist() == [boxes[2 * 6 + 4], boxes[6 + 1]]
    (seen, _) = run.members[0].localizer.seen
    assert seen.shape == (1, 3, 64, 96)
    assert torch.equal(seen[0, :, :40, :70], torch.from_numpy(picture(40, 70)).permute(2, 0, 1).float())
    assert not seen[:, :, 40:].any() and not seen[:, :, :, 70:].any()


def test_a_very_long_image_shrinks(told, picture):
    run = told([0.0] * 16, [[0.0, 0.0, 8.0, 8.0]] * 16, test_scales=[32])
    run(picture(20, 2000), [1])
    assert run.members[0].localizer.seen[0].shape == (1, 3, 32, 128)


# The centre


def centre(image: np.ndarray, size: tuple[int, int], corner: tuple[int, int], side: int = 64) -> np.ndarray:
    """The square at `corner` (x, y) of the image resized to `size` (rows, columns)."""
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized[corner[1] : corner[1] + side, corner[0] : corner[0] + side]


def saw(run: Locator, crop: np.ndarray) -> bool:
    return torch.equal(run.members[0].localizer.seen[0][0], torch.from_numpy(crop).permute(2, 0, 1).float())


def test_one_crop_by_hand(told, picture):
    """200 x 300 pixels become 100 x 150, so the square of 64 begins at x 43, y 18."""
    run = told([0.0], [[10.0, 20.0, 30.0, 40.0]], test="1crop", test_crop_from=100)
    image = picture(200, 300)
    found = run(image, [2])
    assert found.boxes[0, 0].tolist() == [106.0, 76.0, 146.0, 116.0]
    assert saw(run, centre(image, (100, 150), (43, 18)))


@pytest.mark.parametrize(
    ("shape", "size", "corner", "box"),
    [
        ((32, 160), (64, 320), (128, 0), [64, 0, 96, 32]),  # enlarged by 2, so that the crop fits
        ((129, 64), (129, 64), (0, 32), [0, 32, 64, 96]),
        ((8, 8), (64, 64), (0, 0), [0, 0, 8, 8]),
    ],
)
def test_one_crop_of_small_and_odd_images(shape, size, corner, box, told, picture):
    run = told([0.0], [[0.0, 0.0, 64.0, 64.0]], test="1crop", test_crop_from=32)
    image = picture(*shape)
    assert run(image, [2]).boxes[0, 0].tolist() == box
    assert saw(run, centre(image, size, corner))


def test_pcr_gives_the_box_of_its_crop(locator, picture, normalized):
    """100 x 150 pixels become 80 x 120, so the square of 64 begins at x 28, y 8."""
    run, image = locator(method="pcr", test="1crop"), picture(100, 150)
    made = run.members[0].localizer
    features = made.features(normalized(centre(image, (80, 120), (28, 8))))
    _, boxes = made.outputs(features, torch.tensor([[3]]), (64, 64))
    expected = np.clip((boxes[0, 0, 0].detach().numpy() + [28, 8, 28, 8]) * 1.25, 0, [150, 100] * 2)
    assert (boxes[0, 0, 0] < 0).any() or (boxes[0, 0, 0] > 64).any()  # beyond the crop, inside the image
    assert run(image, [3]).boxes[0, 0] == pytest.approx(expected, abs=1e-3)


# Data sets


def test_a_set_gives_what_its_images_give(data, locator, labels):
    shares, run = [], locator()
    found = run.locate(data, labels, shares.append)
    assert shares == pytest.approx(np.arange(1, 8) / 7)  # nothing is asked of one
    for index, path in enumerate(data.image_paths):
        alone = run(str(path), labels[index].tolist())
        assert found.boxes[index] == pytest.approx(alone.boxes[0], abs=1e-3)
        assert found.scores[index] == pytest.approx(alone.scores[0], abs=1e-6)
    none = labels == 0
    assert not found.boxes[none].any() and not found.scores[none].any()
    assert (found.scores[~none] > 0).all() and (found.boxes[~none] <= data.sizes.max()).all()
    assert (found.boxes[~none][:, 2:] > found.boxes[~none][:, :2]).all()


def test_proposals_of_a_set_are_those_of_each_image(data, settings, localizer):
    made = Localizer(localizer(7).backbone, None, 4, settings())
    run = Locator([LocMember(made, settings(test="1crop"))], data.class_names, CPU)
    given = [data.labels[data.objects(index)] for index in range(len(data))]
    one = given.index(next(labels for labels in given if len(set(labels.tolist())) == 1))
    found = np.full((8, 10_000, 4), -1, np.float32)
    run.propose_all(data, 10_000, found.__setitem__, lambda share: None)
    boxes, _ = run.propose(str(data.image_paths[one]), int(given[one][0]), 10_000)
    assert found[one, : len(boxes)] == pytest.approx(boxes, abs=1e-3)
    assert len(boxes) == 4 * 4 * 6 and not found[one, len(boxes) :].any()


@pytest.mark.parametrize("asked", [False, True])
def test_large_files_of_a_set_are_decoded_reduced_when_asked(
    asked, tmp_path, picture, settings, localizer, monkeypatch
):
    """The largest scale is 80 pixels."""
    factors, decode = [], jpeg.decode_jpeg
    monkeypatch.setattr(jpeg, "decode_jpeg", lambda content, factor: factors.append(factor) or decode(content, factor))
    sizes = [(160, 201), (159, 200), (400, 330)]
    for rows, columns in sizes:
        cv2.imwrite(str(tmp_path / f"{rows}.jpg"), picture(rows, columns))
    data = without_objects(CLASSES, list("abc"), [str(tmp_path / f"{rows}.jpg") for rows, _ in sizes], sizes)
    config = from_dict(overlay(to_dict(settings()), {"data": {"reduced_decoding": asked}}))
    run = Locator([LocMember(localizer(), config)], CLASSES, CPU)
    run.locate(data, np.ones((3, 1), int), lambda share: None)
    assert sorted(factors) == ([1, 2, 4] if asked else [1, 1, 1])


# Users' mistakes


def test_labels_of_no_class_are_refused(locator, picture, refused):
    for label in (4, -1):
        refused(f"label {label}: the localizer knows labels 1 to 3", locator(), picture(60, 60), [1, label])
    for label in (0.5, "circle"):
        refused("labels: give a row of whole numbers for each of 1 images", locator(), picture(60, 60), [label])


def test_labels_of_other_images_and_an_empty_set_are_refused(data, locator, refused, labels):
    none = without_objects(CLASSES, [], [], np.zeros((0, 2)))
    refused("no usable image", locator().locate, none, labels[:0], lambda share: None)
    refused("for each of 8 images", locator().locate, data, labels[:7], lambda share: None)
