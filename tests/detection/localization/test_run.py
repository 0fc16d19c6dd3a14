"""A run of a localizer from settings to its folder: what it leaves, how it goes on, what it begins from and refuses."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from detection import checkpoint
from detection.command_line import LOCALIZATION, parse
from detection.config import from_dict, overlay
from detection.errors import UserError
from detection.finalize import finalize
from detection.localization.load import load_locator
from detection.localization.run import LocalizationRun

KEYS = ("LOC error, class given", "LOC error, class given, IoU 0.7", "LOC error, best constant box")
TIMES = {"images/s", "waiting", "memory"}
"""What differs between two runs that compute the same."""
CPU = torch.device("cpu")


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def errors_of(folder: Path) -> list[dict[str, float]]:
    """The errors of each evaluation."""
    return [{name: line[name] for name in KEYS} for line in records(folder) if KEYS[0] in line]


# What a run leaves


def test_a_run_leaves_all_its_files(loc_run):
    assert {path.name for path in loc_run.iterdir()} == {
        "best.pt", "config.yaml", "last.pt", "log.txt", "metrics.jsonl", "predictions.png", "train_samples.png",
    }  # fmt: skip
    for name in ("predictions.png", "train_samples.png"):
        with Image.open(loc_run / name) as picture:
            picture.load()
            assert min(picture.size) > 100


def test_config_yaml_is_the_finished_configuration_and_reloads(loc_run, loc_config):
    config = parse("train_loc.py", "", ["--config", str(loc_run / "config.yaml")], LOCALIZATION)
    given = overlay(loc_config, {"train": {"ema_decay": 0.5}, "output": str(loc_run)})
    assert config == finalize(from_dict(given))[0]


def test_the_checkpoints_say_what_they_are(loc_run):
    last, best = checkpoint.load(loc_run), checkpoint.load(loc_run / "best.pt")
    for state in (last, best):
        assert (state["kind"], state["step"]) == ("localizer", 3)
        assert state["class_names"] == ["bar", "disc", "ring"]
    name = "layers.offsets.weight"
    assert torch.equal(best["model"][name], last["ema"][name])
    assert not torch.equal(last["model"][name], last["ema"][name])
    (errors,) = errors_of(loc_run)
    assert best["best"] == last["best"] == -errors[KEYS[0]]


def truth(root: Path, name: str) -> tuple[tuple[int, int], str, list[tuple[int, ...]]]:
    """Columns and rows, class and boxes (inclusive, from 1) of an image, from its file."""
    tree = ElementTree.parse(root / "Annotations" / f"{name}.xml")
    size = tuple(int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = [tuple(int(box.findtext(corner)) for corner in corners) for box in tree.iter("bndbox")]
    return size, tree.findtext("object/name", ""), boxes


def pixels_iou(box: list[float], other: tuple[int, ...]) -> float:
    """IoU of inclusive boxes, as the devkit counts."""
    sides = [min(box[i + 2], other[i + 2]) - max(box[i], other[i]) + 1 for i in (0, 1)]
    areas = [(each[2] - each[0] + 1) * (each[3] - each[1] + 1) for each in (box, other)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / (sum(areas) - shared)


def slow_errors(locator: Any, root: Path, names: list[str]) -> list[float]:
    """Errors at IoU 0.5 and 0.7, the class given, image by image."""
    best = []
    for name in names:
        _, kind, boxes = truth(root, name)
        if boxes:
            label = locator.class_names.index(kind) + 1
            x1, y1, x2, y2 = locator(root / "JPEGImages" / f"{name}.jpg", [label]).boxes[0, 0].tolist()
            best.append(max(pixels_iou([x1 + 1, y1 + 1, x2, y2], box) for box in boxes))
    assert len(best) == len(names) - 1  # one is without an object
    return [sum(iou < least for iou in best) / len(best) for least in (0.5, 0.7)]


def test_the_errors_are_those_of_the_best_weights(loc_run, loc_data):
    names = (loc_data / "ImageSets" / "Main" / "val.txt").read_text().split()
    (errors,) = errors_of(loc_run)
    found = slow_errors(load_locator(loc_run / "best.pt", "cpu"), loc_data, names)
    assert [errors[key] for key in KEYS[:2]] == pytest.approx(found)
    assert 0 < found[0] < 1  # or the comparison would say little


def shares(root: Path, name: str) -> list[list[float]]:
    """The boxes of an image in shares of its sides."""
    (columns, rows), _, boxes = truth(root, name)
    return [[(x1 - 1) / columns, (y1 - 1) / rows, x2 / columns, y2 / rows] for x1, y1, x2, y2 in boxes]


def test_the_best_constant_box_is_one_of_those_best_on_the_training_images(loc_run, loc_data):
    steps = [number / 20 for number in range(21)]
    spans = [(low, high) for low in steps for high in steps if low < high]
    tried = torch.tensor([(x1, y1, x2, y2) for x1, x2 in spans for y1, y2 in spans], dtype=torch.float64)
    counts = {}
    for name in ("train", "val"):
        sets = [shares(loc_data, number) for number in (loc_data / f"ImageSets/Main/{name}.txt").read_text().split()]
        boxed = [torch.tensor(each, dtype=torch.float64) for each in sets if each]
        counts[name] = sum((box_iou(tried, each) >= 0.5).any(dim=1).int() for each in boxed)
    best = counts["train"] == counts["train"].max()
    assert errors_of(loc_run)[0][KEYS[2]] in [pytest.approx(1 - int(right) / 5) for right in counts["val"][best]]


def test_the_log_tells_the_set_the_stages_the_errors_and_what_to_do_next(loc_run):
    text = " ".join((loc_run / "log.txt").read_text().split())
    (errors,) = errors_of(loc_run)
    for words in (
        "3 classes, one in each image",
        "the best constant box is wrong in",
        "no pretrained weights",
        "8 images with 12 objects (train) to train, 6 images with",
        "class layers",
        "iteration 3/3: loss",
        f"iteration 3: {KEYS[0]} {100 * errors[KEYS[0]]:.1f} %",
        "(5 images)",
        f"python tools/eval_loc.py --checkpoint {loc_run / 'best.pt'}",
    ):
        assert words in text


# Going on


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and everything that is no list and no dictionary; tensors as their bytes."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield name, (value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
    else:
        for key, inner in pairs:
            yield from leaves(inner, f"{name}.{key}")


def end_of(folder: Path) -> dict[str, Any]:
    """The last checkpoint, leaf by leaf, without the settings, which name the folder."""
    return dict(leaves({name: value for name, value in checkpoint.load(folder).items() if name != "config"}))


@pytest.mark.parametrize("method", ["rpn", "rcnn"])
def test_stopped_and_resumed_a_run_ends_as_one_that_was_not(start, loc_run, method):
    """At an evaluation, in the middle of an epoch; every random thing is on."""
    train = {"iterations": 3, "ema_decay": 0.6, "eval_every": 2, "deterministic": True}
    data = {"augment": {"hflip": 0.5, "colour": 0.5}}
    loc = {"method": method, "first_stage": str(loc_run) if method == "rcnn" else ""}
    whole = start("whole", train=train, data=data, loc=loc)
    parts = start("parts", train={**train, "stop_at": 2}, data=data, loc=loc)
    assert "stopped at iteration 2 of 3" in (parts / "log.txt").read_text()
    assert f"python tools/train_loc.py --resume {parts}" in " ".join((parts / "log.txt").read_text().split())
    assert start("parts", resume=str(parts)) == parts
    first, second = end_of(whole), end_of(parts)
    assert first.keys() == second.keys()
    assert not [name for name in first if first[name] != second[name]]
    assert records(parts) == records(whole)
    assert len(errors_of(parts)) == 2


def test_a_run_goes_on_with_its_own_method(start, loc_run):
    """What is left out of --resume is the run's, not the default."""
    folder = start("pcr", loc={"method": "pcr", "test": "1crop"}, train={"iterations": 2, "stop_at": 1})
    assert start("pcr", resume=str(folder)) == folder
    state = checkpoint.load(folder)
    assert (state["step"], state["config"]["loc"]["method"]) == (2, "pcr")
    assert {name for line in records(folder) for name in line if name.startswith("loss")} == {"loss", "loss_box_reg"}
    assert 0 <= errors_of(folder)[0][KEYS[0]] <= 1


# Beginning from another run


def begun(config: dict[str, Any], folder: Path, **loc: Any) -> tuple[dict[str, torch.Tensor], str]:
    """The weights that a run begins with, and its log."""
    given = overlay(config, {"output": str(folder), "loc": loc})
    run = LocalizationRun(from_dict(given), None, CPU)
    run.log.close()
    return run.loop.scored_detector.state_dict(), " ".join((folder / "log.txt").read_text().split())


def kept(found: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> set[str]:
    """Top-level parts of which some weight matrix is the same, of all that there are."""
    weights = [name for name in found if name.endswith("weight") and found[name].dim() > 1]
    same = {name for name in weights if name in given and torch.equal(found[name], given[name])}
    parts = {name.split(".")[0] for name in same}
    assert same == {name for name in weights if name.split(".")[0] in parts}  # all or nothing
    return parts


METHODS = {
    "pcr": {"method": "pcr", "test": "1crop"},
    "rcnn": {"method": "rcnn"},
    "other anchors": {"anchor_sizes": [20.0, 30.0, 40.0]},
}


@pytest.mark.parametrize("name", METHODS)
def test_another_localizer_begins_from_the_trunk(loc_config, loc_run, tmp_path, name):
    loc = {**METHODS[name], "first_stage": str(loc_run) if name == "rcnn" else ""}
    found, log = begun({**loc_config, "init_from": str(loc_run / "best.pt")}, tmp_path / "run", **loc)
    assert kept(found, checkpoint.load(loc_run / "best.pt")["model"]) == {"backbone"}
    assert f"weights from {loc_run / 'best.pt'}, the per-class layers start anew" in log


def test_the_same_localizer_begins_from_all_weights_unless_its_classes_are_others(loc_config, loc_run, tmp_path):
    config, given = {**loc_config, "init_from": str(loc_run)}, checkpoint.weights(checkpoint.load(loc_run))
    found, log = begun(config, tmp_path / "same")
    assert kept(found, given) == {"backbone", "layers"}
    assert "with its per-class layers" in log
    config["data"]["classes"] = ["disc", "bar", "ring"]
    assert kept(begun(config, tmp_path / "other")[0], given) == {"backbone"}


def test_layers_of_the_same_shape_but_another_meaning_start_anew(start, loc_config, tmp_path):
    """One anchor a place: the shapes of an rpn's layers are then those of the others."""
    one = {"anchor_sizes": [40.0], "anchor_ratios": [1.0]}
    rpn = start("rpn", loc=one, train={"iterations": 1})
    config = {**loc_config, "init_from": str(rpn)}
    for method in ("pcr", "rcnn"):
        found, log = begun(config, tmp_path / method, **one, **METHODS[method], first_stage=str(rpn))
        assert kept(found, checkpoint.load(rpn)["model"]) == {"backbone"}
        assert "the per-class layers start anew" in log
    for other in ({"anchor_sizes": [48.0]}, {"box_weights": [10.0, 10.0, 5.0, 5.0]}):
        found, _ = begun(config, tmp_path / "other", **{**one, **other})
        assert kept(found, checkpoint.load(rpn)["model"]) == {"backbone"}
    assert begun(config, tmp_path / "again", **one)[1].count("with its per-class layers") == 1


def test_a_run_that_goes_on_keeps_the_settings_that_its_weights_belong_to(start, loc_run):
    sizes = {"anchor_sizes": [20.0, 30.0]}
    with pytest.raises(UserError, match="it was trained with loc.anchor_sizes .* leave it out"):
        start("more", resume=str(loc_run), loc=sizes)


def test_rcnn_looks_again_at_the_proposals_of_its_first_stage(start, loc_run, loc_data):
    folder = start("rcnn", loc={"method": "rcnn", "first_stage": str(loc_run)}, train={"iterations": 1})
    assert len([*folder.glob("proposals-*.npy")]) == 1
    other = start("rpn", train={"iterations": 1})
    message = (
        f"it was trained on the proposals of {loc_run}, which has changed since; .* begin a new run with --init_from"
    )
    with pytest.raises(UserError, match=message):
        start("more", resume=str(folder), loc={"first_stage": str(other)}, train={"iterations": 2})
    (errors,) = errors_of(folder)
    names = (loc_data / "ImageSets" / "Main" / "val.txt").read_text().split()
    found = slow_errors(load_locator(folder / "best.pt", "cpu"), loc_data, names)
    assert [errors[key] for key in KEYS[:2]] == pytest.approx(found)


# Refusals


def refused(action, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_run_cannot_begin_from_is_refused(loc_config, loc_run, tiny_run, tmp_path):
    def attempt(**given: Any) -> str:
        config = from_dict(overlay(loc_config, {"output": str(tmp_path / "run"), **given}))
        return refused(LocalizationRun, config, None, CPU)

    trunk = f"--init_from {loc_run}: its trunk is resnet18, this run's resnet34"
    assert attempt(backbone="resnet34", init_from=str(loc_run)) == trunk
    kind = f"{tiny_run}: the checkpoint holds a detector, for train_det.py, eval_det.py and predict_det.py; "
    assert attempt(init_from=str(tiny_run)) == kind + "this takes a localizer"
    assert "loc.first_stage (empty): no such checkpoint" in attempt(loc={"method": "rcnn"})
    assert "pcr has no score to choose among places by" in attempt(loc={"method": "pcr"})
    assert attempt(data={"val": "plain"}) == "--data.val plain: has no boxes to score against; name a set that has"
    assert not (tmp_path / "run").exists()


def test_a_run_is_named_after_its_data_trunk_and_method(loc_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = LocalizationRun(dataclasses.replace(from_dict(loc_config), output=""), None, CPU)
    run.log.close()
    assert run.folder == Path("runs") / "figures_resnet18_rpn"
