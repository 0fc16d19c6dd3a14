"""From settings to a run's settings: checked against each other, completed, said in sentences."""

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from detection.config import Config, DataSettings
from detection.errors import UserError

INFINITY = math.inf
LEAST_SCALE, LARGEST_SCALE = 32, 8192
"""Limits of `test.scales`: the coarsest stride, and what an image's memory still allows."""
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "data.workers": (0, 1024),
    "data.augment.crop": (0, 1),
    "data.augment.hflip": (0, 1),
    "data.augment.vflip": (0, 1),
    "data.augment.colour": (0, 1),
    "model.freeze_at": (0, 5),
    "model.rpn.channels": (0, INFINITY),
    "model.rpn.fg_iou": (0, 1),
    "model.rpn.bg_iou": (0, 1),
    "model.rpn.fg_fraction": (0, 1),
    "model.rpn.beta": (0, INFINITY),
    "model.rpn.box_weight": (0, INFINITY),
    "model.rpn.nms_iou": (0, 1),
    "model.rpn.score_threshold": (0, 1),
    "model.rpn.min_size": (0, INFINITY),
    "model.roi.pool_size": (0, INFINITY),
    "model.roi.dropout": (0, 1),
    "model.roi.fg_iou": (0, 1),
    "model.roi.bg_iou_low": (0, 1),
    "model.roi.fg_fraction": (0, 1),
    "model.roi.beta": (0, INFINITY),
    "model.roi.box_weight": (0, INFINITY),
    "train.momentum": (0, 1),
    "train.weight_decay": (0, INFINITY),
    "train.bias_lr_factor": (0, INFINITY),
    "train.gamma": (0, 1),
    "train.warmup_iterations": (0, INFINITY),
    "train.warmup_factor": (0, 1),
    "train.clip_norm": (0, INFINITY),
    "train.ema_decay": (0, 0.999999),
    "train.eval_every": (0, INFINITY),
    "train.checkpoint_every": (0, INFINITY),
    "train.stop_at": (0, INFINITY),
    "loc.fg_fraction": (0, 1),
    "loc.fg_iou": (0, 1),
    "loc.bg_iou": (0, 1),
    "loc.beta": (0, INFINITY),
    "loc.box_weight": (0, INFINITY),
    "loc.dropout": (0, 1),
    "test.score_threshold": (0, 1),
    "test.nms_iou": (0, 1),
    "test.refine_rounds": (1, 100),
    "test.vote_iou": (0, 1),
    "metric.bootstrap": (0, 1_000_000),
    "metric.voc.iou": (0, 1),
}
"""Smallest and largest value of each setting that has such."""

POSITIVE = (
    "data.min_size",
    "data.max_size",
    "data.test_min_size",
    "data.augment.scale_jitter",
    "model.pyramid_channels",
    "model.image_std",
    "model.rpn.anchor_sizes",
    "model.rpn.anchor_ratios",
    "model.rpn.samples",
    "model.rpn.pre_nms_train",
    "model.rpn.pre_nms_test",
    "model.rpn.post_nms_train",
    "model.rpn.post_nms_test",
    "model.roi.sampling_ratio",
    "model.roi.hidden",
    "model.roi.samples",
    "model.roi.box_weights",
    "model.roi.max_side_ratio",
    "loc.crop",
    "loc.scales",
    "loc.anchor_sizes",
    "loc.anchor_ratios",
    "loc.samples",
    "loc.box_weights",
    "loc.proposals",
    "loc.test_scales",
    "loc.test_crop_from",
    "train.iterations",
    "train.batch_size",
    "train.accumulate",
    "train.lr",
    "train.reference_batch",
    "train.log_every",
    "test.detections",
    "test.batch_size",
)
"""Settings that are above 0; of a list, every item, and there is at least one."""


def finalize(config: Config, world_size: int = 1) -> tuple[Config, list[str]]:
    """Check the settings and derive what follows from them.

    The result is complete: finalizing it again changes nothing, so that the ``config.yaml`` of a run repeats the run.

    Args:
        world_size: how many processes share each batch.

    Returns:
        The settings to run with, and one sentence for each derived value.

    Raises:
        UserError: two settings contradict each other, or a value is out of its range.
    """
    check(config)
    train = config.train
    each, rest = divmod(train.batch_size, world_size * train.accumulate)
    if rest:
        raise UserError(
            f"train.batch_size {train.batch_size} cannot be shared by {world_size} processes with train.accumulate "
            f"{train.accumulate}: give a multiple of {world_size * train.accumulate}"
        )
    is_scaled = train.batch_size != train.reference_batch  # otherwise the rounding of x 3 / 3 would change the rate
    lr = train.lr * train.batch_size / train.reference_batch if is_scaled else train.lr
    sentences = [
        f"learning rate {lr:g} = {train.lr:g} x batch {train.batch_size} / reference batch {train.reference_batch}",
        f"batch {train.batch_size} = {world_size} {'process' if world_size == 1 else 'processes'} x "
        f"{train.accumulate} accumulated x {each} images",
    ]
    train = dataclasses.replace(train, lr=lr, reference_batch=train.batch_size)
    return dataclasses.replace(config, train=train), sentences


def anchors(config: Config) -> str:
    """How many anchors there are at a place, in words."""
    rpn, is_pyramid = config.model.rpn, config.model.head == "fpn"
    count = len(rpn.anchor_ratios) * (1 if is_pyramid else len(rpn.anchor_sizes))
    sizes = ", ".join(f"{size:g}" for size in rpn.anchor_sizes)
    where = "each place of each level" if is_pyramid else "each place"
    return f"{count} anchors at {where} (sizes {sizes}; {len(rpn.anchor_ratios)} shapes)"


def check(config: Config) -> None:
    """Raises a UserError, naming the setting, unless every value is in its range and all go together."""
    for name, (low, high) in RANGES.items():
        if not low <= value_of(config, name) <= high:
            limit = f"from {low} to {high:g}" if high < INFINITY else f"of at least {low}"
            raise UserError(f"{name} {value_of(config, name)}: give a value {limit}")
    for name in POSITIVE:
        value = value_of(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(0 < item < INFINITY for item in values):
            shown = list(value) if isinstance(value, tuple) else value
            raise UserError(f"{name} {shown}: give {'values' if isinstance(value, tuple) else 'a value'} above 0")
    _check_model(config)
    _check_rest(config)


def require_unchanged(trained: Config, asked: Config, names: Sequence[str], path: str | Path) -> None:
    """Raises a UserError when settings were laid over a checkpoint that only training can change.

    Args:
        names: dotted names of settings that the weights in `path` belong to.
    """
    for name in names:
        before, now = value_of(trained, name), value_of(asked, name)
        if before != now:
            raise UserError(
                f"{path}: it was trained with {name} {json.dumps(before)}, which cannot become {json.dumps(now)} now; "
                "leave it out, and give no recipe but its own by --config"
            )


def value_of(config: Config, name: str) -> Any:
    """The setting with a dotted name."""
    return reduce(getattr, name.split("."), config)


def _check_model(config: Config) -> None:
    model, rpn, roi = config.model, config.model.rpn, config.model.roi
    if rpn.bg_iou > rpn.fg_iou:
        raise UserError(f"model.rpn.bg_iou {rpn.bg_iou} is above model.rpn.fg_iou {rpn.fg_iou}: lower it")
    if not roi.bg_iou_low < roi.bg_iou_high <= roi.fg_iou:
        raise UserError(
            f"model.roi: bg_iou_low {roi.bg_iou_low} < bg_iou_high {roi.bg_iou_high} <= fg_iou {roi.fg_iou} must hold"
        )
    if model.head == "fpn" and len(rpn.anchor_sizes) != 5:
        raise UserError(f"model.rpn.anchor_sizes has {len(rpn.anchor_sizes)} sizes: fpn takes 5, one for each level")
    if model.head == "fc" and roi.pool_size not in (0, 7):
        raise UserError(f"model.roi.pool_size {roi.pool_size}: VGG's fc6 reads 7 x 7 places, so leave it at 0")


def _check_rest(config: Config) -> None:
    train, data = config.train, config.data
    if list(train.steps) != sorted(set(train.steps)):
        raise UserError(f"train.steps {list(train.steps)} must increase")
    if config.resume and config.init_from:
        raise UserError("resume goes on with a run and init_from begins one: give one of them")
    if data.augment.scale_jitter[0] > data.augment.scale_jitter[1]:
        raise UserError(f"data.augment.scale_jitter {list(data.augment.scale_jitter)} must not decrease")
    if data.max_size < max(data.min_size):
        raise UserError(f"data.max_size {data.max_size} is below data.min_size {max(data.min_size)}: raise it")
    _check_scales(config.test.scales)
    _check_localization(config)
    if config.test.refine_rounds > 1 and not config.test.refine:
        raise UserError(f"test.refine_rounds {config.test.refine_rounds}: give test.refine true too, or no rounds")
    if data.test_max_size < data.test_min_size:
        raise UserError(f"data.test_max_size {data.test_max_size} is below data.test_min_size: raise it")
    if data.format in ("shapes", "single_shapes") and data.root == DataSettings.root:
        raise UserError(
            f"data.root {data.root} is the place of PASCAL VOC: name another folder for the built-in shapes"
        )
    if train.precision == "fp16" and config.device == "cpu":
        raise UserError("train.precision fp16 needs a GPU: use bf16 or fp32")


def _check_localization(config: Config) -> None:
    loc = config.loc
    if loc.method == "pcr" and loc.test == "dense":
        raise UserError("loc.test dense: pcr has no score to choose among places by; give loc.test 1crop")
    if loc.method == "rpn" and int(loc.samples * loc.fg_fraction) < 1:
        raise UserError(
            f"loc.samples {loc.samples} x loc.fg_fraction {loc.fg_fraction}: no positive is left; raise them"
        )
    if loc.bg_iou > loc.fg_iou:
        raise UserError(f"loc.bg_iou {loc.bg_iou} is above loc.fg_iou {loc.fg_iou}: lower it")
    if loc.scales[0] > loc.scales[1]:
        raise UserError(f"loc.scales {list(loc.scales)} must not decrease")
    if list(loc.test_scales) != sorted(set(loc.test_scales)):
        raise UserError(f"loc.test_scales {list(loc.test_scales)} must increase")


def _check_scales(scales: tuple[int, ...]) -> None:
    shown = f"test.scales [{','.join(map(str, scales))}]"
    if len(scales) == 1:
        raise UserError(
            f"{shown}: a region is pooled from two adjacent scales; give two or more, or one by data.test_min_size"
        )
    if list(scales) != sorted(set(scales)) or any(not LEAST_SCALE <= scale <= LARGEST_SCALE for scale in scales):
        raise UserError(
            f"{shown}: give increasing sizes from {LEAST_SCALE} to {LARGEST_SCALE} pixels, as [200,400,600,800,1000]"
        )
