"""Both sides make the same of a file; the clock counts whole turns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection.benchmark import loader
from detection.benchmark.agreement import Disagreement
from detection.benchmark.case import Case, make_case
from detection.benchmark.loader import annotate, check_samples, find_pictures, loader_stage, write_pictures
from detection.benchmark.reference_loader import ReferenceBatch
from detection.errors import UserError


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(loader, "PICTURES", 4)
    monkeypatch.setattr(loader, "IMAGES_A_TURN", 4)
    return make_case({"backbone": "resnet18", "device": "cpu", "data": {"workers": 0}}, "c4", (96, 128), 2, 2)


def test_stored_pictures_become_the_batch(case: Case, tmp_path: Path) -> None:
    files = write_pictures(case, tmp_path)
    assert [Image.open(file).size for file in files[:2]] == [(60, 80), (80, 60)]
    pictures, boxes = check_samples(annotate(files), case.config)
    assert pictures.words.endswith("over 4 of 4 files") and boxes.stage == "boxes"


def test_other_pictures_are_noticed(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = annotate(write_pictures(case, tmp_path))
    darker = replace(case.config, model=replace(case.config.model, image_mean=(0.4, 0.4, 0.4)))
    reference = loader.ReferenceImages(annotations, darker, mirrored=0.0)
    monkeypatch.setattr(loader, "ReferenceImages", lambda *given, **named: reference)
    with pytest.raises(Disagreement, match="^pictures: they differ by .* levels on average, 2 are allowed$"):
        check_samples(annotations, case.config)


def test_pictures_of_other_sizes_are_nothing_to_compare(case: Case, tmp_path: Path) -> None:
    """A picture of 67 x 80 becomes 96 x 114.6 pixels, of which torchvision cuts off the fraction."""
    Image.fromarray(np.zeros((67, 80, 3), np.uint8)).save(tmp_path / "odd.jpg")
    with pytest.raises(Disagreement, match="nothing to compare"):
        check_samples(annotate(find_pictures(str(tmp_path))), case.config)


def test_both_sides_are_timed(case: Case) -> None:
    measured = loader_stage(case)
    assert [row.own for row in measured.rows] == ["ours", "ours, normalized on the CPU"]
    assert all(row.images == 4 and len(row.timing.seconds["peer"]) == 2 for row in measured.rows)


def test_the_reference_pads_as_torchvision_does(case: Case) -> None:
    batch, _ = ReferenceBatch(case.config)([(torch.ones(3, 96, 100), {}), (torch.ones(3, 90, 128), {})])
    assert batch.shape == (2, 3, 96, 128) and batch.sum() == 3 * (96 * 100 + 90 * 128)


def test_a_folder_without_pictures_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--pictures .*: there is no .jpg in it; name a folder that holds some"):
        find_pictures(str(tmp_path))


def test_drawn_files_are_as_large_as_those_of_voc(tmp_path: Path) -> None:
    case = make_case({"backbone": "resnet18"}, "c4", (600, 800), 1, 1)
    sizes = [file.stat().st_size for file in write_pictures(case, tmp_path)[:2]]
    assert all(60_000 < size < 110_000 for size in sizes)


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(UserError, match=r"a\.jpg: the image does not decode .*; restore or remove the file$"):
        annotate(find_pictures(str(tmp_path)))
