"""Localizers from checkpoints: what is loaded with them, and what is refused."""

import numpy as np
import pytest
import torch

from detection import checkpoint
from detection.config import to_dict
from detection.localization import load as load_module
from detection.localization.answers import AS_STORED
from detection.localization.build import build_localizer
from detection.localization.load import load_first_stage, load_locator, weights_digest
from detection.localization.localizer import Localizer

CLASSES = ("circle", "cross", "square")
CPU = torch.device("cpu")


def write(path, made: Localizer, names=CLASSES, kind="localizer", **more):
    """A localizer as a run leaves it."""
    state = {"kind": kind, "config": to_dict(made.config), "class_names": list(names), "model": made.state_dict()}
    checkpoint.save(path, {**state, **more})
    return path


def test_a_localizer_is_loaded_with_its_names(tmp_path, settings, picture, same):
    made, _ = build_localizer(settings(), 3)
    path = write(tmp_path / "last.pt", made)
    run, image = load_locator(tmp_path, "cpu", {"loc": {"test_scales": [64]}}), picture(60, 90)
    assert run.class_names == CLASSES
    assert run.config.loc.test_scales == (64,)
    assert all(
        torch.equal(value, made.state_dict()[name]) for name, value in run.members[0].localizer.state_dict().items()
    )
    same(load_locator([tmp_path, path], "cpu", {"loc": {"test_scales": [64]}})(image, [1, 3]), run(image, [1, 3]))


@pytest.fixture
def saved(localizer, tmp_path, monkeypatch):
    """Writes untrained localizers with the stand-in of a backbone, which is then loaded too."""

    def build(config, num_classes, *, load_weights):
        return Localizer(localizer().backbone, None, num_classes, config), ""

    monkeypatch.setattr(load_module, "build_localizer", build)

    def save(name, names=CLASSES, kind="localizer", first_digest="", **loc):
        return write(tmp_path / name, localizer(**loc), names, kind, first_stage=first_digest)

    return save


@pytest.fixture
def rpn(saved):
    return saved("rpn.pt")


def test_a_second_stage_brings_its_first(rpn, saved, picture):
    digest = weights_digest(load_locator(rpn, "cpu").members[0].localizer)
    path = saved("rcnn.pt", first_digest=digest, method="rcnn", crop=32, proposals=4, first_stage=str(rpn))
    run = load_locator(path, "cpu", {"loc": {"test_scales": [48, 64]}})
    (member,) = run.members
    assert member.first_stage.config.loc.method == "rpn"
    assert member.first_stage.config.loc.test_scales == (48, 64)
    assert member.first_stage.config.loc.crop == 64
    assert [size.shorter for size in member.sizes] == [48, 64, 0] and member.sizes[-1] == AS_STORED
    boxes, scores = run.propose(picture(60, 90), 2, 9)
    assert boxes.shape == (4, 4) and (np.diff(scores) <= 0).all()


def test_a_first_stage_that_has_changed_is_refused_unless_it_is_named(rpn, saved, refused):
    path = saved("rcnn.pt", first_digest="another", method="rcnn", crop=32, first_stage=str(rpn))
    words = f"{path}: it was trained on the proposals of {rpn}, which has changed since; give --loc.first_stage with"
    refused(words, load_locator, path, "cpu")
    named = load_locator(path, "cpu", {"loc": {"first_stage": str(rpn)}})
    assert named.members[0].first_stage.config.loc.method == "rpn"


def test_a_first_stage_that_cannot_be_one_is_refused(rpn, saved, settings, refused):
    refused("loc.first_stage (empty): no such checkpoint", load_first_stage, settings(method="rcnn"), CLASSES, CPU)
    other = settings(method="rcnn", first_stage="nowhere.pt")
    refused("loc.first_stage nowhere.pt: no such checkpoint", load_first_stage, other, CLASSES, CPU)
    ours = settings(method="rcnn", first_stage=str(rpn))
    refused("its classes are not those of the rcnn", load_first_stage, ours, ("circle",), CPU)
    pcr = settings(method="rcnn", test="1crop", first_stage=str(saved("pcr.pt", method="pcr", test="1crop")))
    refused("a trained pcr, but proposals are made by an rpn", load_first_stage, pcr, CLASSES, CPU)


def test_pcr_on_whole_images_is_refused(saved, refused):
    path = saved("pcr2.pt", method="pcr", test="1crop")
    refused("pcr has no score to choose among places by", load_locator, path, "cpu", {"loc": {"test": "dense"}})


def test_what_does_not_fit_is_refused(rpn, saved, refused):
    refused("no checkpoint was given", load_locator, [])
    refused("give a dictionary", load_locator, rpn, "cpu", "dense")
    refused("unknown setting settings: loc.tests", load_locator, rpn, "cpu", {"loc": {"tests": "dense"}})
    refused("the checkpoint holds a detector", load_locator, saved("det.pt", kind="detector"), "cpu")
    for name, value in (("anchor_sizes", [8]), ("method", "pcr"), ("layer", "conv5")):
        words = f"it was trained with loc.{name} "
        refused(words, load_locator, rpn, "cpu", {"loc": {name: value}})
    other = saved("other.pt", names=("circle", "square", "cross"))
    refused("an ensemble needs the same classes", load_locator, [rpn, other], "cpu")
