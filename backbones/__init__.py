"""Backbones: images in, feature maps out; nothing here knows of boxes.

:func:`build_backbone` turns :class:`BackboneSettings` into a trunk, which runs once per image, and a tail, which runs
once per region (absent with a feature pyramid). A backbone of your own is one function from settings to
:class:`Assembly`, entered in :data:`BUILDERS` under its name.
"""

import difflib

from backbones.blocks import fold
from backbones.errors import BackboneError
from backbones.resnet import build_resnet
from backbones.settings import BackboneSettings
from backbones.trunk import Assembly, Backbone, Body, Builder, Staged, Trunk, freeze_stages
from backbones.vgg import build_vgg
from backbones.weights import load_pretrained

__all__ = [
    "BUILDERS",
    "Assembly",
    "Backbone",
    "BackboneError",
    "BackboneSettings",
    "Body",
    "Staged",
    "Trunk",
    "build_backbone",
    "fold",
    "names",
]

BUILDERS: dict[str, Builder] = {
    "resnet18": build_resnet,
    "resnet34": build_resnet,
    "resnet50": build_resnet,
    "resnet101": build_resnet,
    "resnet152": build_resnet,
    "vgg16": build_vgg,
    "vgg19": build_vgg,
}
"""Who builds which backbone."""


def names() -> tuple[str, ...]:
    """Every backbone that can be built."""
    return tuple(BUILDERS)


def build_backbone(settings: BackboneSettings, *, load_weights: bool = True) -> Backbone:
    """The backbone described by `settings`, with its weights loaded and its first stages frozen.

    Args:
        settings: What to build.
        load_weights: False leaves `settings.weights` alone, for a model whose every tensor a checkpoint will replace.

    Raises:
        BackboneError: the name is unknown, the settings contradict each other, or the weights cannot be had or do
            not fit.
    """
    if settings.name not in BUILDERS:
        nearest = difflib.get_close_matches(settings.name, BUILDERS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise BackboneError(f"backbone {settings.name!r} is not one of {', '.join(BUILDERS)}{hint}")
    assembly = BUILDERS[settings.name](settings)
    freeze_stages(settings, assembly)
    report = load_pretrained(settings, assembly) if load_weights else "pretrained weights left to the checkpoint"
    return Backbone(assembly.trunk, assembly.tail, report)
