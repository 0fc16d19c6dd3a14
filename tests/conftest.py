"""What all tests share: single-threaded, offline, the optional folder of real sample images, and a tiny data set."""

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detection.config import Config, from_dict, overlay
from detection.data.shapes import ShapeObject, draw_scene
from detection.files import replacing
from detection.inspection import plots


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's; without it, `-n` is what pytest misses
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes, between which files are divided; none beside this one for speeds and for files that are named."""
    is_whole = not any(".py" in argument for argument in config.args)
    return 2 if is_whole and "not benchmark" in config.option.markexpr else 0


@pytest.fixture(scope="session", autouse=True)
def _few_threads(request: pytest.FixtureRequest) -> None:
    """With two threads a busy machine makes these small convolutions forty times slower; the tools obey, too.

    Speeds are measured with all of them.
    """
    if "not benchmark" in request.config.option.markexpr:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Choosing a device switches them off for the whole process; hypothesis, for one, cannot do without."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def _drawn() -> Iterator[Callable[..., None]]:
    """What draws a plot, which takes longer than the rest of a tiny run: the files of most tests are blank instead."""

    def leave_blank(folder: Path, name: str, draw: Callable[..., None]) -> None:
        for kind in ("png", "svg"):
            with replacing(folder / f"{name}.{kind}") as path:
                path.write_text("")

    with pytest.MonkeyPatch.context() as patch:
        drawn = plots._write
        patch.setattr(plots, "_write", leave_blank)
        yield drawn


@pytest.fixture
def true_plots(_drawn: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The plots of a test that looks at them."""
    monkeypatch.setattr(plots, "_write", _drawn)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and score vectors; the tests that read it are skipped where it is not."""
    folder = Path(os.environ.get("RESIDET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the sample data folder is not there (set RESIDET_DATA to read it from elsewhere)")
    return folder


TINY_SETS = {"train": range(8), "val": range(8, 13), "unlabelled": range(13, 15)}
"""Numbers of the tiny set's images."""
TINY_SIZES = ((128, 128), (128, 160), (160, 128))
"""Rows and columns of the tiny set's images, in turn: square, wide, tall."""


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in VOC layout, 15 images of coloured shapes: train 8, val 5, unlabelled 2 without annotations."""
    rng = np.random.default_rng(5)

    def draw(name: str, number: int) -> tuple[np.ndarray, list[ShapeObject] | None]:
        image, objects = draw_scene(rng)
        rows, columns = TINY_SIZES[number % len(TINY_SIZES)]
        grown = np.pad(image, ((0, rows - image.shape[0]), (0, columns - image.shape[1]), (0, 0)), mode="edge")
        return grown[:, :, ::-1], None if name == "unlabelled" else objects

    return _write_set(tmp_path_factory.mktemp("tiny") / "shapes", TINY_SETS, draw)


def _write_set(
    root: Path,
    sets: dict[str, range],
    draw: Callable[[str, int], tuple[np.ndarray, list[ShapeObject] | None]],
) -> Path:
    """A folder in VOC layout of the images (BGR) that are drawn for a set's name and a number, and their objects."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    for name, numbers in sets.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{number:06d}\n" for number in numbers))
        for number in numbers:
            image, objects = draw(name, number)
            cv2.imwrite(str(root / "JPEGImages" / f"{number:06d}.jpg"), image)
            if objects is not None:
                (root / "Annotations" / f"{number:06d}.xml").write_text(_xml(*image.shape[:2], objects))
    return root


def _xml(rows: int, columns: int, objects: list[ShapeObject]) -> str:
    """An annotation file: corners 1-based and inclusive, as VOC has them."""
    body = ""
    for item in objects:
        x1, y1, x2, y2 = item.box
        corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        body += f"<object><name>{item.name}</name><difficult>{int(item.difficult)}</difficult>"
        body += f"<bndbox>{corners}</bndbox></object>\n"
    size = f"<size><width>{columns}</width><height>{rows}</height><depth>3</depth></size>"
    return f"<annotation>{size}\n{body}</annotation>\n"


SHORT = {
    "backbone": "resnet18",
    "weights": "none",
    "device": "cpu",
    "model": {"norm": "group", "freeze_at": 0},
    "data": {"train": "train", "val": "val", "workers": 0},
    "train": {
        "batch_size": 2,
        "reference_batch": 2,
        "optimizer": "adamw",
        "lr": 0.001,
        "weight_decay": 0.0001,
        "schedule": "onecycle",
        "clip_norm": 10.0,
        "log_every": 1,
    },
}
"""What every short run has."""
DETECTOR = {
    "model": {
        "head": "fpn",
        "pyramid_channels": 16,
        "rpn": {
            "anchor_sizes": [8, 16, 32, 48, 64],
            "ignore_border": False,
            "samples": 32,
            "pre_nms_train": 100,
            "pre_nms_test": 50,
            "post_nms_train": 50,
            "post_nms_test": 20,
            "min_size": 0,
        },
        "roi": {"hidden": 32, "samples": 16},
    },
    "data": {"min_size": [48, 64], "max_size": 96, "test_min_size": 64, "test_max_size": 96},
    "train": {"iterations": 4},
    "test": {"nms_iou": 0.5, "detections": 10},
}
"""The smallest detector that has every part, and the shortest run."""


@pytest.fixture
def tiny_config(tiny_data: Path) -> dict[str, Any]:
    """Settings of a run of 4 iterations on the tiny data set, nested; a test may change its copy."""
    return _short(DETECTOR, tiny_data)


def _short(settings: dict[str, Any], root: Path) -> dict[str, Any]:
    return copy.deepcopy(overlay(overlay(SHORT, settings), {"data": {"root": str(root)}}))


def _finished(train: Callable[[Config, dict[str, Any]], Path], settings: dict[str, Any], output: Path) -> Path:
    settings = overlay(settings, {"train": {"ema_decay": 0.5}, "output": str(output)})
    return train(from_dict(settings), settings)


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 4 iterations with a moving average of the weights; nothing may write to it."""
    from detection.training.run import train

    return _finished(train, _short(DETECTOR, tiny_data), tmp_path_factory.mktemp("runs") / "tiny")


# Localization

LOC_SETS = {"train": range(8), "val": range(8, 14), "plain": range(14, 16)}
"""Numbers of the images; the first of val holds nothing, nor do those of plain."""
LOC_CLASSES = ("bar", "disc", "ring")
LOC_SIZES = ((64, 64), (64, 96), (96, 64), (80, 112))
"""Rows and columns of the images, in turn."""


@pytest.fixture(scope="session")
def loc_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in VOC layout, 16 images with one or two large objects of one class each, or none."""
    rng = np.random.default_rng(8)

    def draw(name: str, number: int) -> tuple[np.ndarray, list[ShapeObject]]:
        rows, columns = LOC_SIZES[number % len(LOC_SIZES)]
        image = rng.integers(90, 140, (rows, columns, 3), np.uint8)
        count = 0 if name == "plain" or number == 8 else 1 + (columns > 64)
        kind = LOC_CLASSES[number % len(LOC_CLASSES)]
        room = columns // max(count, 1)
        return image, [_figure(image, kind, place * columns // count, room, rng) for place in range(count)]

    return _write_set(tmp_path_factory.mktemp("loc") / "figures", LOC_SETS, draw)


def _figure(image: np.ndarray, kind: str, left: int, room: int, rng: np.random.Generator) -> ShapeObject:
    """Draws one object into the columns from `left` on, of which it has `room`."""
    width, height = int(rng.integers(room // 2, room - 4)), int(rng.integers(36, 54))
    x, y = left + int(rng.integers(0, room - width)), int(rng.integers(0, len(image) - height))
    colour = tuple(int(value) for value in rng.choice([20, 235], 3))
    if kind == "bar":
        cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), colour, -1)
    else:
        centre, axes = (x + width // 2, y + height // 2), (width // 2 - 3, height // 2 - 3)
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1 if kind == "disc" else 5)
    return ShapeObject(kind, (x, y, x + width, y + height), difficult=False)


LOCALIZER = {
    "train": {"iterations": 3},
    "loc": {
        "method": "rpn",
        "layer": "conv4",
        "crop": 64,
        "scales": [64, 80],
        "anchor_sizes": [32, 48],
        "proposals": 6,
        "test_scales": [64, 80],
        "test_crop_from": 64,
    },
}
"""The smallest localizer, and the shortest run."""


@pytest.fixture
def loc_config(loc_data: Path) -> dict[str, Any]:
    """Settings of a localization run of 3 iterations, nested; a test may change its copy."""
    return _short(LOCALIZER, loc_data)


@pytest.fixture(scope="session")
def loc_run(loc_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of an rpn, with a moving average of the weights; nothing may write to it."""
    from detection.localization.run import train

    return _finished(train, _short(LOCALIZER, loc_data), tmp_path_factory.mktemp("runs") / "figures")
