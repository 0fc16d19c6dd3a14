"""One process's loop: what a step computes, what stops it, and what is left when a loss is not finite."""

import json
import os
import signal
from itertools import islice

import pytest
import torch

from detection import checkpoint, distributed
from detection.config import from_dict, overlay
from detection.data import read_annotations
from detection.data.dataset import read_image
from detection.data.loader import TrainingBatches, training_loader
from detection.data.transforms import TrainTransform
from detection.errors import UserError
from detection.finalize import finalize
from detection.model.build import build_detector
from detection.training.log import RunLog
from detection.training.loop import Loop

LOSSES = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


@pytest.fixture
def loop_of(tiny_config, tmp_path):
    """Makes a loop, and the training set, from the tiny settings with others laid over them."""

    def make(**given):
        config, _ = finalize(from_dict(overlay(tiny_config, given)))
        torch.manual_seed(config.seed)
        detector, _ = build_detector(config, 4)
        log = RunLog(tmp_path, config.train.iterations, config.train.log_every)
        data = read_annotations(config.data, config.data.train)
        return Loop(
            detector, config, torch.device("cpu"), log, tmp_path, TrainTransform(config.data, config.seed)
        ), data

    return make


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def nothing(*_):
    """Neither scores nor saves."""


def poison(loop, name, step, value=float("nan")):
    """Makes the loss `name` of iteration `step` (counted from 1) equal to `value`; its gradients are not finite."""
    forward, seen = loop.detector.forward, []

    def poisoned(batch):
        losses = forward(batch)
        seen.append(batch)
        if len(seen) == step:
            losses[name] = losses[name] * value
        return losses

    loop.detector.forward = poisoned
    return seen


# Steps


def test_a_step_is_one_of_sgd_on_the_sum_of_the_losses(loop_of):
    """With rate 1 and nothing else the weights move by the gradients, which are computed here by themselves."""
    settings = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
    schedule = {"schedule": "multistep", "steps": [], "warmup_iterations": 0, "iterations": 1}
    loop, data = loop_of(train={**settings, **schedule})
    other, _ = loop_of()
    batch = next(iter(training_loader(data, loop.config.data, loop.transform, batch_size=2, seed=0, padding=64)))
    detector = other.detector.train()
    losses = detector(batch)
    sum(losses.values()).backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in detector.parameters()])
    assert loop.run(data, nothing, nothing)
    for (name, moved), still in zip(loop.detector.named_parameters(), detector.parameters(), strict=True):
        torch.testing.assert_close(moved, still - still.grad, rtol=1e-5, atol=1e-7, msg=name)
    (line,) = records(loop.folder)
    assert {name: line[name] for name in LOSSES} == pytest.approx({name: losses[name].item() for name in LOSSES})
    assert line["loss"] == pytest.approx(sum(losses.values()).item())
    assert line["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert (line["step"], line["lr"]) == (1, 1.0)


def test_accumulated_parts_count_as_their_mean(loop_of):
    """Two parts of two images, one after the other, before a single update."""
    train = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0, "schedule": "multistep"}
    train |= {"steps": [], "warmup_iterations": 0, "iterations": 1, "lr": 0.5, "batch_size": 4, "reference_batch": 4}
    loop, data = loop_of(train={**train, "accumulate": 2})
    other, _ = loop_of()
    detector = other.detector.train()
    batches = list(islice(training_loader(data, loop.config.data, loop.transform, batch_size=2, seed=0, padding=64), 2))
    assert [batch.positions.tolist() for batch in batches] == [[0, 1], [2, 3]]
    for batch in batches:
        (sum(detector(batch).values()) / 2).backward()
    assert loop.run(data, nothing, nothing)
    for (name, moved), still in zip(loop.detector.named_parameters(), detector.parameters(), strict=True):
        torch.testing.assert_close(moved, still - 0.5 * still.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_dropout_draws_anew_in_each_step_and_part_but_by_the_seed_alone(loop_of):
    train = {"accumulate": 2, "iterations": 3}

    def draws(seed):
        loop, data = loop_of(seed=seed, train=train)
        forward, drawn = loop.detector.forward, []

        def drawing(batch):
            drawn.append(float(torch.rand(())))
            return forward(batch)

        loop.detector.forward = drawing
        torch.manual_seed(99)  # whatever was drawn before makes no difference
        loop.run(data, nothing, nothing)
        return drawn

    first = draws(0)
    assert len(set(first)) == 6
    torch.rand(5)
    assert draws(0) == first
    assert not set(draws(1)) & set(first)


@pytest.mark.parametrize("seed", [0, 2**24, 20240229])
def test_any_seed_will_do(loop_of, seed):
    """A date is a usual one."""
    loop, data = loop_of(seed=seed, train={"iterations": 1})
    assert loop.run(data, nothing, nothing)


def test_half_precision_on_the_cpu_is_near_the_full_one(loop_of):
    lines = {}
    for precision in ("fp32", "bf16"):
        loop, data = loop_of(train={"precision": precision, "iterations": 1})
        assert loop.run(data, nothing, nothing)
        lines[precision] = records(loop.folder)[-1]
        assert all(parameter.dtype == torch.float32 for parameter in loop.detector.parameters())
    for name in ("loss_classifier", "loss_objectness"):  # box losses hang on which regions are proposed
        assert lines["bf16"][name] == pytest.approx(lines["fp32"][name], rel=0.02)
        assert lines["bf16"][name] != lines["fp32"][name]


def test_rates_are_plausible(loop_of):
    """Two images a step: no step of this size takes less than a millisecond."""
    loop, data = loop_of(train={"iterations": 4, "checkpoint_every": 2})
    loop.run(data, nothing, nothing)
    for line in records(loop.folder):
        assert 0 < line["images/s"] < 2000, line
        assert 0 <= line["waiting"] <= 1
        assert line["memory"] > 2**20


# The course of a run


def test_scores_and_checkpoints_come_when_they_are_due(loop_of):
    loop, data = loop_of(train={"iterations": 7, "eval_every": 3, "checkpoint_every": 2})
    course = []
    assert loop.run(data, lambda step: course.append(("score", step)), lambda: course.append(("save", loop.done)))
    assert course == [
        ("save", 2), ("save", 3), ("score", 3), ("save", 3), ("save", 4), ("save", 6), ("score", 6), ("save", 6),
        ("save", 7), ("score", 7), ("save", 7),
    ]  # fmt: skip


def test_by_default_only_the_end_is_scored(loop_of):
    loop, data = loop_of(train={"iterations": 3, "eval_every": 0, "checkpoint_every": 0})
    course = []
    loop.run(data, lambda step: course.append(("score", step)), lambda: course.append(("save", loop.done)))
    assert course == [("save", 3), ("score", 3), ("save", 3)]


def test_records_are_written_every_so_many_iterations_and_at_the_end(loop_of):
    loop, data = loop_of(train={"iterations": 5, "log_every": 2})
    loop.run(data, nothing, nothing)
    assert [line["step"] for line in records(loop.folder)] == [2, 4, 5]


def test_stop_at_saves_and_ends_without_scoring(loop_of):
    loop, data = loop_of(train={"iterations": 5, "stop_at": 2})
    course = []
    assert not loop.run(data, lambda step: course.append("score"), lambda: course.append(loop.done))
    assert course == [2]
    assert [line["step"] for line in records(loop.folder)] == [1, 2]


def test_sigterm_ends_soon_and_gives_the_signal_back(loop_of):
    loop, data = loop_of(train={"iterations": 5})
    forward, saved = loop.detector.forward, []

    def signalled(batch):
        if batch.positions[0] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(batch)

    loop.detector.forward = signalled
    before = signal.getsignal(signal.SIGTERM)
    assert not loop.run(data, nothing, lambda: saved.append(loop.done))
    assert saved in ([2], [3])  # the processes may have to agree in another step
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_is_not_lost_while_the_processes_agree(loop_of, monkeypatch):
    """It may come while this process waits for the others' word, after its own was given."""
    loop, data = loop_of(train={"iterations": 5})
    saved, asked = [], []

    def interrupted(values):
        asked.append(values)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    monkeypatch.setattr(distributed, "max_over_processes", interrupted)
    assert not loop.run(data, nothing, lambda: saved.append(loop.done))
    assert len(saved) == 1
    assert saved[0] in (2, 3)


def test_the_moving_average_is_what_is_scored(loop_of):
    loop, data = loop_of(train={"iterations": 2, "ema_decay": 0.9})
    steps = [loop.detector.roi_heads.box_predictor.cls_score.weight.detach().clone()]
    advance = loop.advance

    def noting(batches):
        outcome = advance(batches)
        steps.append(loop.detector.roi_heads.box_predictor.cls_score.weight.detach().clone())
        return outcome

    loop.advance = noting
    loop.run(data, nothing, nothing)
    found = loop.scored_detector.roi_heads.box_predictor.cls_score.weight
    torch.testing.assert_close(found.detach(), 0.81 * steps[0] + 0.09 * steps[1] + 0.1 * steps[2])
    assert not torch.equal(found, steps[2])
    plain, _ = loop_of()
    assert plain.scored_detector is plain.detector


# Losses that are not finite


@pytest.mark.parametrize(
    ("name", "value"), [*((name, float("nan")) for name in sorted(LOSSES)), ("loss_classifier", float("inf"))]
)
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_images(loop_of, name, value):
    loop, data = loop_of(train={"iterations": 6, "checkpoint_every": 2})
    poison(loop, name, 3, value)
    saved = []
    with pytest.raises(UserError) as caught:
        loop.run(data, nothing, lambda: saved.append(loop.done))
    sentence = str(caught.value)
    keys = next(islice(iter(TrainingBatches(data.sizes, 2, loop.config.seed, True)), 2, None))
    files = [str(data.image_paths[index]) for _, index in keys]
    assert sentence.startswith("iteration 3: ")
    assert name in sentence.partition(" not finite on ")[0]
    assert not any(other in sentence for other in LOSSES - {name})
    assert sentence.partition(" not finite on ")[2].startswith(f"{files[0]}, {files[1]};")
    assert "\n" not in sentence
    assert saved == [2]


def test_the_batch_of_a_loss_that_is_not_finite_is_kept(loop_of):
    loop, data = loop_of(train={"iterations": 6, "accumulate": 2})
    seen = poison(loop, "loss_objectness", 5)  # the first part of the third step
    with pytest.raises(UserError) as caught:
        loop.run(data, nothing, nothing)
    path = loop.folder / "nonfinite_batch_0.pt"
    assert str(path) in str(caught.value)
    parts = torch.load(path, weights_only=True)
    assert len(parts) == 2
    for part, batch in zip(parts, seen[4:6], strict=True):
        assert part.keys() == vars(batch).keys()
        assert all(torch.equal(part[name], tensor) for name, tensor in vars(batch).items())
    index = int(parts[0]["image_indices"][0])
    rows, columns = parts[0]["original_sizes"][0].tolist()
    assert read_image(data.image_paths[index]).shape[:2] == (rows, columns)


def test_the_weights_are_not_updated_with_it(loop_of):
    """Neither the weights nor their average know of the bad step, though the next one was on its way already."""
    loop, data = loop_of(train={"iterations": 3, "ema_decay": 0.5})
    poison(loop, "loss_box_reg", 3)
    with pytest.raises(UserError, match="iteration 3"):
        loop.run(data, nothing, nothing)
    good, _ = loop_of(train={"iterations": 3, "stop_at": 2, "ema_decay": 0.5})
    good.run(data, nothing, nothing)
    for first, second in ((loop.detector, good.detector),):
        expected = second.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in first.state_dict().items())


def test_a_checkpoint_is_never_written_after_a_bad_step(loop_of):
    """Not even when it is due right after that step."""
    loop, data = loop_of(train={"iterations": 6, "checkpoint_every": 1})
    poison(loop, "loss_classifier", 2)
    path = loop.folder / "last.pt"
    with pytest.raises(UserError, match="iteration 2: .*loss_classifier"):
        loop.run(data, nothing, lambda: checkpoint.save(path, loop.state()))
    assert checkpoint.load(path)["step"] == 1


def test_an_image_that_does_not_decode_is_named(loop_of, tmp_path):
    loop, data = loop_of()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    paths = data.image_paths.astype(object)
    paths[:] = str(broken)
    data.image_paths = paths
    with pytest.raises(UserError, match="broken.jpg: the image does not decode"):
        loop.run(data, nothing, nothing)


def test_fp16_needs_a_gpu(loop_of):
    with pytest.raises(UserError, match="train.precision fp16 needs a GPU"):
        loop_of(device="auto" if not torch.cuda.is_available() else "cpu", train={"precision": "fp16"})
