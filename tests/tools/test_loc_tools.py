"""The tools of localization as a user runs them: from the command line to files, words and exit statuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detection import checkpoint
from detection.config import DataSettings
from detection.data import read_annotations
from detection.localization.guess_files import write_official
from detection.localization.load import load_locator
from detection.localization.rule import Guesses

TOOLS = Path(__file__).parents[2] / "tools"
GIVEN = ("LOC error, class given", "LOC error, class given, IoU 0.7")


@pytest.fixture
def loc_recipe(loc_config: dict[str, Any], tmp_path: Path) -> Path:
    """A recipe of two iterations on the tiny data set."""
    loc_config["train"]["iterations"] = 2
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(loc_config))
    return path


@pytest.fixture
def set_words(loc_data: Path) -> tuple[object, ...]:
    """What names the tiny data set to score_loc."""
    return ("--data.root", loc_data, "--data.train", "train", "--data.val", "val")


def run_errors(folder: Path) -> dict[str, float]:
    """The errors in a run's records."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if GIVEN[0] in line]
    return {name: line[name] for name in GIVEN}


def rescored(tool, tmp_path: Path, path: Path, words: tuple[object, ...]) -> dict[str, Any]:
    """The errors that score_loc finds in a file."""
    ended = tool("score_loc", *words, "--guesses", path, "--json", tmp_path / "again.json")
    assert (ended.status, ended.err) == (0, "")
    return json.loads((tmp_path / "again.json").read_text())["errors"]


# Training


def test_training_stops_goes_on_and_can_be_repeated(tool, loc_recipe, output):
    stopped = tool("train_loc", "--config", loc_recipe, "--output", output, "--seed", 3, "--train.stop_at", 1)
    assert (stopped.status, stopped.err) == (0, "")
    assert f"python tools/train_loc.py --resume {output}" in stopped.out
    resumed = tool("train_loc", "--resume", output)
    assert (resumed.status, resumed.err) == (0, "")
    assert f"resumed from {output} at iteration 1" in resumed.out
    last = resumed.out.strip().splitlines()[-2:]
    assert last[0].startswith(f"everything is in {output}")
    assert last[1].endswith(f"python tools/eval_loc.py --checkpoint {output / 'best.pt'}")
    again = tool("train_loc", "--config", output / "config.yaml", "--output", output / "again")
    assert again.status == 0
    first, second = checkpoint.load(output), checkpoint.load(output / "again")
    assert (first["step"], first["config"]["seed"]) == (2, 3)
    assert all(first["model"][name].equal(second["model"][name]) for name in first["model"])
    assert run_errors(output) == run_errors(output / "again")


# Scoring


def test_scoring_a_checkpoint_gives_the_errors_of_the_run(tool, loc_run, set_words, tmp_path, output):
    ended = tool("eval_loc", "--checkpoint", loc_run / "best.pt", "--output", output)
    assert (ended.status, ended.err) == (0, "")
    found = json.loads((output / "metrics.json").read_text())
    assert {name: found[name] for name in GIVEN} == run_errors(loc_run)
    assert set(found) == {*GIVEN, "images"} and found["images"] == 5
    again = rescored(tool, tmp_path, output / "localization.txt", set_words)
    assert [again[name.replace("given", "among the guesses")] for name in GIVEN] == [found[name] for name in GIVEN]
    assert {again[f"LOC error, top-{count}"] for count in range(1, 6)} == {found[GIVEN[0]]}
    words = " ".join(ended.out.split())
    for sentence in (
        "images without a box, where none can be right or wrong: 1 of 6; the class of 0 of them is known",
        f"class given {100 * found[GIVEN[0]]:.2f}",
        "labels in localization.txt: 1 to 3, in the order of the class names",
        f"localization.txt, metrics.json, predictions.png are in {output}",
    ):
        assert sentence in words
    with Image.open(output / "predictions.png") as picture:
        picture.load()
    assert {path.name for path in output.iterdir()} == {
        "config.yaml", "localization.txt", "metrics.json", "predictions.png",
    }  # fmt: skip


def test_a_line_is_an_image_and_the_one_without_a_class_has_none(tool, loc_run, loc_data, output):
    assert tool("eval_loc", "--checkpoint", loc_run, "--output", output).status == 0
    lines = (output / "localization.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [0, 5, 5, 5, 5, 5]  # 000008 shows nothing
    assert [line.split()[0] for line in lines[1:]] == [str(number % 3 + 1) for number in range(9, 14)]
    for number, line in zip(range(9, 14), lines[1:], strict=True):
        with Image.open(loc_data / "JPEGImages" / f"{number:06d}.jpg") as picture:
            columns, rows = picture.size
        x1, y1, x2, y2 = map(float, line.split()[1:])
        assert 0 <= x1 <= x2 <= columns - 1 and 0 <= y1 <= y2 <= rows - 1


def test_guessed_classes(tool, loc_run, set_words, tmp_path, output):
    """Every image's class is 1 + its number modulo 3; the second image's is missing, the third's stands second."""
    path = tmp_path / "guesses.txt"
    path.write_text("1 1 1 1 1\n2 3 2 3 2\n3 2 1 3 3\nring bar disc bar disc\n1 2 3 1 1\n2 1 3 2 3\n")
    ended = tool("eval_loc", "--checkpoint", loc_run, "--guesses", path, "--output", output)
    assert (ended.status, ended.err) == (0, "")
    found = json.loads((output / "metrics.json").read_text())
    assert found["classification error, top-1"] == pytest.approx(2 / 5)
    assert found["classification error, top-2"] == found["classification error, top-5"] == pytest.approx(1 / 5)
    assert 1 / 5 <= found["LOC error, top-5"] <= found["LOC error, top-1"] <= 1
    again = rescored(tool, tmp_path, output / "localization.txt", set_words)
    shared = [name for name in again if "top-" in name]
    assert len(shared) == 10 and all(again[name] == found[name] for name in shared)
    assert found["images whose class is among the guesses"] == 4
    assert {name: found[name] for name in GIVEN} == run_errors(loc_run)  # whatever is guessed
    rows = [line.split()[::5] for line in (output / "localization.txt").read_text().splitlines()]
    assert rows[1:4] == [list("23232"), list("32133"), list("31212")]
    assert "the class of 4 is among the guesses" in " ".join(ended.out.split())
    given = tool("eval_loc", "--checkpoint", loc_run, "--output", tmp_path / "given")
    assert given.status == 0
    boxes = [
        [line.split()[1:5] for line in (folder / "localization.txt").read_text().splitlines()]
        for folder in (output, tmp_path / "given")
    ]
    assert boxes[0][4] == boxes[1][4]  # the first guess is the class, so the box is the same


def test_an_ensemble(tool, loc_run, loc_data, set_words, tmp_path, output):
    """Of the averaged weights and those of the last step: the boxes that the two find of each image alone."""
    state, raw = checkpoint.load(loc_run), tmp_path / "raw.pt"
    checkpoint.save(raw, {name: value for name, value in state.items() if name != "ema"})
    paths = (loc_run / "best.pt", raw)
    ended = tool("eval_loc", "--checkpoint", *paths, "--output", output)
    assert (ended.status, ended.err) == (0, "")
    locator = load_locator(paths, "cpu")
    for number, line in zip(range(9, 14), (output / "localization.txt").read_text().splitlines()[1:], strict=True):
        box = locator(loc_data / "JPEGImages" / f"{number:06d}.jpg", [number % 3 + 1]).boxes[0, 0]
        assert [float(word) for word in line.split()[1:]] == pytest.approx(box - [0, 0, 1, 1], abs=0.01)
    found = json.loads((output / "metrics.json").read_text())
    again = rescored(tool, tmp_path, output / "localization.txt", set_words)
    assert [again[name.replace("given", "among the guesses")] for name in GIVEN] == [found[name] for name in GIVEN]
    asked = (output / "config.yaml").read_text().splitlines()[0]
    assert asked == f"# eval_loc.py --checkpoint {paths[0]} {raw}"


def test_scoring_writes_beside_the_checkpoint_with_other_settings_and_another_set(tool, loc_run, tmp_path):
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "last.pt").symlink_to(loc_run / "last.pt")
    words = ("--loc.test", "1crop", "--data.val", "train", "--test.batch_size", "4")
    for folder in ("eval", "eval-2"):
        assert tool("eval_loc", "--checkpoint", run, *words).status == 0
        assert len((run / folder / "localization.txt").read_text().splitlines()) == 8
    first, second = (json.loads((run / each / "metrics.json").read_text()) for each in ("eval", "eval-2"))
    assert first == second
    repeated = tool("eval_loc", "--checkpoint", run, "--config", run / "eval" / "config.yaml")
    assert repeated.status == 0
    assert (run / "eval-3" / "localization.txt").read_text() == (run / "eval" / "localization.txt").read_text()


def test_the_annotations_themselves_have_no_error(tool, loc_data, set_words, tmp_path):
    settings = DataSettings(root=str(loc_data), train="train", val="val")
    data = read_annotations(settings, "val", pictures=False)
    first = np.minimum(data.offsets[:-1], len(data.boxes) - 1)
    labels = np.where(np.diff(data.offsets) > 0, data.labels[first], 0)
    write_official(tmp_path / "truth.txt", Guesses(labels[:, None], data.boxes[first][:, None]), data)
    assert set(rescored(tool, tmp_path, tmp_path / "truth.txt", set_words).values()) == {0}


def test_scores_are_printed_where_nothing_can_be_written(tool, loc_data, set_words, tmp_path, monkeypatch):
    """Without --json the folder it runs in does not matter."""
    (tmp_path / "none.txt").write_text("\n" * 6)
    monkeypatch.setattr(os, "access", lambda *_: False)
    ended = tool("score_loc", *set_words, "--guesses", tmp_path / "none.txt")
    assert (ended.status, ended.err) == (0, "")
    assert "top-5 100.00" in " ".join(ended.out.split())


# Users' mistakes


def test_checkpoints_of_the_other_kind_are_refused(refusal, recipe, tiny_run, loc_run):
    detector = f"{tiny_run}: the checkpoint holds a detector, for train_det.py, eval_det.py and predict_det.py; "
    assert detector + "this takes a localizer" in refusal("eval_loc", "--checkpoint", tiny_run)
    localizer = f"{loc_run}: the checkpoint holds a localizer, for train_loc.py and eval_loc.py; this takes a detector"
    assert localizer in refusal("eval_det", "--checkpoint", loc_run)
    assert localizer in refusal("train_det", "--config", recipe, "--init_from", loc_run)


@pytest.mark.parametrize(("given", "other"), [("train_det", "loc_run"), ("train_loc", "tiny_run")])
def test_runs_of_the_other_kind_are_not_resumed(refusal, request, given, other):
    folder = request.getfixturevalue(other)
    assert f"{folder}: the checkpoint holds a " in refusal(given, "--resume", folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 2 3 1 2\n" * 5, "ends after line 5, the set has 6 images; write one line an image"),
        ("1 2 3 1 2\n" * 7, "line 7 is one too many, the set has 6 images"),
        ("1 2 3 1 2\n1 2\n" + "1 2 3 1 2\n" * 4, "line 2: 2 labels; write five"),
        ("1 2 3 1 2\n" * 5 + "1 2 3 4 5\n", "line 6: 4 is no class; write ids from 1 to 3"),
    ],
    ids=["short", "long", "two labels", "no class"],
)
def test_guesses_that_do_not_fit_are_refused_with_their_line(refusal, loc_run, tmp_path, text, sentence):
    path = tmp_path / "guesses.txt"
    path.write_text(text)
    assert f"{path}: {sentence}" in refusal("eval_loc", "--checkpoint", loc_run, "--guesses", path)
    assert not (loc_run / "eval").exists()


def test_settings_that_a_tool_has_no_use_for(refusal, loc_run):
    use = ": this tool has no use for the setting; --help lists those that it takes"
    assert f"--model.rpn.samples{use}" in refusal("train_loc", "--model.rpn.samples", 3)
    assert f"--loc.samples{use}" in refusal("train_det", "--loc.samples", 3)
    assert f"--loc.crop{use}" in refusal("eval_loc", "--checkpoint", loc_run, "--loc.crop", 3)
    assert "did you mean --loc.samples" in refusal("train_loc", "--loc.sample", 3)


def test_wrong_words_are_told_in_a_sentence(refusal, loc_recipe, loc_run, tmp_path):
    assert "missing --checkpoint" in refusal("eval_loc")
    both = ("--guesses", "x", "--classifier", "resnet50")
    assert "--guesses and --classifier both guess" in refusal("eval_loc", "--checkpoint", loc_run, *both)
    classifier = ("--checkpoint", loc_run, "--classifier", "resnet50")
    assert "ImageNet" in refusal("eval_loc", *classifier)
    assert "--data.val plain: has no boxes" in refusal("eval_loc", "--checkpoint", loc_run, "--data.val", "plain")
    trained = ("train_loc", "--config", loc_recipe)
    assert "pcr has no score to choose among" in refusal(*trained, "--loc.method", "pcr", "--output", tmp_path / "out")
    assert "loc.first_stage nowhere.pt" in refusal(*trained, "--loc.method", "rcnn", "--loc.first_stage", "nowhere.pt")
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refusal("eval_loc", "--checkpoint", loc_run, "--output", tmp_path / "file" / "out")
    assert not (tmp_path / "out").exists() and not (loc_run / "eval").exists()


def test_a_set_of_several_classes_an_image_is_refused(refusal, loc_recipe, tiny_data):
    sentence = refusal("train_loc", "--config", loc_recipe, "--data.root", tiny_data)
    assert "two classes" in sentence and "--data.on_error drop" in sentence


# Help


SHOWN = {
    "train_loc": ({"--loc.samples", "--loc.method", "--train.lr", "--data.augment.hflip"}, {"--model.rpn", "--metric"}),
    "eval_loc": ({"--loc.test_scales", "--guesses", "--classifier", "--checkpoint"}, {"--loc.samples", "--train.lr"}),
    "score_loc": ({"--guesses", "--json", "--data.blacklist"}, {"--loc.", "--train.lr", "--device"}),
}
"""Words in the help of each tool, and words that have no place there."""


@pytest.mark.parametrize("name", SHOWN)
def test_help_lists_the_settings_at_once(name):
    """Time of the processor, not of the clock: other work on the machine must not fail it."""
    command = [sys.executable, "-X", "importtime", str(TOOLS / f"{name}.py"), "--help"]
    seconds = []
    for _ in range(2):
        start = os.times()
        environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        end = os.times()
        seconds.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert ended.returncode == 0, ended.stderr
    assert min(seconds) < 0.6
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "detection.command_line" in loaded
    assert not loaded & {"torch", "torchvision", "albumentations", "cv2", "wandb", "matplotlib"}
    assert ended.stdout.startswith(f"usage: {name}.py ")
    shown, hidden = SHOWN[name]
    assert {word for word in shown if word not in ended.stdout} == set()
    assert {word for word in hidden if word in ended.stdout} == set()
