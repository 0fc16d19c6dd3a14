"""Proposals of a set, computed once and kept in a file."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detection.config import from_dict, overlay
from detection.data import read_annotations
from detection.data.dataset import Annotations, keep_images
from detection.errors import UserError
from detection.localization.load import load_first_stage
from detection.localization.locate import Locator, LocMember
from detection.localization.proposals import kept_proposals
from detection.localization.single import image_labels

CPU = torch.device("cpu")
COUNT = 7


@pytest.fixture
def data(loc_config: dict[str, Any]) -> Annotations:
    """The training images that have a box."""
    read = read_annotations(from_dict(loc_config).data, "train")
    return keep_images(read, image_labels(read) > 0)


@pytest.fixture
def stage(loc_config: dict[str, Any], loc_run: Path, data: Annotations) -> Locator:
    """A trained rpn."""
    given = {"loc": {"method": "rcnn", "first_stage": str(loc_run)}, "test": {"batch_size": 3}}
    config = from_dict(overlay(loc_config, given))
    found = load_first_stage(config, data.class_names, CPU)
    assert found.config.test.batch_size == 3  # how much memory it takes is the second stage's to say
    return found


def kept(folder: Path, stage: Locator, data: Annotations, count: int = COUNT) -> tuple[np.ndarray, int]:
    """The proposals, and how many batches of images were looked at for them."""
    shares: list[float] = []
    found = kept_proposals(folder, stage, data, count, shares.append)
    return found, len(shares)


def test_they_are_the_best_boxes_of_each_images_class(stage, data, tmp_path):
    found, _ = kept(tmp_path, stage, data)
    assert found.shape == (len(data), COUNT, 4) and found.dtype == np.float32
    for index, label in enumerate(image_labels(data).tolist()):
        boxes, _ = stage.propose(str(data.image_paths[index]), label, COUNT)
        assert found[index, : len(boxes)] == pytest.approx(boxes, abs=1e-3)
        assert not found[index, len(boxes) :].any()


def test_a_second_time_they_are_read(stage, data, tmp_path):
    first, looked = kept(tmp_path, stage, data)
    again, looked_again = kept(tmp_path, stage, data)
    assert looked > 0 and looked_again == 0
    assert np.array_equal(first, again)
    assert not again.flags.writeable and isinstance(again, np.memmap)
    (file,) = tmp_path.iterdir()
    assert np.array_equal(np.load(file), first)


def test_whatever_they_follow_from_makes_them_anew(stage, data, tmp_path):
    kept(tmp_path, stage, data)
    member = stage.members[0]
    loc = dataclasses.replace(member.config.loc, test="1crop")
    other = LocMember(member.localizer, dataclasses.replace(member.config, loc=loc))
    changes = [
        (stage, data, COUNT - 1),
        (stage, keep_images(data, np.arange(len(data)) > 0), COUNT),
        (Locator([other], stage.class_names, CPU), data, COUNT),
    ]
    for locator, annotations, count in changes:
        assert kept(tmp_path, locator, annotations, count)[1] > 0
    with torch.no_grad():
        next(iter(member.localizer.parameters())).mul_(2)
    assert kept(tmp_path, stage, data)[1] > 0
    assert len({*tmp_path.glob("proposals-*.npy")}) == 5


def test_an_unfinished_file_is_made_anew(stage, data, tmp_path):
    expected, _ = kept(tmp_path, stage, data)
    (file,) = tmp_path.iterdir()
    file.rename(file.with_suffix(".part"))
    found, looked = kept(tmp_path, stage, data)
    assert looked > 0 and np.array_equal(found, expected)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_full_disk_is_told_before_anything_is_computed(stage, data, tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    with pytest.raises(UserError, match=r"needs 0\.0 GB, 0\.0 are free; choose another --output") as caught:
        kept(tmp_path, stage, data)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
