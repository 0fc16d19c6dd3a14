"""What the README shows works."""

import re
from pathlib import Path

import torch

import backbones
from backbones import BackboneSettings, build_backbone

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_of_a_backbone_gives_a_pyramid_of_torchvisions_features(monkeypatch) -> None:
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "build_mobilenet" in code)
    assert len([line for line in example.splitlines() if line.strip()]) <= 25
    space: dict = {}
    exec(example, space)
    monkeypatch.setitem(backbones.BUILDERS, "mobilenet_v3_large", space["build_mobilenet"])
    settings = BackboneSettings("mobilenet_v3_large", head="fpn", norm="group", pyramid_channels=32)
    trunk, tail, _ = build_backbone(settings)
    maps = trunk(torch.zeros(1, 3, 128, 192))
    assert tail is None and trunk.strides == (4, 8, 16, 32, 64)
    shapes = [tuple(features.shape) for features in maps.values()]
    assert shapes == [(1, 32, 128 // stride, 192 // stride) for stride in trunk.strides]


def test_every_recipe_is_in_the_table() -> None:
    recipes = {path.stem for path in (Path(__file__).parents[1] / "configs").glob("*.yaml")}
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == recipes
