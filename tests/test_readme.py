"""What the README shows works."""

import re
from pathlib import Path

import torch
from torchvision.models import mobilenet_v3_large

import backbones
from backbones import BackboneSettings, build_backbone

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_of_a_backbone_gives_a_pyramid_over_torchvisions_features(monkeypatch) -> None:
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "build_mobilenet" in code)
    assert len([line for line in example.splitlines() if line.strip()]) <= 26
    space: dict = {}
    exec(example, space)
    monkeypatch.setitem(backbones.BUILDERS, "mobilenet_v3_large", space["build_mobilenet"])
    settings = BackboneSettings("mobilenet_v3_large", head="fpn", norm="batch", pyramid_channels=32)
    trunk, tail, _ = build_backbone(settings)
    assert tail is None and trunk.strides == (4, 8, 16, 32, 64)
    images = torch.rand(1, 3, 128, 192)
    shapes = [tuple(features.shape) for features in trunk(images).values()]
    assert shapes == [(1, 32, 128 // stride, 192 // stride) for stride in trunk.strides]

    theirs = mobilenet_v3_large().features
    for statistic in (buffer for name, buffer in theirs.named_buffers() if name.endswith("running_var")):
        statistic.uniform_(0.001, 0.1)  # small enough for a wrong epsilon to show
    trunk.body.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        maps, expected = trunk.eval().body(images), theirs.eval()(images)
    torch.testing.assert_close(maps["3"], expected)


def test_every_link_and_picture_exists() -> None:
    root = Path(__file__).parents[1]
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) >= 3
    assert [str(link) for page, link in links if not (page.parent / link).exists()] == []


def test_every_recipe_is_in_the_table() -> None:
    recipes = {path.stem for path in (Path(__file__).parents[1] / "configs").glob("*.yaml")}
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == recipes
