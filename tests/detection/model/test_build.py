"""From settings to detectors: weights in and out, what does not fit, and the table of stages."""

import dataclasses

import pytest
import torch

from detection.config import from_dict
from detection.errors import UserError
from detection.model.build import Undrawn, build_detector, class_names_of, difference, load_state, stages


def given_config(settings, model):
    config = from_dict(settings)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


def detector(settings, classes=4, seed=0, **model):
    torch.manual_seed(seed)
    return build_detector(given_config(settings, model), classes)[0]


def weights(model):
    """A copy: `state_dict` itself changes with the model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_checkpoint_of_the_same_architecture_is_loaded_whole(tiny_config):
    given, taking = detector(tiny_config, seed=1).state_dict(), detector(tiny_config, seed=2)
    assert not torch.equal(taking.state_dict()["backbone.body.conv1.weight"], given["backbone.body.conv1.weight"])
    load_state(taking, given, "a.pt")
    assert all(torch.equal(tensor, given[name]) for name, tensor in taking.state_dict().items())


@pytest.mark.parametrize("changes", [{}, {"norm": "batch"}, {"head": "c4"}])
def test_built_without_drawing_a_detector_takes_every_tensor_from_the_checkpoint(tiny_config, changes):
    given = detector(tiny_config, seed=1, **changes)
    state = torch.get_rng_state()
    with Undrawn():
        taking = build_detector(given_config(tiny_config, changes), 4, load_weights=False)[0]
    assert torch.equal(torch.get_rng_state(), state)  # not one random number
    load_state(taking, given.state_dict(), "a.pt")
    for values, other in zip(taking.buffers(), given.buffers(), strict=True):
        assert torch.equal(values, other)
    for values, other in zip(taking.parameters(), given.parameters(), strict=True):
        assert torch.equal(values, other)


def test_another_number_of_classes_is_refused_with_the_shapes(tiny_config):
    taking = detector(tiny_config)
    before = weights(taking)
    with pytest.raises(UserError) as caught:
        load_state(taking, detector(tiny_config, classes=6).state_dict(), "runs/a/best.pt")
    sentence = str(caught.value)
    assert sentence.startswith("runs/a/best.pt: the checkpoint is of another architecture or other classes")
    assert "roi_heads.box_predictor.cls_score.weight is (7, 32) instead of (5, 32)" in sentence
    assert sentence.endswith("and 1 more)")  # of the four tensors of the two layers
    assert all(torch.equal(tensor, before[name]) for name, tensor in taking.state_dict().items())


def test_another_backbone_is_refused(tiny_config):
    given = detector({**tiny_config, "backbone": "resnet34"}).state_dict()
    with pytest.raises(UserError, match="backbone.body.layer1.2.conv1.weight has no place"):
        load_state(detector(tiny_config), given, "a.pt")
    with pytest.raises(UserError, match="backbone.body.layer1.2.conv1.weight is missing"):
        load_state(detector({**tiny_config, "backbone": "resnet34"}), detector(tiny_config).state_dict(), "a.pt")


def test_difference_lists_what_is_missing_left_over_and_of_another_shape():
    layer = torch.nn.Linear(2, 3)
    state = {"weight": torch.zeros(3, 4), "scale": torch.zeros(1)}
    assert difference(layer, state) == ["bias is missing", "scale has no place", "weight is (3, 4) instead of (3, 2)"]
    assert difference(layer, layer.state_dict()) == []


def test_class_names_are_taken_or_missed():
    assert class_names_of({"class_names": ["cat", "dog"]}, "a.pt") == ("cat", "dog")
    with pytest.raises(UserError, match="^a.pt: the checkpoint names no classes"):
        class_names_of({"class_names": []}, "a.pt")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "resnet19"}, ("resnet19", "resnet18")),
        ({"backbone": "vgg16", "norm": "frozen"}, ("frozen", "vgg16")),
        ({"norm": "frozen"}, ("norm frozen", "--weights")),
        ({"head": "fc"}, ("head fc", "resnet18")),
        ({"freeze_at": 9}, ("freeze_at 9", "0 to 5")),
        ({"weights": "imagenet1k_v1"}, ("group", "--weights none|FILE")),
        ({"weights": "nowhere.pth"}, ("nowhere.pth",)),
    ],
)
def test_what_does_not_go_together_is_a_users_mistake(tiny_config, settings, words):
    for name, value in settings.items():
        (tiny_config["model"] if name in tiny_config["model"] else tiny_config)[name] = value
    with pytest.raises(UserError) as caught:
        build_detector(from_dict(tiny_config), 4)
    assert all(word in str(caught.value) for word in words), caught.value


def test_the_seed_reaches_both_draws(tiny_config):
    built = detector({**tiny_config, "seed": 17})
    assert (built.rpn.seed, built.roi_heads.seed) == (17, 17)


def test_stages_count_every_parameter_once(tiny_config):
    """Counts of ResNet-18's stages (with normalization) add up to torchvision's 11,176,512 without its classifier."""
    table = stages(detector(tiny_config))
    counts = {row.name: row.parameters for row in table}
    assert [counts[f"conv{number}"] for number in range(1, 6)] == [9_536, 147_968, 525_568, 2_099_712, 8_393_728]
    assert sum(counts[f"conv{number}"] for number in range(1, 6)) == 11_689_512 - 513_000
    assert counts["proposals"] == 9 * 16 * 16 + 16 + 15 * 16 + 15
    assert counts["region head"] == 32 * 16 * 49 + 32 + 32 * 32 + 32
    assert counts["class and box"] == 32 * 5 + 5 + 32 * 20 + 20
    assert sum(row.parameters for row in table) == sum(p.numel() for p in detector(tiny_config).parameters())
    assert {row.name: row.norm for row in table} == {
        **{f"conv{number}": "group" for number in range(1, 6)},
        "pyramid": "group",
        "proposals": "-",
        "region head": "-",
        "class and box": "-",
    }
    assert all(row.trained == row.parameters for row in table)


def test_stages_tell_what_is_frozen(tiny_config):
    built = detector(tiny_config, head="c4", norm="batch", freeze_at=2)
    table = {row.name: row for row in stages(built)}
    assert list(table) == ["conv1", "conv2", "conv3", "conv4", "proposals", "conv5", "class and box"]
    assert {name for name, row in table.items() if row.trained == 0} == {"conv1", "conv2"}
    assert {name for name, row in table.items() if row.trained == row.parameters} == set(table) - {"conv1", "conv2"}
    assert {table[f"conv{number}"].norm for number in range(1, 6)} == {"batch"}


def test_constants_of_frozen_normalization_are_parameters_that_are_not_trained(tiny_config):
    """torchvision keeps their scale and shift as buffers; the stem has a 7x7 convolution of 64 and 2 x 64 of them."""
    config = from_dict({**tiny_config, "model": {"norm": "frozen", "freeze_at": 0}})
    with torch.device("meta"):
        built, report = build_detector(config, 4, load_weights=False)
    table = {row.name: row for row in stages(built)}
    assert (table["conv1"].parameters, table["conv1"].trained) == (9_536, 9_408)
    assert table["conv1"].norm == "frozen"
    assert report == "pretrained weights left to the checkpoint"


def test_a_vgg_shows_fc6_and_fc7(tiny_config):
    settings = {**tiny_config, "backbone": "vgg16", "model": {"head": "fc", "norm": "none", "freeze_at": 2}}
    with torch.device("meta"):
        built, _ = build_detector(from_dict(settings), 20, load_weights=False)
    table = {row.name: row for row in stages(built)}
    assert list(table) == [
        *(f"conv{number}" for number in range(1, 6)), "proposals", "fc6", "fc7", "class and box"
    ]  # fmt: skip
    parts = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    assert sum(table[name].parameters for name in parts) == 138_357_544 - 4_097_000  # torchvision's, less its fc8
    assert (table["conv1"].trained, table["conv2"].trained, table["conv1"].norm) == (0, 0, "-")
