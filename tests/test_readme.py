"""What the README shows works."""

import re
from pathlib import Path

import torch
from torchvision.models import mobilenet_v3_large

import backbones
from backbones import BackboneSettings, build_backbone
from detection.config import Config
from detection.finalize import value_of

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


def test_every_file_of_test_settings_is_shown_and_every_shown_file_exists() -> None:
    root = Path(__file__).parents[1]
    shown = set(re.findall(r"configs/[\w/]+\.yaml", README))
    assert {f"configs/test/{path.name}" for path in (root / "configs" / "test").glob("*.yaml")} <= shown
    assert [file for file in shown if not (root / file).is_file()] == []


def test_every_setting_that_a_command_gives_exists() -> None:
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)) + "".join(re.findall(r"`--.*?`", README))
    names = set(re.findall(r"--((?:model|data|train|test|metric|loc)\.[\w.]+)", commands))
    assert {"test.refine", "test.vote_iou", "test.scales", "test.flip", "model.global_context"} <= names
    for name in names:
        value_of(Config(), name)  # an unknown one raises AttributeError
