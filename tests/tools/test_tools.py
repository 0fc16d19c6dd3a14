"""The tools as a user runs them: from the command line to files, words and exit statuses."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection import checkpoint
from detection.command_line import parse
from detection.data import read_annotations
from detection.inference.predictor import load_detector

TOOLS = Path(__file__).parents[2] / "tools"
HEADLINE = ("VOC area mAP@0.5", "VOC07 11-point mAP@0.5")


def scores_of(folder):
    """The headline scores in a run's records."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if HEADLINE[0] in line]
    return {name: line[name] for name in HEADLINE}


def assert_coco(path, image_ids):
    """Every row has COCO's four keys, and a box inside images of at most 160 pixels."""
    rows = json.loads(path.read_text())
    assert rows
    for row in rows:
        assert set(row) == {"image_id", "category_id", "bbox", "score"}
        assert row["image_id"] in image_ids
        assert row["category_id"] in (1, 2, 3, 4)
        x, y, width, height = row["bbox"]
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        assert x + width <= 160.001 and y + height <= 160.001
        assert 0 < row["score"] <= 1
    return rows


# Training


def test_training_leaves_a_folder_that_can_be_read_and_repeated(tool, recipe, output, true_plots):
    ended = tool("train_det", "--config", recipe, "--output", output, "--seed", 3)
    assert (ended.status, ended.err) == (0, "")
    config = parse("train_det.py", "", ["--config", str(output / "config.yaml")])
    assert (config.train.iterations, config.seed, config.output) == (2, 3, str(output))
    assert all(0 <= value <= 1 for value in scores_of(output).values())
    assert_coco(output / "detections.json", {f"{number:06d}" for number in range(8, 13)})
    for name in ("predictions.png", "train_samples.png", "report/plots/precision_recall.png"):
        with Image.open(output / name) as picture:
            picture.load()
    state = checkpoint.load(output)
    assert (state["step"], len(state["class_names"])) == (2, 4)
    for words in ("learning rate", "iteration 2/2", "VOC07 11-point", str(output / "best.pt"), "predict_det.py"):
        assert words in ended.out
    last = ended.out.strip().splitlines()[-3:]
    assert last[0].startswith(f"everything is in {output}")
    assert f"--checkpoint {output / 'best.pt'} --input" in last[1]
    assert f"--checkpoint {output / 'best.pt'} --data.val" in last[2]


def test_training_stops_and_goes_on(tool, recipe, output):
    stopped = tool("train_det", "--config", recipe, "--output", output, "--train.stop_at", 1)
    assert stopped.status == 0
    assert "stopped at iteration 1 of 2; all is saved, go on with:" in stopped.out
    assert f"python tools/train_det.py --resume {output}" in stopped.out
    resumed = tool("train_det", "--resume", output)
    assert resumed.status == 0
    assert f"resumed from {output} at iteration 1" in resumed.out
    assert checkpoint.load(output)["step"] == 2


def test_config_yaml_repeats_the_run(tool, tiny_run, output):
    """Given to --config with a new folder and nothing else: the same weights come out."""
    ended = tool("train_det", "--config", tiny_run / "config.yaml", "--output", output)
    assert ended.status == 0
    first, second = checkpoint.load(tiny_run)["model"], checkpoint.load(output)["model"]
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# Scoring


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_scoring_a_checkpoint_gives_the_scores_of_the_run(tool, tiny_run, output, name):
    ended = tool("eval_det", "--checkpoint", tiny_run / name, "--output", output)
    assert (ended.status, ended.err) == (0, "")
    found = json.loads((output / "metrics.json").read_text())
    assert {name: found[name] for name in HEADLINE} == scores_of(tiny_run)
    assert {f"{protocol} AP@0.5 square" for protocol in ("VOC area", "VOC07 11-point")} < set(found)
    assert (output / "detections.json").read_bytes() == (tiny_run / "detections.json").read_bytes()
    with Image.open(output / "predictions.png") as picture:
        picture.load()
    assert "VOC07 11-point" in ended.out
    assert "circle" in ended.out
    assert f"are in {output}" in ended.out


def test_scoring_writes_beside_the_checkpoint_and_never_over_results(tool, tiny_run, tmp_path):
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "last.pt").symlink_to(tiny_run / "last.pt")
    for path, folder in ((run / "last.pt", "eval"), (run, "eval-2")):
        ended = tool("eval_det", "--checkpoint", path)
        assert ended.status == 0
        assert (run / folder / "metrics.json").exists(), ended.out
    assert sorted(path.name for path in run.iterdir()) == ["eval", "eval-2", "last.pt"]


def test_scoring_takes_other_settings_and_another_set(tool, tiny_run, output):
    words = "--data.val", "train", "--test.detections", "2", "--test.batch_size", "4"
    assert tool("eval_det", "--checkpoint", tiny_run, "--output", output, *words).status == 0
    rows = assert_coco(output / "detections.json", {f"{number:06d}" for number in range(8)})
    assert len(rows) == 8 * 2


def test_scoring_draws_the_plots(tool, tiny_run, output, true_plots):
    assert tool("eval_det", "--checkpoint", tiny_run, "--output", output).status == 0
    with Image.open(output / "plots" / "precision_recall.png") as picture:
        assert picture.size == (1200, 675)
        picture.load()


def test_a_set_without_annotations_is_packed_in_the_devkits_form(tool, tiny_run, output):
    words = "--data.val", "unlabelled", "--data.train", "train"
    ended = tool("eval_det", "--checkpoint", tiny_run, "--output", output, *words)
    assert ended.status == 0
    assert not (output / "metrics.json").exists()
    assert f"results_comp4_unlabelled.tar.gz are in {output}" in ended.out
    with tarfile.open(output / "results_comp4_unlabelled.tar.gz") as packed:
        lines = packed.extractfile("results/Main/comp4_det_unlabelled_circle.txt").read().decode().splitlines()
    assert all(len(line.split()) == 6 and line.split()[0] in ("000013", "000014") for line in lines)


# Predicting


def test_predicting_writes_pictures_with_boxes_and_all_detections(tool, tiny_run, tiny_data, tmp_path, output):
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    source = tiny_data / "JPEGImages"
    shutil.copy(source / "000008.jpg", folder / "b.JPG")
    Image.open(source / "000009.jpg").save(folder / "deeper" / "a.png")
    Image.open(source / "000010.jpg").save(folder / "c.bmp")
    (folder / "notes.txt").write_text("no picture")
    words = "--input", folder, source / "000011.jpg", "--output", output, "--draw_above", "0.0"
    ended = tool("predict_det", "--checkpoint", tiny_run / "best.pt", *words)
    assert (ended.status, ended.err) == (0, "")
    assert f"4 pictures with boxes and detections.json are in {output}" in ended.out
    drawn = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert drawn == {"detections.json", "b.JPG", "c.bmp.png", "000011.jpg", "deeper/a.png"}
    rows = assert_coco(output / "detections.json", {"b.JPG", "deeper/a.png", "c.bmp", "000011.jpg"})
    found = load_detector(tiny_run / "best.pt", "cpu")(source / "000011.jpg")
    own = [row for row in rows if row["image_id"] == "000011.jpg"]
    assert [row["score"] for row in own] == pytest.approx(found.scores.tolist())
    assert [row["category_id"] for row in own] == found.labels.tolist()
    for name, original in (("000011.jpg", source / "000011.jpg"), ("deeper/a.png", folder / "deeper" / "a.png")):
        with Image.open(output / name) as picture, Image.open(original) as before:
            assert picture.size == before.size
            change = np.abs(np.asarray(picture, np.int64) - np.asarray(before, np.int64)).max(axis=2)
        assert (change > 60).sum() > 50  # lines and letters


def test_predicting_draws_only_from_the_given_score_on(tool, tiny_run, tiny_data, tmp_path, output):
    picture = tmp_path / "a.png"
    Image.open(tiny_data / "JPEGImages" / "000008.jpg").save(picture)
    tool("predict_det", "--checkpoint", tiny_run, "--input", picture, "--output", output, "--draw_above", "1.0")
    assert np.array_equal(np.asarray(Image.open(output / "a.png")), np.asarray(Image.open(picture)))
    assert_coco(output / "detections.json", {"a.png"})


def test_pictures_that_were_given_are_never_written_over(tool, tiny_run, tiny_data, tmp_path):
    """Whatever --output is, the user's own files stay as they are."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture = folder / "a.jpg"
    shutil.copy(tiny_data / "JPEGImages" / "000008.jpg", picture)
    before = picture.read_bytes()
    ended = tool("predict_det", "--checkpoint", tiny_run, "--input", folder, "--output", folder)
    assert picture.read_bytes() == before
    assert ended.status in (0, 2)


def test_a_picture_that_does_not_decode_is_named_and_the_others_are_done(tool, tiny_run, tiny_data, tmp_path, output):
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(tiny_data / "JPEGImages" / "000008.jpg", folder / "z.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    ended = tool("predict_det", "--checkpoint", tiny_run, "--input", folder, "--output", output)
    assert ended.status == 2
    assert ended.err.startswith("predict_det.py: error: 1 pictures could not be read: ")
    assert str(folder / "broken.jpg") in ended.err
    assert ended.err.count("\n") == 1
    assert (output / "z.jpg").exists()
    assert_coco(output / "detections.json", {"z.jpg"})


# Users' mistakes


def test_an_unknown_backbone_gets_the_nearest_name(refusal, recipe):
    assert "did you mean resnet101?" in refusal("train_det", "--config", recipe, "--backbone", "resnet-101")


def test_an_unknown_setting_gets_the_nearest_name(refusal, recipe):
    assert "did you mean --train.iterations?" in refusal("train_det", "--config", recipe, "--train.iteration", "5")


def test_a_recipe_that_is_no_yaml_is_named(refusal, tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1\nb: 2: 3")
    assert "bad.yaml, line 2: not YAML" in refusal("train_det", "--config", tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", ["train_det", "eval_det"])
def test_a_missing_data_root_says_what_was_looked_for_and_where_voc_comes_from(refusal, recipe, tiny_run, name):
    given = ("--config", recipe) if name == "train_det" else ("--checkpoint", tiny_run)
    sentence = refusal(
        name, *given, "--data.root", "nowhere", "--data.train", "2007/trainval", "--data.val", "2007/test"
    )
    assert "--data.root nowhere: no such folder (looked for nowhere/VOC2007/ImageSets/Main/" in sentence
    assert "host.robots.ox.ac.uk" in sentence


def test_a_missing_set_names_those_that_are_there(refusal, recipe):
    sentence = refusal("train_det", "--config", recipe, "--data.val", "test")
    assert "no set test" in sentence
    assert "train, unlabelled, val" in sentence


@pytest.mark.parametrize("name", ["eval_det", "predict_det"])
def test_a_corrupt_checkpoint_is_named(refusal, tiny_run, tiny_data, tmp_path, name):
    path = tmp_path / "cut.pt"
    path.write_bytes((tiny_run / "best.pt").read_bytes()[:50_000])
    more = ("--input", tiny_data / "JPEGImages" / "000008.jpg") if name == "predict_det" else ()
    assert f"{path}: the checkpoint is damaged or incomplete" in refusal(name, "--checkpoint", path, *more)
    assert "nowhere.pt: no such checkpoint" in refusal(name, "--checkpoint", "nowhere.pt", *more)


def test_data_of_other_classes_is_refused(tool, tiny_run, tiny_data, tmp_path, output):
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    for file in (other / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<name>triangle", "<name>star"))
    words = ("eval_det", "--checkpoint", tiny_run, "--data.root", other, "--output", output)
    ended = tool(*words)
    assert ended.status == 2
    assert "the detector knows circle, cross, square, triangle, but val has star too" in ended.err
    assert "Traceback" not in ended.err
    assert not output.exists()
    assert tool(*words, "--data.classes", "[circle,cross,square,triangle]").status == 0


def test_a_run_is_not_resumed_on_other_classes(refusal, tiny_run, tiny_data, tmp_path):
    words = "--data.classes", "[triangle,square,cross,circle]"
    sentence = refusal("train_det", "--resume", tiny_run, *words)
    assert "has classes circle, cross, square, triangle, but the data has triangle, square, cross, circle" in sentence


def test_a_run_is_not_resumed_with_another_architecture(refusal, tiny_run):
    sentence = refusal("train_det", "--resume", tiny_run, "--backbone", "resnet34")
    assert 'it was trained with backbone "resnet18", which cannot become "resnet34" now' in sentence


def test_a_training_image_that_does_not_decode_is_named(tool, recipe, tiny_data, tmp_path, output):
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    for file in (other / "JPEGImages").iterdir():
        file.write_bytes(file.read_bytes()[:-1500])
    ended = tool("train_det", "--config", recipe, "--data.root", other, "--output", output)
    assert ended.status == 2
    assert str(other / "JPEGImages") in ended.err
    assert "does not decode" in ended.err
    assert ended.err.count("\n") == 1


def test_a_folder_that_holds_another_run_is_left_alone(refusal, recipe, tiny_run):
    sentence = refusal("train_det", "--config", recipe, "--output", tiny_run)
    assert f"{tiny_run} holds another run" in sentence


@pytest.mark.parametrize("name", ["train_det", "eval_det", "predict_det"])
def test_a_gpu_that_is_not_there_is_said(refusal, recipe, tiny_run, tiny_data, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = ("--config", recipe) if name == "train_det" else ("--checkpoint", tiny_run)
    given += ("--input", tiny_data) if name == "predict_det" else ()
    assert "--device cuda: torch sees no GPU here" in refusal(name, *given, "--device", "cuda")


def test_frozen_normalization_without_weights_is_refused_with_the_reason(refusal, recipe):
    sentence = refusal("train_det", "--config", recipe, "--model.norm", "frozen", "--weights", "none")
    assert "no statistics to freeze" in sentence
    assert "use norm group, batch or sync" in sentence


def test_values_that_contradict_each_other_are_refused(refusal, recipe):
    sentence = refusal("train_det", "--config", recipe, "--train.batch_size", "3", "--train.accumulate", "2")
    assert "train.batch_size 3 cannot be shared" in sentence


def test_pictures_that_are_not_there_are_said(refusal, tiny_run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    checkpoint_words = "--checkpoint", tiny_run, "--input"
    assert "--input nowhere.jpg: there is no such picture" in refusal("predict_det", *checkpoint_words, "nowhere.jpg")
    assert f"--input {empty}: the folder holds no picture" in refusal("predict_det", *checkpoint_words, empty)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "a.png")
    sentence = refusal("predict_det", *checkpoint_words, tmp_path / "one", tmp_path / "two")
    assert "another picture is called a.png too" in sentence


def test_what_is_required_is_named(refusal):
    assert "missing --checkpoint, --input" in refusal("predict_det")
    assert "missing --checkpoint" in refusal("eval_det")


@pytest.mark.parametrize("name", ["train_det", "eval_det", "predict_det"])
def test_an_output_that_cannot_be_written_is_said(refusal, recipe, tiny_run, tiny_data, tmp_path, name):
    (tmp_path / "file").write_text("")
    given = ("--config", recipe) if name == "train_det" else ("--checkpoint", tiny_run)
    given += ("--input", tiny_data / "JPEGImages" / "000008.jpg") if name == "predict_det" else ()
    assert str(tmp_path / "file" / "out") in refusal(name, *given, "--output", tmp_path / "file" / "out")


# Help


@pytest.mark.parametrize("name", ["train_det", "eval_det", "predict_det"])
def test_help_does_not_wait_for_torch(name):
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    heavy = {'torch', 'torchvision', 'albumentations', 'cv2', 'wandb', 'matplotlib'} & set(sys.modules)\n"
        "    print('loaded:', sorted(heavy))\n"
    )
    path = TOOLS / f"{name}.py"
    code = f"import sys; sys.argv = [{str(path)!r}, '--help']\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"usage: {name}.py ")
    assert "--device {auto,cpu,cuda}" in ended.stdout
    assert "--output" in ended.stdout and ("--train.lr" in ended.stdout) == (name == "train_det")
    assert ended.stdout.endswith("loaded: []\n")


def test_the_tiny_set_is_read_as_it_was_written(tiny_config):
    """The other tests count on it: sizes in turn, objects inside."""
    from detection.config import from_dict

    data = read_annotations(from_dict(tiny_config).data, "train+val")
    assert data.sizes[:3].tolist() == [[128, 128], [128, 160], [160, 128]]
    assert data.class_names == ("circle", "cross", "square", "triangle")
    assert len(data) == 13 and len(data.labels) > 13
