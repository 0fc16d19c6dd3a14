"""Two processes compute what one does: gradients, losses, detections and scores; and they stop together.

The file is also the program of each process: ``python test_two_processes.py MODE SETTINGS FOLDER WORD``.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detection import checkpoint, distributed
from detection.config import from_dict, overlay
from detection.data import read_annotations
from detection.data.transforms import TrainTransform
from detection.finalize import finalize
from detection.inference.predictor import load_detector
from detection.inspection import plots
from detection.model.build import build_detector
from detection.training.log import RunLog
from detection.training.loop import Loop
from detection.training.run import train

DOUBLE = {
    # Wide images in one process and tall ones in the other: their own padded sizes differ.
    "data": {"group_by_shape": False, "min_size": [64]},
    "model": {"roi": {"class_init_std": 0.1, "box_init_std": 0.1}},
    "train": {"batch_size": 4, "reference_batch": 4, "iterations": 2, "optimizer": "sgd", "lr": 0.01},
}


# What the processes do


class DoubleLoop(Loop):
    """The loop in double precision; keeps the gradients of every step."""

    def _next(self, batches):
        batch = super()._next(batches)
        self.shapes.append((tuple(batch.images.shape), *batch.sizes.amax(dim=0).tolist()))
        images = self.detector.normalize(batch).double()
        floats = {name: getattr(batch, name).double() for name in ("sizes", "original_sizes", "gt_boxes")}
        return dataclasses.replace(batch, images=images, **floats)

    def keep_gradients(self):
        self.kept, self.shapes, step = [], [], self.stepper.step

        def keeping(number):
            self.kept.append({name: p.grad.clone() for name, p in self.detector.named_parameters()})
            return step(number)

        self.stepper.step = keeping


def gradients(settings, folder):
    """Gradients of two steps, shapes of the batches; metrics.jsonl holds the losses."""
    config, _ = finalize(from_dict(overlay(settings, DOUBLE)), distributed.world_size())
    torch.manual_seed(distributed.rank())  # the main process's weights count
    detector, _ = build_detector(config, 4)
    folder.mkdir(exist_ok=True)
    log = RunLog(folder, config.train.iterations, enabled=distributed.is_main())
    loop = DoubleLoop(
        detector.double(), config, torch.device("cpu"), log, folder, TrainTransform(config.data, config.seed)
    )
    loop.keep_gradients()
    loop.run(read_annotations(config.data, "train"), lambda step: None, lambda: None)
    return {"gradients": loop.kept, "shapes": loop.shapes}


def predictions(settings, checkpoint_path):
    """All detections, and which images this process has computed."""
    predictor = load_detector(checkpoint_path, "cpu")
    run, computed = predictor.run, []

    def noting(images):
        (batch,) = images.values()
        computed.extend(batch.image_indices.tolist())
        return run(images)

    predictor.run = noting
    found = predictor.predict(read_annotations(from_dict(settings).data, "val"), lambda share: None)
    return {"detections": {name: torch.from_numpy(values) for name, values in vars(found).items()}, "seen": computed}


def compute(settings, folder, checkpoint_path):
    """Gradients, predictions, then a whole run in folder/run."""
    distributed.init_from_environment(torch.device("cpu"))
    result = {**gradients(settings, folder / "double"), **predictions(settings, checkpoint_path)}
    torch.save(result, folder / f"{distributed.rank()}.pt")
    distributed.shutdown()
    os.environ["MASTER_PORT"] = os.environ["PORTS"].split()[1]
    whole_run(settings, folder)


def whole_run(settings, folder, **train_settings):
    """A run of 2 iterations with a global batch of 4."""
    train_settings = {"batch_size": 4, "reference_batch": 4, "iterations": 2, **train_settings}
    given = overlay(settings, {"output": str(folder / "run"), "train": train_settings})
    train(from_dict(given), given)


def signalled(settings, folder, rank):
    """A run in which one process alone gets SIGTERM, in the middle of its second step."""
    backward, steps = Loop._backward, []

    def interrupted(self, batch, is_last):
        steps.append(batch)
        if len(steps) == 2 and distributed.rank() == int(rank):
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(self, batch, is_last)

    Loop._backward = interrupted
    whole_run(settings, folder, iterations=40)


# The tests


@pytest.fixture(scope="module")
def settings(tiny_run):
    """The settings of the tiny run, for another one."""
    return overlay(checkpoint.load(tiny_run)["config"], {"output": "", "train": {"ema_decay": 0.0}})


@pytest.fixture(scope="module")
def two(launch, settings, tiny_run, tmp_path_factory):
    """The results of both processes, and their folder."""
    folder = tmp_path_factory.mktemp("two")
    statuses, words = launch(__file__, "compute", settings, folder, str(tiny_run / "best.pt"))
    assert statuses == [0, 0], words
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)], folder, words


@pytest.fixture(scope="module")
def one(settings, tiny_run, tmp_path_factory):
    """The same from this process."""
    folder = tmp_path_factory.mktemp("one")
    result = {**gradients(settings, folder / "double"), **predictions(settings, tiny_run / "best.pt")}
    whole_run(settings, folder)
    return result, folder


def records(folder, *names):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[line[name] for name in names] for line in lines if names[0] in line]


def test_gradients_are_those_of_one_process(two, one):
    """In double precision, for two steps: the second begins from weights that the first has moved."""
    results, expected = two[0], one[0]
    for step in range(2):
        for name, gradient in expected["gradients"][step].items():
            assert gradient.dtype == torch.float64
            for result in results:
                torch.testing.assert_close(result["gradients"][step][name], gradient, rtol=1e-5, atol=1e-9, msg=name)
        assert max(float(gradient.abs().max()) for gradient in expected["gradients"][step].values()) > 1e-3


def test_images_are_padded_for_the_batch_of_both(two, one):
    """In the first step one process has images up to 64 x 80 pixels, the other up to 80 x 64."""
    first, second = (result["shapes"] for result in two[0])
    assert first[0] == ((2, 3, 128, 128), 64, 80)
    assert second[0] == ((2, 3, 128, 128), 80, 64)
    whole = [(2, *shape[1:]) for shape, *_ in one[0]["shapes"]]
    assert [shape for shape, *_ in first] == [shape for shape, *_ in second] == whole


def test_losses_that_are_reported_are_those_of_the_whole_batch(two, one):
    names = ("loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg", "gradient_norm")
    expected = records(one[1] / "double", *names)
    assert len(expected) == 2
    assert min(min(values) for values in expected) > 1e-3
    assert np.array(records(two[1] / "double", *names)) == pytest.approx(np.array(expected), rel=1e-9)


def test_every_image_is_computed_once(two):
    seen = [result["seen"] for result in two[0]]
    assert sorted(seen[0] + seen[1]) == [0, 1, 2, 3, 4]
    assert all(seen)


def test_detections_are_those_of_one_process(two, one):
    expected = one[0]["detections"]
    assert len(expected["scores"]) > 10
    for result in two[0]:
        found = result["detections"]
        assert torch.equal(found["image_indices"], expected["image_indices"])
        assert torch.equal(found["labels"], expected["labels"])
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-5, atol=1e-3)


def test_a_run_of_two_leaves_what_a_run_of_one_does(two, one):
    """In single precision, with random weights: the sums are rounded in another order."""
    folders = two[1] / "run", one[1] / "run"
    assert sorted(path.name for path in folders[0].iterdir()) == sorted(path.name for path in folders[1].iterdir())
    first, second = (np.array(records(folder, "loss", "lr")) for folder in folders)
    assert first.shape == (2, 2)
    assert first == pytest.approx(second, rel=1e-3)
    states = [checkpoint.load(folder)["model"] for folder in folders]
    assert all(torch.allclose(tensor, states[1][name], atol=5e-3) for name, tensor in states[0].items())
    assert records(folders[0], "VOC area mAP@0.5")
    assert load_detector(folders[0] / "best.pt", "cpu").class_names == ("circle", "cross", "square", "triangle")


def test_only_the_main_process_speaks(two):
    main, other = two[2]
    assert "batch 4 = 2 processes x 1 accumulated x 2 images" in main
    assert other == ""


def test_a_signal_to_one_process_stops_both_after_the_same_step(launch, settings, tmp_path):
    """As when a scheduler's signals do not arrive at once: nobody may wait for a process that has stopped."""
    statuses, words = launch(__file__, "signalled", settings, tmp_path, "1", seconds=120)
    assert statuses == [0, 0], words
    state = checkpoint.load(tmp_path / "run")
    assert state["step"] in (2, 3)
    assert f"stopped at iteration {state['step']} of 40" in words[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    plots._write = lambda *_: None  # takes longer than the rest
    {"compute": compute, "signalled": signalled}[sys.argv[1]](
        json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]), sys.argv[4]
    )
