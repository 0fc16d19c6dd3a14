"""Two processes train and score localizers as one does: losses, boxes, scores and errors.

The file is also the program of each process: ``python test_two_processes.py MODE SETTINGS FOLDER WORD``.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detection import checkpoint, distributed
from detection.config import from_dict, overlay
from detection.data import read_annotations
from detection.localization.load import load_locator
from detection.localization.run import train
from detection.localization.single import image_labels

EVAL = Path(__file__).parents[3] / "tools" / "eval_loc.py"
TRAIN = {"batch_size": 4, "reference_batch": 4, "iterations": 3}


# What the processes do


def trained(settings, folder, **loc):
    """A run of 3 iterations with a global batch of 4."""
    given = overlay(settings, {"output": str(folder), "train": TRAIN, "loc": loc})
    return train(from_dict(given), given)


def scored(checkpoint_path, folder):
    """What eval_loc writes of the validation set."""
    runpy.run_path(str(EVAL))["main"](["--checkpoint", str(checkpoint_path), "--output", str(folder)])


def located(settings, checkpoint_path):
    """Boxes and scores of the validation set."""
    data = read_annotations(from_dict(settings).data, "val")
    found = load_locator(checkpoint_path, "cpu").locate(data, image_labels(data)[:, None], lambda share: None)
    return {name: torch.from_numpy(values) for name, values in found._asdict().items()}


def compute(settings, folder, _):
    """An rpn in folder/rpn, the rcnn that looks at its proposals, the rcnn's boxes, and its errors in folder/eval."""
    ports = iter(os.environ["PORTS"].split())

    def next_group():
        os.environ["MASTER_PORT"] = next(ports)

    next_group()
    trained(settings, folder / "rpn")
    next_group()
    trained(settings, folder / "rcnn", method="rcnn", first_stage=str(folder / "rpn"))
    next_group()
    distributed.init_from_environment(torch.device("cpu"))
    torch.save(located(settings, folder / "rcnn"), folder / f"{distributed.rank()}.pt")
    distributed.shutdown()
    next_group()
    scored(folder / "rcnn", folder / "eval")


# The tests


@pytest.fixture(scope="module")
def settings(loc_run):
    """The settings of the tiny run, for another one; every random thing that may be on is on."""
    config = checkpoint.load(loc_run)["config"]
    data = {"augment": {"hflip": 0.5, "colour": 0.5}}
    return overlay(config, {"output": "", "train": {"ema_decay": 0.0}, "data": data})


@pytest.fixture(scope="module")
def two(launch, settings, tmp_path_factory):
    """The folder of both processes, and what they said."""
    folder = tmp_path_factory.mktemp("two")
    statuses, words = launch(__file__, "compute", settings, folder, "")
    assert statuses == [0, 0], words
    return folder, words


@pytest.fixture(scope="module")
def one(two, settings, tmp_path_factory):
    """The runs of this process; its rcnn looks at the proposals of the other two's rpn."""
    folder, theirs = tmp_path_factory.mktemp("one"), two[0]
    trained(settings, folder / "rpn")
    trained(settings, folder / "rcnn", method="rcnn", first_stage=str(theirs / "rpn"))
    return folder


def losses(folder):
    """Those of every step, with the norm of the gradient."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    names = sorted(name for name in steps[0] if "loss" in name or name == "gradient_norm")
    return names, np.array([[line[name] for name in names] for line in steps])


@pytest.mark.parametrize("method", ["rpn", "rcnn"])
def test_the_losses_are_those_of_one_process(two, one, method):
    """In single precision: the first step's sums are rounded in another order, the others start from there."""
    (names, found), (_, expected) = losses(two[0] / method), losses(one / method)
    assert len(names) > 2 and expected.shape == (3, len(names)) and expected.min() > 1e-3
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_boxes_and_scores_are_those_of_one_process(two, settings):
    expected = located(settings, two[0] / "rcnn")
    assert expected["boxes"].shape == (6, 1, 4) and (expected["scores"][1:] > 0).all()
    for rank in range(2):
        found = torch.load(two[0] / f"{rank}.pt")
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-5, atol=1e-3)


def test_what_two_processes_write_is_what_one_writes(two, tmp_path):
    scored(two[0] / "rcnn", tmp_path / "eval")
    for name in ("metrics.json", "localization.txt"):
        assert (two[0] / "eval" / name).read_text() == (tmp_path / "eval" / name).read_text()


def test_only_the_main_process_speaks(two):
    main, other = two[1]
    assert "batch 4 = 2 processes x 1 accumulated x 2 images" in main
    assert other == ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    compute(json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]), sys.argv[4])
