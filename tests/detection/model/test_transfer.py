"""Rows of the two sibling layers that go from one run to another: whose they are, counted by hand, and what is said."""

import dataclasses
import json

import pytest
import torch

from detection.config import VOC_CLASSES, from_dict
from detection.errors import UserError
from detection.model.build import build_detector
from detection.model.transfer import init_from, same_things

LAYER = "roi_heads.box_predictor."
FOUR = ("cat", "dog", "cow", "car")
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
COCO_ROWS = (5, 2, 15, 9, 40, 6, 3, 16, 57, 20, 61, 17, 18, 4, 1, 59, 19, 58, 7, 63)
"""Of VOC's 20 classes in the list above, with the background in row 0."""


def detector(settings, classes=4, seed=0, roi=None, **model):
    config = from_dict(settings)
    model["roi"] = dataclasses.replace(config.model.roi, **(roi or {}))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **model))
    torch.manual_seed(seed)
    return build_detector(config, classes)[0]


def weights(model):
    """A copy: `state_dict` itself changes with the model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def numbered(model):
    """Weights in which every row of the two layers holds its own number (the box layer's from 1000 on)."""
    state = weights(model)
    for name, tensor in state.items():
        if name.startswith(LAYER):
            rows = torch.arange(len(tensor), dtype=torch.float32) + (1000 if "bbox" in name else 0)
            state[name] = rows.view(-1, *[1] * (tensor.ndim - 1)).expand_as(tensor).clone()
    return state


def require_rows(model, before, class_rows, box_rows):
    """`class_rows`: for each row of the class layer its number in the checkpoint, None for the row as it was."""
    for layer, numbers, offset in (("cls_score", class_rows, 0), ("bbox_pred", box_rows, 1000)):
        for part in ("weight", "bias"):
            name = f"{LAYER}{layer}.{part}"
            tensor = model.state_dict()[name]
            assert len(tensor) == len(numbers)
            for row, number in enumerate(numbers):
                expected = before[name][row] if number is None else torch.full_like(tensor[row], number + offset)
                assert torch.equal(tensor[row], expected), (name, row)


def require_the_rest(model, state):
    for name, tensor in model.state_dict().items():
        assert name.startswith(LAYER) or torch.equal(tensor, state[name]), name


def four_each(rows):
    return [None if row is None else 4 * row + i for row in rows for i in range(4)]


# Whose rows


def test_known_classes_keep_their_rows_and_the_others_their_fresh_ones(tiny_config):
    """The checkpoint's rows: background 0, sheep 1, car 2, tv 3, bird 4, cat 5, hot dog 6."""
    known = ("sheep", "car", "tv", "bird", "cat", "hot dog")
    state, taking = numbered(detector(tiny_config, classes=6, seed=1)), detector(tiny_config, classes=5, seed=2)
    before, given = weights(taking), {name: tensor.clone() for name, tensor in state.items()}
    said = init_from(taking, ("cat", "ball", "tvmonitor", "hotdog", "car"), state, known, "runs/a/best.pt")
    rows = [0, 5, None, 3, None, 2]
    require_rows(taking, before, rows, four_each(rows))
    require_the_rest(taking, given)
    assert all(torch.equal(tensor, given[name]) for name, tensor in state.items())
    assert said.splitlines() == [
        "weights from runs/a/best.pt, in the class and box layers those of the background and 3 of 5 classes",
        "  kept: cat, tvmonitor (tv), car",
        "  start anew: ball, hotdog",
    ]


def test_all_of_voc_is_in_coco(tiny_config):
    state, taking = numbered(detector(tiny_config, classes=80)), detector(tiny_config, classes=20, seed=2)
    said = init_from(taking, VOC_CLASSES, state, COCO_CLASSES, "coco.pt")
    require_rows(taking, {}, [0, *COCO_ROWS], four_each([0, *COCO_ROWS]))
    first, *lines = said.splitlines()
    assert first.endswith("the background and 20 of 20 classes")
    assert len(lines) <= 3 and max(map(len, lines)) <= 120
    assert " ".join(line.strip() for line in lines) == (
        "kept: aeroplane (airplane), bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable (dining "
        "table), dog, horse, motorbike (motorcycle), person, pottedplant (potted plant), sheep, sofa (couch), train, "
        "tvmonitor (tv)"
    )


def test_coco_from_voc_keeps_20_of_80_and_lists_all(tiny_config):
    state, taking = numbered(detector(tiny_config, classes=20)), detector(tiny_config, classes=80, seed=2)
    before = weights(taking)
    said = init_from(taking, COCO_CLASSES, state, VOC_CLASSES, "voc.pt")
    rows = [0] + [COCO_ROWS.index(row) + 1 if row in COCO_ROWS else None for row in range(1, 81)]
    require_rows(taking, before, rows, four_each(rows))
    lines = said.splitlines()
    assert len(lines) <= 11 and max(map(len, lines)) <= 120
    text = " ".join(line.strip() for line in lines)
    assert "20 of 80 classes kept: person, bicycle, car, motorcycle (motorbike), airplane (aeroplane), " in text
    kept, new = text.split("kept: ")[1].split(" start anew: ")
    assert (len(kept.split(", ")), len(new.split(", "))) == (20, 60)
    assert not any(line.endswith((" hot", " wine", " (potted")) for line in lines)  # names stay in one piece


def test_the_list_of_coco_is_cocos(shared_data):
    found = json.loads((shared_data / "coco" / "annotations" / "instances_val2017.json").read_text())["categories"]
    assert tuple(row["name"] for row in sorted(found, key=lambda row: row["id"])) == COCO_CLASSES


def test_the_same_names_in_another_order_permute_the_rows(tiny_config):
    state, taking = numbered(detector(tiny_config, seed=1)), detector(tiny_config, seed=2)
    said = init_from(taking, ("car", "cat", "cow", "dog"), state, FOUR, "a.pt")
    require_rows(taking, {}, [0, 4, 1, 3, 2], four_each([0, 4, 1, 3, 2]))
    assert said.endswith("the background and 4 of 4 classes\n  kept: car, cat, cow, dog")


def test_the_same_names_in_the_same_order_keep_everything(tiny_config):
    state, taking = weights(detector(tiny_config, seed=1)), detector(tiny_config, seed=2)
    assert init_from(taking, FOUR, state, list(FOUR), "a.pt") == "weights from a.pt, with its class and box layers"
    assert all(torch.equal(tensor, state[name]) for name, tensor in taking.state_dict().items())


def test_no_class_in_common_keeps_the_background(tiny_config):
    state, taking = numbered(detector(tiny_config, seed=1)), detector(tiny_config, seed=2)
    before = weights(taking)
    said = init_from(taking, ("a", "b", "c", "d"), state, FOUR, "a.pt")
    rows = [0, None, None, None, None]
    require_rows(taking, before, rows, four_each(rows))
    assert said.endswith("the background and 0 of 4 classes\n  start anew: a, b, c, d")


@pytest.mark.parametrize(
    ("names", "known", "sources"),
    [
        (("sofa",), ("couch",), {"sofa": "couch"}),
        (("couch",), ("sofa",), {"couch": "sofa"}),
        (("sofa",), ("couch", "sofa"), {"sofa": "sofa"}),
        (("sofa", "couch"), ("couch",), {"couch": "couch"}),  # the exact name has it, and no other one
        (("couch", "sofa"), ("couch",), {"couch": "couch"}),
        (("sofa", "couch"), ("couch", "sofa"), {"sofa": "sofa", "couch": "couch"}),
        (("Sofa", "dining-table", "television"), ("couch", "dining table", "tv"), {}),
    ],
)
def test_an_exact_name_wins_over_the_table_and_no_name_is_guessed(names, known, sources):
    assert same_things(names, known) == sources


# One box layer for all classes


def test_a_box_layer_for_all_classes_is_kept_whole(tiny_config):
    agnostic = {"class_agnostic": True}
    state, taking = numbered(detector(tiny_config, 6, roi=agnostic)), detector(tiny_config, seed=2, roi=agnostic)
    before = weights(taking)
    said = init_from(taking, FOUR, state, ("ant", "dog", "bee", "cat", "fly", "eel"), "a.pt")
    require_rows(taking, before, [0, 4, 2, None, None], range(4))
    assert said.splitlines()[0] == (
        "weights from a.pt, in the class layer those of the background and 2 of 4 classes; "
        "the box layer is one for all classes and is kept"
    )


@pytest.mark.parametrize(("own", "owner"), [(True, "this run"), (False, "the checkpoint")])
def test_a_box_layer_of_the_other_kind_starts_anew(tiny_config, own, owner):
    state = numbered(detector(tiny_config, roi={"class_agnostic": not own}))
    taking = detector(tiny_config, seed=2, roi={"class_agnostic": own})
    before = weights(taking)
    said = init_from(taking, FOUR, state, FOUR, "a.pt")
    require_rows(taking, before, range(5), [None] * (4 if own else 20))
    assert said.splitlines() == [
        "weights from a.pt, in the class layer those of the background and 4 of 4 classes; "
        f"the box layer starts anew (model.roi.class_agnostic in {owner} only)",
        "  kept: cat, dog, cow, car",
    ]


# Other inputs, other networks, no names


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (True, "; the columns of global context, which the checkpoint has not, start anew"),
        (False, "; its columns of global context are left out"),
    ],
)
@pytest.mark.parametrize("agnostic", [False, True])
def test_where_one_has_context_the_columns_of_the_region_are_kept(tiny_config, own, said, agnostic):
    """Of 64 columns the first 32 are the region's."""
    roi = {"class_agnostic": agnostic}
    state = numbered(detector(tiny_config, seed=1, roi=roi, global_context=not own))
    taking = detector(tiny_config, seed=2, roi=roi, global_context=own)
    before = weights(taking)
    assert init_from(taking, FOUR, state, FOUR, "a.pt") == f"weights from a.pt, with its class and box layers{said}"
    for layer in ("cls_score", "bbox_pred"):
        name = f"{LAYER}{layer}"
        weight, bias = taking.state_dict()[f"{name}.weight"], taking.state_dict()[f"{name}.bias"]
        assert torch.equal(weight[:, :32], state[f"{name}.weight"][:, :32])
        assert torch.equal(weight[:, 32:], before[f"{name}.weight"][:, 32:])
        assert torch.equal(bias, state[f"{name}.bias"]) and weight.shape[1] == (64 if own else 32)
    require_the_rest(taking, state)


def test_with_the_whole_images_vector_in_both_rows_are_kept(tiny_config):
    state = numbered(detector(tiny_config, 2, seed=1, global_context=True))
    taking = detector(tiny_config, seed=2, global_context=True)
    before = weights(taking)
    init_from(taking, FOUR, state, ("cow", "cat"), "a.pt")
    rows = [0, 2, None, 1, None]
    require_rows(taking, before, rows, four_each(rows))


def test_a_checkpoint_without_class_names_starts_the_layers_anew(tiny_config):
    state, taking = numbered(detector(tiny_config, seed=1)), detector(tiny_config, seed=2)
    before = weights(taking)
    said = init_from(taking, FOUR, state, (), "a.pt")
    reason = "the checkpoint has 4 classes and names none of them"
    assert said == f"weights from a.pt; the class and box layers start anew ({reason})"
    require_rows(taking, before, [None] * 5, [None] * 20)
    require_the_rest(taking, state)


def test_a_checkpoint_without_the_two_layers_starts_them_anew(tiny_config):
    state, taking = weights(detector(tiny_config, seed=1)), detector(tiny_config, seed=2)
    before = weights(taking)
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith(LAYER)}
    assert init_from(taking, FOUR, trunk, FOUR, "a.pt").endswith("layers start anew (the checkpoint has none)")
    require_rows(taking, before, [None] * 5, [None] * 20)
    require_the_rest(taking, state)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"roi": {"hidden": 64}}, "roi_heads.box_head.fc6.weight is (64, 784) instead of (32, 784)"),
        ({"pyramid_channels": 32, "global_context": True}, "is (32, 64, 1, 1) instead of (16, 64, 1, 1)"),
        ({"norm": "batch"}, "inner_blocks.0.1.weight is missing"),
    ],
)
def test_another_network_is_refused_and_nothing_is_taken(tiny_config, other, words):
    state, taking = weights(detector(tiny_config, seed=1, **other)), detector(tiny_config, seed=2)
    before = weights(taking)
    with pytest.raises(UserError, match="^a.pt: the checkpoint is of another architecture") as caught:
        init_from(taking, FOUR[::-1], state, FOUR, "a.pt")
    assert words in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in taking.state_dict().items())


def test_layers_of_another_width_are_named(tiny_config):
    state, taking = weights(detector(tiny_config, seed=1)), detector(tiny_config, seed=2)
    state[f"{LAYER}cls_score.weight"] = torch.zeros(5, 48)
    with pytest.raises(UserError, match=r"box_predictor.cls_score.weight is \(5, 48\) instead of \(5, 32\)"):
        init_from(taking, FOUR[::-1], state, FOUR, "a.pt")
