"""Whole commands, each in a process of its own: what `--help` and scoring a trained detector take.

Letters: ``B`` images.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from detection.benchmark.agreement import Boxes, require_paired
from detection.benchmark.calibrated import calibrated_peer
from detection.benchmark.case import Case
from detection.benchmark.loader import QUALITY
from detection.benchmark.peer import as_torchvision_takes
from detection.benchmark.pictures import draw_samples
from detection.benchmark.predict import END_TO_END, SCORE, SHARE
from detection.benchmark.report import Measured, Row
from detection.benchmark.sides import save_checkpoint
from detection.benchmark.timing import in_turns, stopwatch
from detection.config import from_dict, overlay, to_dict
from detection.data.dataset import Sample
from detection.inference.devices import choose_device

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages and the tools."""
IMAGES = 40
MOST_ROUNDS = 3
"""Turns of a side: each takes minutes."""
CALIBRATED_ON = 4
"""Of the images: that many see enough to take statistics from."""
HOST = torch.device("cpu")


def startup_stage(case: Case) -> Measured:
    """`train_det.py --help` against what any torchvision program does before its first word: importing it."""
    commands = {
        "ours": [str(ROOT / "tools" / "train_det.py"), "--help"],
        "peer": ["-c", "import argparse, torchvision.models.detection"],
    }
    sides = {name: stopwatch(partial(run, words), HOST) for name, words in commands.items()}
    timing = in_turns(sides, case.rounds, warm_up=1)
    return Measured([Row("startup", "train_det.py --help; importing torchvision", timing)], [])


def eval_stage(case: Case, images: int = IMAGES) -> Measured:
    """`eval_det.py` against a plain loop over the peer that writes, reads and scores its detections.

    Raises:
        Disagreement: their detections differ.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = prepare(case, folder, images)
        outputs = {"ours": folder / "eval" / "detections.json", "peer": folder / "peer.json"}
        sides = {
            name: stopwatch(partial(run, words), HOST) for name, words in commands_of(case, folder, checkpoint).items()
        }
        in_turns(sides, rounds=1, warm_up=0)
        found = [read_boxes(path, images) for path in outputs.values()]
        check = require_paired("end to end", *found, pixels=END_TO_END, score=SCORE, share=SHARE)
        timing = in_turns(sides, min(case.rounds, MOST_ROUNDS), warm_up=0)
    return Measured([Row("eval", f"eval_det.py, {images} images, {case}", timing)], [check])


def commands_of(case: Case, folder: Path, checkpoint: Path) -> dict[str, list[str]]:
    """The words after `python` of either side."""
    config = case.config
    given = ["--checkpoint", str(checkpoint), "--device", config.device, "--train.precision", config.train.precision]
    given += ["--compile"] if config.compile else []
    return {
        "ours": [str(ROOT / "tools" / "eval_det.py"), *given, "--output", str(folder / "eval")],
        "peer": ["-m", "detection.benchmark.plain_loop", str(checkpoint), str(folder / "peer.json")],
    }


def prepare(case: Case, folder: Path, images: int) -> Path:
    """Writes a data set in COCO's layout and a checkpoint that names it; returns the latter."""
    data = {"format": "coco", "root": str(folder / "coco"), "train": "val", "val": "val", "workers": 2}
    config = from_dict(overlay(to_dict(case.config), {"data": data}))
    samples = draw_samples(config.seed, images, case.size, len(config.data.classes))
    write_set(folder / "coco", samples, config.data.classes)
    device = choose_device(config.device)
    first = as_torchvision_takes([sample.image for sample in samples[:CALIBRATED_ON]], device)
    peer = calibrated_peer(config, len(config.data.classes), first)
    return save_checkpoint(config, peer.state_dict(), folder)


def write_set(root: Path, samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """JPEGs and ``instances_val.json``."""
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    for number, sample in enumerate(samples, 1):
        rows, columns = sample.original_size
        Image.fromarray(sample.image).save(root / "val" / f"{number:06d}.jpg", quality=QUALITY)
        content["images"].append({"id": number, "file_name": f"{number:06d}.jpg", "height": rows, "width": columns})
        for box, label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            own = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": label, "iscrowd": 0}
            content["annotations"].append({**own, "bbox": [x, y, width, height], "area": width * height})
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))


def read_boxes(path: Path, images: int) -> list[Boxes]:
    """A file of COCO's results, image by image."""
    rows = json.loads(path.read_text())
    found = []
    for number in range(1, images + 1):
        own = [row for row in rows if row["image_id"] == number]
        boxes = np.array([row["bbox"] for row in own], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found.append(
            Boxes(boxes, np.array([row["score"] for row in own]), np.array([row["category_id"] for row in own]))
        )
    return found


def run(words: Sequence[str]) -> None:
    """Runs Python with these words; what it prints is dropped.

    Raises:
        RuntimeError: it failed; the message is what it said last.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
