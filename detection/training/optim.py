"""Parameter groups, learning rate, guarded optimizer steps, moving average."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detection.config import TrainSettings
from detection.errors import UserError

ONECYCLE_RISE, ONECYCLE_START, ONECYCLE_END = 0.3, 1 / 25, 1 / 25e4
"""One-cycle: share of the run in which the rate rises, and its first and last value relative to the highest (torch)."""


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict]:
    """The trained parameters: weights, biases, and those of normalization, each with its rate and decay.

    Normalization parameters do not decay; biases have `bias_lr_factor` times the rate and decay if the settings say so
    (Faster R-CNN's code: twice the rate, no decay).
    """
    weights, biases, norms = [], [], []
    for module in model.modules():
        is_norm = isinstance(module, _BatchNorm | nn.GroupNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (norms if is_norm else biases if name == "bias" else weights).append(parameter)
    decay = settings.weight_decay
    groups = [
        {"params": weights, "weight_decay": decay, "lr_factor": 1.0},
        {
            "params": biases,
            "weight_decay": decay if settings.bias_weight_decay else 0.0,
            "lr_factor": settings.bias_lr_factor,
        },
        {"params": norms, "weight_decay": 0.0, "lr_factor": 1.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW, in the fused form whose update can be skipped on the device."""
    groups = parameter_groups(model, settings)
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
        # torch allocates momentum in the first step and leaves it unset when that step is skipped.
        for parameter in [parameter for group in groups for parameter in group["params"]]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def lr_factor(step: int, settings: TrainSettings) -> float:
    """Share of the learning rate at `step`, counted from 0: a function of the step alone, so that resuming is exact."""
    if settings.schedule == "onecycle":
        return one_cycle(step, settings.iterations)
    factor = 1.0
    if step < settings.warmup_iterations:
        factor = settings.warmup_factor + (1 - settings.warmup_factor) * step / settings.warmup_iterations
    if settings.schedule == "cosine":
        return factor * 0.5 * (1 + math.cos(math.pi * step / settings.iterations))
    return factor * settings.gamma ** sum(step >= boundary for boundary in settings.steps)


def one_cycle(step: int, iterations: int) -> float:
    """The one-cycle policy (Smith and Topin, arXiv 1708.07120) with cosine flanks, peaking where torch's does."""
    peak = max(ONECYCLE_RISE * iterations - 1, 1e-9)
    if step <= peak:
        start, end, share = ONECYCLE_START, 1.0, step / peak
    else:
        start, end, share = 1.0, ONECYCLE_END, (step - peak) / (iterations - 1 - peak)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class Stepper:
    """One optimizer step from accumulated gradients, skipped on the device when a gradient is not finite.

    Nothing is read back to the host: the norm of the gradients decides on the device. In fp16 the gradients were
    scaled up, and a scaler that overflowed skips the step too and lowers the scale.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, scaler: torch.amp.GradScaler) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(model, settings)
        self.settings = settings
        self.scaler = scaler

    def step(self, number: int) -> Tensor:
        """Update the weights at the rate of step `number`; returns the norm of the gradients, still on the device."""
        set_learning_rate(self.optimizer, self.settings.lr * lr_factor(number, self.settings))
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)
        if self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip_norm, norm, foreach=True)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.found_inf = (~torch.isfinite(norm)).float()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def restore(self, optimizer: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Take over the state of another process; rates and decays stay those of the settings.

        Raises:
            UserError: the state is of other parameters.
        """
        kept = [{name: value for name, value in g.items() if name != "params"} for g in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(optimizer)
        except ValueError:
            raise UserError(
                "--resume: the run trained other stages (model.freeze_at); start anew with --init_from"
            ) from None
        for group, settings in zip(self.optimizer.param_groups, kept, strict=True):
            group.update(settings)
        if scaler:
            self.scaler.load_state_dict(scaler)


class MovingAverage:
    """A copy of the model whose weights and statistics follow it slowly (Polyak averaging), without leaving the device.

    Frozen parameters and whole-numbered buffers never differ from the model's and are left alone.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval()
        self._decay = decay
        self._averaged, self._current = moving_tensors(self.module), moving_tensors(model)

    @torch.no_grad()
    def update(self) -> None:
        """average <- decay x average + (1 - decay) x model"""
        torch._foreach_lerp_(self._averaged, self._current, 1 - self._decay)


def moving_tensors(model: nn.Module) -> list[Tensor]:
    """What training changes: trained parameters, and statistics of batch normalization."""
    statistics = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    trained = [parameter.data for parameter in model.parameters() if parameter.requires_grad]
    return trained + [value for layer in statistics for value in (layer.running_mean, layer.running_var)]
