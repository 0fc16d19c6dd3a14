"""Trained localizers from their checkpoints, with the first stage that one may need.

Letters: ``K`` classes.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from detection import checkpoint
from detection.config import Config
from detection.errors import UserError
from detection.inference.compilation import compile_parts
from detection.inference.devices import choose_device, place
from detection.inference.predictor import as_paths, settings_from, settled
from detection.localization.build import build_localizer
from detection.localization.localizer import Localizer
from detection.localization.locate import Locator, LocMember
from detection.model.build import Undrawn, class_names_of, load_state

ARCHITECTURE = (
    "backbone",
    *(f"model.{name}" for name in ("norm", "image_mean", "image_std")),
    *(f"loc.{name}" for name in ("method", "layer", "crop", "anchor_sizes", "anchor_ratios", "box_weights")),
)
"""Settings that a trained localizer's weights belong to; some would change results without a word."""


def load_locator(
    path: str | Path | Sequence[str | Path], device: str = "auto", settings: dict[str, Any] | None = None
) -> Locator:
    """A trained localizer from a checkpoint (or a run folder, which stands for its last.pt); an ensemble from several.

    Args:
        path: as ``runs/x/best.pt``, or several such; the moving average of the weights is taken if there is one.
        device: auto, cpu or cuda.
        settings: values laid over each run's settings, as ``{"loc": {"test": "1crop"}}``.

    Raises:
        UserError: a setting is unknown or has a wrong value; a checkpoint (or that of the first stage of one) is
            missing, damaged, or does not fit; those of an ensemble have different classes.
    """
    paths, asked, chosen = as_paths(path), settings_from(settings), choose_device(device)
    loaded = [_load(each, chosen, asked) for each in paths]
    names = loaded[0].class_names
    for other, its in zip(paths, loaded, strict=True):
        if its.class_names != names:
            raise UserError(f"{other}: its classes are not those of {paths[0]}; an ensemble needs the same classes")
    return Locator([each.member for each in loaded], names, chosen)


def require_first_stage(config: Config) -> None:
    """Raises a UserError when `config` is of an rcnn and `loc.first_stage` is no file."""
    named = config.loc.first_stage
    if config.loc.method == "rcnn" and not (named and checkpoint.resolve(named).is_file()):
        raise UserError(
            f"loc.first_stage {named or '(empty)'}: no such checkpoint; rcnn looks at the proposals of a trained rpn, "
            "so name its run"
        )


def load_first_stage(config: Config, class_names: Sequence[str], device: torch.device) -> Locator:
    """The rpn whose proposals the rcnn of `config` looks at; how it looks at images is the rcnn's to say.

    Raises:
        UserError: `loc.first_stage` is no checkpoint of an rpn with the classes `class_names`.
    """
    require_first_stage(config)
    name = f"loc.first_stage {config.loc.first_stage}"
    loaded = _load(config.loc.first_stage, device, _of_run(config))
    method = loaded.member.config.loc.method
    if method != "rpn":
        raise UserError(f"{name}: a trained {method}, but proposals are made by an rpn; name the run of one")
    if loaded.class_names != tuple(class_names):
        raise UserError(f"{name}: its classes are not those of the rcnn; train an rpn on the same classes")
    return Locator([loaded.member], class_names, device)


def require_same_first_stage(state: dict[str, Any], first_stage: Locator, path: str | Path, otherwise: str) -> None:
    """Raises a UserError unless the rcnn of a checkpoint has learned from the proposals of this first stage.

    Args:
        otherwise: what can be done when there is no copy of the one that it has learned from.
    """
    (member,) = first_stage.members
    if state.get("first_stage") != weights_digest(member.localizer):
        named = state["config"]["loc"]["first_stage"]
        raise UserError(
            f"{path}: it was trained on the proposals of {named}, which has changed since; give --loc.first_stage with "
            f"a copy of it as it was, or {otherwise}"
        )


def weights_digest(localizer: Localizer) -> str:
    """Of all weights, the same on every device."""
    total = hashlib.sha256()
    for name, tensor in sorted(localizer.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


class _Loaded(NamedTuple):
    """What a checkpoint gives."""

    member: LocMember
    class_names: tuple[str, ...]


def _of_run(config: Config) -> dict[str, Any]:
    """What of an rcnn's settings its first stage runs with."""
    loc, train = config.loc, config.train
    return {
        "compile": config.compile,
        "loc": {"test": loc.test, "test_scales": list(loc.test_scales), "test_crop_from": loc.test_crop_from},
        "test": {"batch_size": config.test.batch_size},
        "train": {"precision": train.precision, "channels_last": train.channels_last},
        "data": {"workers": config.data.workers},
    }


def _load(path: str | Path, device: torch.device, settings: dict[str, Any]) -> _Loaded:
    """A localizer with its settings, its first stage and its class names."""
    state = checkpoint.load(path)
    checkpoint.require_kind(state, "localizer", path)
    config = settled(state, settings, ARCHITECTURE, path)
    names = tuple(class_names_of(state, str(path)))
    with Undrawn():
        localizer, _ = build_localizer(config, len(names), load_weights=False)
    load_state(localizer, checkpoint.weights(state), str(path))
    localizer = place(localizer, device, config.train.channels_last).eval()
    if config.compile:
        compile_parts(localizer, device, is_graphed=False)
    if config.loc.method != "rcnn":
        return _Loaded(LocMember(localizer, config), names)
    first_stage = load_first_stage(config, names, device)
    if "first_stage" not in settings.get("loc", {}):
        require_same_first_stage(state, first_stage, path, "with its name to take it as it is")
    return _Loaded(LocMember(localizer, config, first_stage), names)
