"""A run from settings to its folder: what it leaves, how it begins from other weights, what it refuses."""

import dataclasses
import errno
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from detection import checkpoint
from detection.command_line import parse
from detection.config import Config, from_dict, overlay, to_dict
from detection.data import read_annotations
from detection.errors import UserError
from detection.evaluation.detections import Detections
from detection.evaluation.scores import score
from detection.evaluation.voc import voc_scores
from detection.finalize import finalize
from detection.inference.predictor import load_detector
from detection.training.base import describe, prepare_folder, resumed_config
from detection.training.run import compared

HEADLINE = ("VOC area mAP@0.5", "VOC07 11-point mAP@0.5")


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# What a run leaves


def test_a_run_leaves_all_its_files(tiny_run):
    assert {path.name for path in tiny_run.iterdir()} == {
        "best.pt", "config.yaml", "detections.json", "last.pt", "log.txt", "metrics.jsonl", "predictions.png", "report",
        "train_samples.png",
    }  # fmt: skip


def test_config_yaml_is_the_finished_configuration_and_reloads(tiny_run, tiny_config):
    config = parse("train_det.py", "", ["--config", str(tiny_run / "config.yaml")])
    given = overlay(tiny_config, {"train": {"ema_decay": 0.5}, "output": str(tiny_run)})
    assert config == finalize(from_dict(given))[0]
    assert finalize(config)[0] == config


def test_records_hold_losses_rate_and_speed_of_every_step(tiny_run):
    lines = [line for line in records(tiny_run) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    names = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    others = {"step", "loss", "gradient_norm", "lr", "images/s", "waiting", "memory"}
    for line in lines:
        assert set(line) == names | others
        assert line["loss"] == pytest.approx(sum(line[name] for name in names))
    assert lines[0]["lr"] == pytest.approx(0.001 / 25)  # one-cycle begins at a 25th
    assert lines[0]["loss_objectness"] == pytest.approx(np.log(2), rel=0.01)  # two classes that nothing tells apart
    assert lines[0]["loss_classifier"] == pytest.approx(np.log(5), rel=0.05)


def test_the_scores_are_those_of_the_detections_that_were_written(tiny_run, tiny_config):
    data = read_annotations(from_dict(tiny_config).data, "val")
    detections = Detections.read_coco(tiny_run / "detections.json", data)
    assert 0 < len(detections) <= 5 * 10
    scores = voc_scores(detections, data)
    (line,) = [line for line in records(tiny_run) if HEADLINE[0] in line]
    assert line["step"] == 4
    assert [line[name] for name in HEADLINE] == pytest.approx([scores.mean_area, scores.mean_11point], abs=1e-9)
    for protocol, expected in (("VOC area", scores.ap_area), ("VOC07 11-point", scores.ap_11point)):
        found = [line[f"{protocol} AP@0.5 {name}"] for name in data.class_names]
        assert found == [None if np.isnan(ap) else pytest.approx(ap) for ap in expected]


def test_the_checkpoints_hold_names_settings_and_the_average_of_the_weights(tiny_run):
    last, best = checkpoint.load(tiny_run), checkpoint.load(tiny_run / "best.pt")
    for state in (last, best):
        assert state["class_names"] == ["circle", "cross", "square", "triangle"]
        assert from_dict(state["config"]).train.ema_decay == 0.5
        assert state["step"] == 4
    assert {"optimizer", "scaler"} < set(last)
    assert not {"optimizer", "scaler"} & set(best)
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(best["model"][name], last["ema"][name])
    assert not torch.equal(last["model"][name], last["ema"][name])
    headline = [line[HEADLINE[0]] for line in records(tiny_run) if HEADLINE[0] in line]
    assert best["best"] == last["best"] == max(headline)


def test_the_pictures_open(tiny_run):
    for name in ("predictions.png", "train_samples.png"):
        with Image.open(tiny_run / name) as picture:
            picture.load()
            assert min(picture.size) > 100


def test_the_log_tells_what_was_derived_the_stages_the_scores_and_what_to_do_next(tiny_run):
    text = (tiny_run / "log.txt").read_text()
    for words in (
        "learning rate 0.001 = 0.001 x batch 2 / reference batch 2",
        "no pretrained weights",
        "4 classes + background = 5 logits: circle, cross, square, triangle",
        "8 images with",
        "4 iterations = 1.0 epochs, on cpu in float32, seed 0",
        "2,099,712",
        "iteration 4/4: loss",
        "VOC07 11-point",
        f"python tools/predict_det.py --checkpoint {tiny_run / 'best.pt'} --input",
        f"python tools/eval_det.py --checkpoint {tiny_run / 'best.pt'} --data.val SET",
    ):
        assert words in text


def test_two_runs_of_one_seed_are_the_same_and_of_another_are_not(start):
    folders = [start(name, seed=seed, train={"iterations": 1}) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, second, third = (checkpoint.load(folder)["model"] for folder in folders)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    name = "backbone.body.conv1.weight"
    assert not torch.equal(first[name], third[name])
    assert (folders[0] / "detections.json").read_text() == (folders[1] / "detections.json").read_text()


def test_the_best_weights_are_those_of_the_best_score(start, monkeypatch):
    """Scores of 0.2, 0.6 and 0.4: the second is kept, and said in last.pt."""
    from detection.training import run

    values = iter((0.2, 0.6, 0.4))
    write = run.write_results

    def scored(*arguments):
        judged, files = write(*arguments)
        judged.scores.voc.ap_area[:] = next(values)
        return judged, files

    monkeypatch.setattr(run, "write_results", scored)
    folder = start("run", train={"iterations": 3, "eval_every": 1})
    best = checkpoint.load(folder / "best.pt")
    assert (best["step"], best["best"]) == (2, pytest.approx(0.6))
    last = checkpoint.load(folder)
    assert (last["step"], last["best"]) == (3, pytest.approx(0.6))
    assert [line[HEADLINE[0]] for line in records(folder) if HEADLINE[0] in line] == pytest.approx([0.2, 0.6, 0.4])


def test_the_best_score_is_cocos_on_coco_data_and_vocs_elsewhere(tiny_config):
    """Boxes 0.8 as wide as the objects: found by VOC's rule, and by COCO's at seven of ten thresholds."""
    config = from_dict(tiny_config)
    data = read_annotations(config.data, "val")
    rows = np.flatnonzero(~data.ignore)
    boxes = data.boxes[rows]
    boxes[:, 2] -= 0.2 * (boxes[:, 2] - boxes[:, 0])
    scores = score(
        Detections(data.image_of_object[rows], data.labels[rows], np.ones(len(rows)), boxes), data, config.metric
    )
    assert compared(scores, config) == pytest.approx(1)
    coco = dataclasses.replace(config, data=dataclasses.replace(config.data, format="coco"))
    assert compared(scores, coco) == pytest.approx(scores.coco.summary["COCO AP"])
    assert 0.5 < compared(scores, coco) < 0.8


def test_a_set_without_annotations_is_predicted_but_not_scored(start):
    folder = start("run", train={"iterations": 1}, data={"val": "unlabelled"})
    archive = folder / "results_comp4_unlabelled.tar.gz"
    assert f"unlabelled has no annotations: written to {archive.name}, not scored" in (folder / "log.txt").read_text()
    assert not any(HEADLINE[0] in line for line in records(folder))
    rows = json.loads((folder / "detections.json").read_text())
    assert {row["image_id"] for row in rows} <= {"000013", "000014"}
    with tarfile.open(archive) as packed:
        lines = {member.name: packed.extractfile(member).readlines() for member in packed if member.isfile()}
    names = ("circle", "cross", "square", "triangle")
    assert sorted(lines) == [f"results/Main/comp4_det_unlabelled_{name}.txt" for name in names]
    assert sum(map(len, lines.values())) == len(rows)
    assert load_detector(folder / "best.pt", "cpu").class_names == ("circle", "cross", "square", "triangle")


# Where a run begins and where it goes


def test_other_weights_start_a_run_and_unknown_classes_start_anew(start, tiny_run, tiny_data, tmp_path):
    """A set with two classes that the run before did not know; its weights are the moving average."""
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    for file in (other / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<name>circle", "<name>ball").replace("<name>cross", "<name>plus"))
    settings = {"lr": 1e-12, "iterations": 1, "schedule": "multistep", "steps": [], "warmup_iterations": 0}
    folder = start("run", init_from=str(tiny_run), train=settings, data={"root": str(other)})
    before, after = checkpoint.load(tiny_run), checkpoint.load(folder)
    assert after["class_names"] == ["ball", "plus", "square", "triangle"]
    words = f"weights from {tiny_run}, in the class and box layers those of the background and 2 of 4 classes"
    assert f"{words}\n  kept: square, triangle\n  start anew: ball, plus\n" in (folder / "log.txt").read_text()
    for name, tensor in after["model"].items():
        tensor, given = tensor.clone(), before["ema"][name].clone()
        if name.startswith("roi_heads.box_predictor."):
            new = slice(1, 3) if "cls_score" in name else slice(4, 12)  # after the background
            assert name.endswith("bias") or not torch.allclose(tensor[new], given[new], rtol=0.1)
            tensor[new] = given[new] = 0
        torch.testing.assert_close(tensor, given, rtol=1e-6, atol=1e-9)


def test_the_same_classes_keep_their_layers(start, tiny_run):
    settings = {"lr": 1e-12, "iterations": 1, "schedule": "multistep", "steps": [], "warmup_iterations": 0}
    folder = start("run", init_from=str(tiny_run / "best.pt"), train=settings)
    before, after = checkpoint.load(tiny_run / "best.pt")["model"], checkpoint.load(folder)["model"]
    assert all(torch.allclose(tensor, before[name], rtol=1e-6, atol=1e-9) for name, tensor in after.items())
    assert "with its class and box layers" in (folder / "log.txt").read_text()


def test_weights_of_another_architecture_are_refused(start, tiny_run):
    with pytest.raises(UserError, match="another architecture or other classes"):
        start("run", init_from=str(tiny_run), model={"pyramid_channels": 32})
    with pytest.raises(UserError, match="its network is a resnet18 with head fpn, this run's a resnet34 with head fpn"):
        start("other", init_from=str(tiny_run), backbone="resnet34")


def test_advice_about_bare_weights_does_not_lead_back_here(start, tiny_run, tmp_path):
    """Bare weights have no place at --init_from, so the refusal must not send the user there."""
    torch.save(checkpoint.load(tiny_run)["model"], tmp_path / "bare.pt")
    with pytest.raises(UserError) as caught:
        start("run", init_from=str(tmp_path / "bare.pt"))
    assert "--init_from" not in str(caught.value)


def test_a_folder_with_a_run_is_left_alone(start, tiny_run):
    before = {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()}
    with pytest.raises(UserError) as caught:
        start("run", output=str(tiny_run))
    assert f"{tiny_run} holds another run: choose a new --output, or go on with --resume {tiny_run}" in str(
        caught.value
    )
    assert {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()} == before


def test_folders_without_a_name_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (prepare_folder(Config(), "shapes_resnet101_fpn", is_new=True) for _ in range(2))
    assert (first, second) == (Path("runs/shapes_resnet101_fpn"), Path("runs/shapes_resnet101_fpn-2"))
    assert second.is_dir()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        prepare_folder(Config(output=str(tmp_path / "file" / "run")), "", is_new=True)
    assert str(caught.value).startswith(f"--output {tmp_path / 'file' / 'run'}: ")


def test_a_mistake_leaves_no_folder_behind(start, tmp_path):
    for mistake in ({"backbone": "resnet20"}, {"data": {"root": "nowhere"}}, {"init_from": "nowhere.pt"}):
        with pytest.raises(UserError):
            start("run", **mistake)
        assert not (tmp_path / "run").exists()


def test_a_set_without_annotations_cannot_be_trained_on(start):
    with pytest.raises(UserError, match="unlabelled has no annotations to learn from"):
        start("run", data={"train": "unlabelled", "val": "val"})


def test_a_full_disk_leaves_the_last_good_checkpoint(start, monkeypatch, tmp_path):
    """The second write of last.pt finds no room."""
    written = []
    write = checkpoint._write

    def filling_up(path, state):
        write(path, state)
        written.append(path.name)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "_write", filling_up)
    with pytest.raises(UserError, match="No space left on device.*--resume"):
        start("run", train={"iterations": 3, "checkpoint_every": 1})
    assert checkpoint.load(tmp_path / "run")["step"] == 1
    assert not list((tmp_path / "run").glob("*.part"))


def test_a_resumed_configuration_is_the_checkpoints_with_what_was_given_over_it():
    before = to_dict(from_dict({"train": {"stop_at": 5, "lr": 0.5}, "seed": 4, "init_from": "a.pt", "output": "old"}))
    given = {"resume": "runs/x/last.pt", "train": {"iterations": 9}}
    state = {"config": before, "optimizer": {}}
    fixed = ("backbone", "model.norm")
    config = resumed_config(state, given, "runs/x/last.pt", fixed)
    assert (config.train.stop_at, config.train.lr, config.train.iterations) == (0, 0.5, 9)
    assert (config.seed, config.init_from, config.resume) == (4, "", "runs/x/last.pt")
    assert config.output == "runs/x"  # wherever it was written
    with pytest.raises(UserError, match="^--output: a resumed run goes on in its own folder"):
        resumed_config(state, {**given, "output": "new"}, "runs/x/last.pt", fixed)
    with pytest.raises(UserError, match='^runs/x/last.pt: it was trained with model.norm "frozen", .*"group"'):
        resumed_config(state, {**given, "model": {"norm": "group"}}, "runs/x/last.pt", fixed)


def test_a_set_is_described_by_its_counts(tiny_config):
    data = read_annotations(from_dict(tiny_config).data, "val")
    objects = sum(
        path.read_text().count("<object>") for path in Path(tiny_config["data"]["root"]).glob("A*/00000[89]*")
    )
    objects += sum(path.read_text().count("<object>") for path in Path(tiny_config["data"]["root"]).glob("A*/00001*"))
    assert describe(data, "val") == f"5 images with {objects} objects (val)"


def test_config_yaml_is_plain_yaml(tiny_run):
    content = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert content["model"]["rpn"]["anchor_sizes"] == [8, 16, 32, 48, 64]
    assert list(content)[:2] == ["backbone", "weights"]  # in the order of the settings, not of the alphabet
