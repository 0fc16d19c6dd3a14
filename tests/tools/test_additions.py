"""The additions of the ResNet paper's appendix B as a user runs them: settings, stacked files, ensembles, mistakes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from detection import checkpoint
from detection.data import loader, read_annotations
from detection.inference import on_set, predictor
from detection.inference.predictor import load_detector

CONFIGS = Path(__file__).parents[2] / "configs"
SCALES = ("--test.scales", "[48,64,80]")
ALL = ("--test.refine", "true", "--test.vote_iou", 0.5, *SCALES, "--test.flip", "true")
ADDED = {"refine": True, "vote_iou": 0.5, "scales": [48, 64, 80], "flip": True}
"""The same as :data:`ALL`."""


def _written(tiny_run: Path, path: Path, shift: float = 0.0, names: tuple[str, ...] = ()) -> Path:
    """The tiny run's detector with every class logit's weights moved by noise of deviation `shift`, as a checkpoint."""
    state = checkpoint.load(tiny_run / "best.pt")
    noise = torch.Generator().manual_seed(1)
    weights = dict(checkpoint.weights(state))
    name = "roi_heads.box_predictor.cls_score.weight"
    weights[name] = weights[name] + shift * torch.randn(weights[name].shape, generator=noise)
    saved = {"config": state["config"], "class_names": list(names or state["class_names"]), "model": weights}
    checkpoint.save(path, saved)
    return path


@pytest.fixture(scope="module")
def other(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint with other opinions than the tiny run's."""
    path = _written(tiny_run, tmp_path_factory.mktemp("other") / "other.pt", shift=0.3)
    yield path
    path.unlink()


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which an image or a set is read."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("something is read")

    monkeypatch.setattr(loader, "read_decoded", read)
    monkeypatch.setattr(predictor, "read_image", read)
    monkeypatch.setattr(on_set, "read_annotations", read)


def rows_of(folder: Path) -> list[dict]:
    """The detections that a tool has written, by image and then best first."""
    rows = json.loads((folder / "detections.json").read_text())
    return sorted(rows, key=lambda row: (row["image_id"], -row["score"]))


def rows_by_python(path: Path, test: dict) -> list[dict]:
    """The detections in the validation set, in the form of :func:`rows_of`."""
    run, rows = load_detector(path, "cpu", {"test": test}), []
    data = read_annotations(run.config.data, "val")
    for image_id, image_path in zip(data.image_ids.tolist(), data.image_paths.tolist(), strict=True):
        found = run(image_path)
        boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in found.boxes.tolist()]
        for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), boxes, strict=True):
            rows.append({"image_id": image_id, "category_id": label, "score": score, "bbox": box})
    return rows


def assert_rows_are(rows: list[dict], expected: list[dict]) -> None:
    """Equal up to rounding in float32, to about a thousandth of a pixel."""
    assert len(rows) == len(expected) > 0
    for row, other in zip(rows, expected, strict=True):
        assert (row["image_id"], row["category_id"]) == (other["image_id"], other["category_id"])
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)
        assert row["bbox"] == pytest.approx(other["bbox"], abs=2e-3)


# Scoring


def test_a_detector_with_itself_scores_as_it_does_alone_with_every_addition(tool, tiny_run, output) -> None:
    """The tool with two files against one file from Python."""
    best = tiny_run / "best.pt"
    ended = tool("eval_det", "--checkpoint", best, "--checkpoint", best, *ALL, "--output", output)
    assert (ended.status, ended.err) == (0, "") and "VOC07 11-point" in ended.out
    assert ended.out.startswith("an ensemble of 2 detectors\n") and "the mirrored image too\n" in ended.out
    asked = (output / "config.yaml").read_text()
    assert asked.startswith(f"# eval_det.py --checkpoint {best} {best}\n")
    assert {**yaml.safe_load(asked)["test"]}.items() >= {"refine": True, "flip": True}.items()
    assert_rows_are(rows_of(output), rows_by_python(best, ADDED))
    plain = json.loads((tiny_run / "detections.json").read_text())
    assert [row["score"] for row in rows_of(output)] != [row["score"] for row in plain]


def test_an_ensemble_is_written_to_a_new_folder_and_batches_make_no_difference(
    tool, tiny_run, other, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, size in (("runs/ensemble", 1), ("runs/ensemble-2", 3)):
        words = ("--checkpoint", tiny_run / "best.pt", other, *SCALES, "--test.batch_size", size)
        ended = tool("eval_det", *words)
        assert (ended.status, ended.err) == (0, "")
        assert f"are in {folder}" in ended.out and (tmp_path / folder / "metrics.json").is_file()
    assert_rows_are(rows_of(Path("runs/ensemble-2")), rows_of(Path("runs/ensemble")))


def test_plus_over_a_recipe_is_what_its_settings_are_one_by_one(tool, tiny_run, tiny_data, recipe, output) -> None:
    """The file's five scales are made for 600 pixels; small ones on the command line win over it."""
    plus = yaml.safe_load((CONFIGS / "test" / "plus.yaml").read_text())["test"]
    assert plus.pop("scales") == [200, 400, 600, 800, 1000]
    assert set(plus) == {"refine", "vote_iou", "nms_iou"}
    words = [word for name, value in plus.items() for word in (f"--test.{name}", str(value).lower())]
    run = ("predict_det", "--checkpoint", tiny_run / "best.pt", "--input", tiny_data / "JPEGImages" / "000008.jpg")
    files = ("--config", recipe, "--config", CONFIGS / "test" / "plus.yaml")
    assert tool(*run, *files, *SCALES, "--output", output / "files").status == 0
    assert tool(*run, *words, *SCALES, "--output", output / "words").status == 0
    assert rows_of(output / "files") == rows_of(output / "words")


# Predicting and showing


def test_predicting_with_an_ensemble(tool, tiny_run, other, tiny_data, output) -> None:
    """What is written is what the ensemble says from Python; one member alone says something else."""
    picture, best = tiny_data / "JPEGImages" / "000009.jpg", tiny_run / "best.pt"
    ended = tool("predict_det", "--checkpoint", best, other, "--input", picture, *ALL, "--output", output)
    assert (ended.status, ended.err) == (0, "") and (output / "000009.jpg").is_file()
    together, alone = (load_detector(paths, "cpu", {"test": ADDED})(picture) for paths in ([best, other], best))
    scores = [row["score"] for row in rows_of(output)]
    assert scores == pytest.approx(together.scores.tolist(), abs=1e-6)
    assert scores != pytest.approx(alone.scores.tolist(), abs=1e-3)


def test_showing_an_ensemble(tool, tiny_run, other, output) -> None:
    words = ("--test.flip", "true", "--metric.bootstrap", 0, "--output", output)
    ended = tool("inspect_det", "--checkpoint", tiny_run / "best.pt", other, *words)
    assert ended.status == 0 and len(list((output / "pictures").iterdir())) == 5
    assert f'"ensemble of {tiny_run.name}, {other.name}"' in (output / "data.js").read_text()


def test_training_with_every_addition(tool, recipe, output) -> None:
    """A run scores itself with the settings of its recipe."""
    words = ("--model.global_context", "true", *ALL)
    assert tool("train_det", "--config", recipe, *words, "--output", output).status == 0
    assert_rows_are(rows_of(output), rows_by_python(output / "last.pt", {}))


# Users' mistakes: one sentence, exit status 2, before anything is read


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("name", "scales", "why"),
    [
        ("eval_det", "[64,48]", "test.scales [64,48]: give increasing sizes from 32 to 8192 pixels, as [200,400,"),
        ("predict_det", "[48,48,64]", "test.scales [48,48,64]: give increasing sizes"),
        ("inspect_det", "[64]", "test.scales [64]: a region is pooled from two adjacent scales; give two or more"),
    ],
)
def test_scales_that_do_not_increase_are_refused(refusal, tiny_run, tiny_data, name, scales, why) -> None:
    words = ("--input", tiny_data / "JPEGImages") if name == "predict_det" else ()
    assert why in refusal(name, "--checkpoint", tiny_run / "best.pt", *words, "--test.scales", scales)


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("name", ["eval_det", "predict_det", "inspect_det"])
def test_an_ensemble_of_other_classes_is_refused(refusal, tiny_run, tiny_data, tmp_path, name) -> None:
    words = ("--input", tiny_data / "JPEGImages") if name == "predict_det" else ()
    path = _written(tiny_run, tmp_path / "star.pt", names=("circle", "cross", "square", "star"))
    best = tiny_run / "best.pt"
    sentence = refusal(name, "--checkpoint", best, path, *words)
    path.unlink()
    assert f"{path}: its classes are not those of {best} (it lacks triangle and {best} does not know star)" in sentence


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("name", ["eval_det", "predict_det", "inspect_det"])
def test_context_is_not_switched_on_at_test(refusal, tiny_run, tiny_data, tmp_path, name) -> None:
    words = ("--input", tiny_data / "JPEGImages") if name == "predict_det" else ()
    run = (name, "--checkpoint", tiny_run / "best.pt", *words)
    said = refusal(*run, "--model.global_context", "true")
    assert "--model.global_context: this is fixed in training and comes with the checkpoint" in said
    (tmp_path / "context.yaml").write_text("model: {global_context: true}")
    said = refusal(*run, "--config", tmp_path / "context.yaml")
    assert f"{tiny_run / 'best.pt'}: it was trained with model.global_context false" in said
    assert "which cannot become true now" in said
