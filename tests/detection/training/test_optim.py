"""Rates against torch's schedulers and closed forms; guarded steps bit for bit; the moving average by hand."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from detection.config import TrainSettings
from detection.training.optim import MovingAverage, Stepper, lr_factor, parameter_groups

NAN, INF = float("nan"), float("inf")
OPTIMIZERS = ("sgd", "adamw")


def network():
    """A convolution, two kinds of normalization, and a linear layer; the first convolution is frozen."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.Linear(4, 2)
    model = nn.Sequential(*layers)
    model[0].requires_grad_(False)
    return model


def stepper(model, scaler=None, **settings):
    settings = {"schedule": "multistep", "steps": (), "warmup_iterations": 0, "lr": 0.1, **settings}
    return Stepper(model, TrainSettings(**settings), scaler or torch.amp.GradScaler("cpu", enabled=False))


def set_gradients(model, number, bad=None):
    """Gradients that depend on `number` alone; one of their values is `bad`."""
    generator = torch.Generator().manual_seed(number)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    if bad is not None:
        trained[-1].grad.view(-1)[0] = bad


def everything(model, optimizer):
    """Weights and all tensors of the optimizer's state, copied, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state = {
        f"{names[id(parameter)]}.{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    return copy.deepcopy({**dict(model.named_parameters()), **state})


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# Learning rates


@pytest.mark.parametrize("iterations", [5, 10, 33, 300, 1000])
def test_one_cycle_is_torchs(iterations):
    lr = 0.004
    settings = TrainSettings(schedule="onecycle", iterations=iterations, lr=lr, warmup_iterations=500)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=iterations)
    expected = []
    for _ in range(iterations):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < iterations:
            scheduler.step()
    assert [lr * lr_factor(step, settings) for step in range(iterations)] == pytest.approx(expected, rel=1e-9)


def test_multistep_and_warm_up_are_torchs():
    settings = TrainSettings(
        schedule="multistep", iterations=60, steps=(20, 45), gamma=0.3, warmup_iterations=10, warmup_factor=0.01
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 45], gamma=0.3)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=10)
    for step in range(60):
        assert lr_factor(step, settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        optimizer.step()
        rise.step()
        steps.step()


def test_multistep_at_its_corners():
    settings = TrainSettings(steps=(6, 8), gamma=0.1, warmup_iterations=4, warmup_factor=0.2, iterations=10)
    expected = [0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [lr_factor(step, settings) for step in range(10)] == pytest.approx(expected, rel=1e-12)


def test_cosine_is_half_a_wave_times_the_warm_up():
    settings = TrainSettings(schedule="cosine", iterations=100, warmup_iterations=20, warmup_factor=0.1)
    for step in range(100):
        rise = min(1.0, 0.1 + 0.9 * step / 20)
        assert lr_factor(step, settings) == pytest.approx(rise * math.cos(math.pi * step / 200) ** 2, rel=1e-12)


def test_no_warm_up():
    settings = TrainSettings(schedule="cosine", iterations=4, warmup_iterations=0)
    assert [lr_factor(step, settings) for step in range(4)] == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])


# Parameter groups


def test_groups_hold_each_trained_parameter_once_with_its_decay_and_rate():
    model = network()
    settings = TrainSettings(weight_decay=0.01, bias_lr_factor=2.0, bias_weight_decay=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["weight_decay"], group["lr_factor"])
        for group in parameter_groups(model, settings)
        for parameter in group["params"]
    }
    assert found == {
        "1.weight": (0.0, 1.0),
        "1.bias": (0.0, 1.0),
        "2.weight": (0.01, 1.0),
        "3.weight": (0.0, 1.0),
        "3.bias": (0.0, 1.0),
        "4.weight": (0.01, 1.0),
        "4.bias": (0.0, 2.0),
    }
    assert sum(len(group["params"]) for group in parameter_groups(model, settings)) == 7
    decaying = parameter_groups(model, dataclasses.replace(settings, bias_weight_decay=True))
    assert [group["weight_decay"] for group in decaying if group["lr_factor"] == 2.0] == [0.01]


def test_a_network_without_normalization_has_no_empty_group():
    groups = parameter_groups(nn.Linear(2, 2, bias=False), TrainSettings())
    assert [len(group["params"]) for group in groups] == [1]


def test_rates_of_a_step_follow_the_schedule_and_the_groups():
    model = network()
    steps = stepper(model, lr=0.5, steps=(3,), gamma=0.1, bias_lr_factor=2.0)
    for number, rate in ((2, 0.5), (3, 0.05)):
        set_gradients(model, number)
        steps.step(number)
        assert [group["lr"] for group in steps.optimizer.param_groups] == pytest.approx([rate, 2 * rate, rate])


# Steps


def test_sgd_is_torchs_own_from_the_first_step_on():
    """The momentum that is set to 0 beforehand makes no difference to torch's rule."""
    model, other = network(), network()
    ours = stepper(model, momentum=0.9, weight_decay=0.0)
    theirs = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for number in range(3):
        set_gradients(model, number)
        set_gradients(other, number)
        ours.step(number)
        theirs.step()
    for (name, first), second in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("when", [0, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bad_step_leaves_no_trace(optimizer, when, clip_norm, bad):
    """Weights, momentum and counters stay bit for bit, and the next step is as if there had been no bad one."""
    model, undisturbed = network(), network()
    guarded = stepper(model, optimizer=optimizer, clip_norm=clip_norm)
    reference = stepper(undisturbed, optimizer=optimizer, clip_norm=clip_norm)
    for number in range(when):
        for part, steps in ((model, guarded), (undisturbed, reference)):
            set_gradients(part, number)
            steps.step(number)
    before = everything(model, guarded.optimizer)
    set_gradients(model, 7, bad)
    assert not torch.isfinite(guarded.step(when))
    assert all(parameter.grad is None for parameter in model.parameters())
    after = everything(model, guarded.optimizer)
    if when:
        assert_same(before, after)
    else:  # AdamW makes its state, all zeros, in the first step
        assert_same(before, {name: value for name, value in after.items() if name in before})
        assert all(not value.any() for name, value in after.items() if name not in before)
    for part, steps in ((model, guarded), (undisturbed, reference)):
        set_gradients(part, 8)
        steps.step(when + 1)
    assert_same(everything(model, guarded.optimizer), everything(undisturbed, reference.optimizer))
    assert not torch.equal(after["4.weight"], model[4].weight)


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_is_torchs(limit):
    model, other = network(), network()
    steps = stepper(model, momentum=0.0, weight_decay=0.0, lr=1.0, clip_norm=limit)
    set_gradients(model, 3)
    set_gradients(other, 3)
    norm = steps.step(0)
    expected = nn.utils.clip_grad_norm_(other.parameters(), limit)
    torch.testing.assert_close(norm, expected)
    for (name, first), second in zip(model.named_parameters(), other.parameters(), strict=True):
        change = 0 if second.grad is None else second.grad
        torch.testing.assert_close(first, second - change, rtol=1e-6, atol=1e-7, msg=name)


def test_the_norm_is_that_of_all_gradients_before_clipping():
    model = network()
    steps = stepper(model, clip_norm=0.01)
    set_gradients(model, 3)
    expected = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.requires_grad))
    assert float(steps.step(0)) == pytest.approx(expected, rel=1e-6)


def test_a_parameter_without_gradient_is_left_alone():
    model = network()
    steps = stepper(model)
    set_gradients(model, 1)
    model[4].bias.grad = None
    before = everything(model, steps.optimizer)
    steps.step(0)
    after = everything(model, steps.optimizer)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in changed if "momentum" not in name} == {
        "1.weight",
        "1.bias",
        "2.weight",
        "3.weight",
        "3.bias",
        "4.weight",
    }


def test_a_scaler_undoes_its_scale_and_skips_an_overflow():
    """As in fp16: gradients arrive multiplied; a step that overflows halves the scale and moves nothing."""
    model, other = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    scaled, plain = stepper(model, scaler, clip_norm=1.0), stepper(other, clip_norm=1.0)
    for number, part, steps in ((0, model, scaled), (0, other, plain)):
        set_gradients(part, number)
        if steps is scaled:
            scaler.scale(torch.ones(()))  # a scaler has no scale before it has multiplied a loss
            for parameter in part.parameters():
                parameter.grad = None if parameter.grad is None else parameter.grad * 1024
        steps.step(number)
    for (name, first), second in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7, msg=name)
    before = everything(model, scaled.optimizer)
    scaler.scale(torch.ones(()))
    set_gradients(model, 1, INF)
    scaled.step(1)
    assert_same(before, everything(model, scaled.optimizer))
    assert scaler.get_scale() == 512.0


# Moving average


def test_moving_average_over_three_updates():
    """a0 = w0, then a = decay * a + (1 - decay) * w: for weights and for running statistics."""
    model, decay = network(), 0.75
    weights, means = (5.0, 1.0, 4.0, 9.0), (-2.0, 10.0, 20.0, 30.0)
    average = None
    for weight, mean in zip(weights, means, strict=True):
        with torch.no_grad():
            model[4].weight.fill_(weight)
            model[1].running_mean.fill_(mean)
        if average is None:
            average = MovingAverage(model, decay)
        else:
            average.update()
    for found, values in ((average.module[4].weight, weights), (average.module[1].running_mean, means)):
        expected = sum(value * share for value, share in zip(values, (27 / 64, 9 / 64, 12 / 64, 16 / 64), strict=True))
        torch.testing.assert_close(found, torch.full_like(found, expected))
    assert torch.equal(average.module[0].weight, model[0].weight)  # frozen: equal throughout
    assert model[4].weight[0, 0].item() == 9.0
    assert not average.module.training
