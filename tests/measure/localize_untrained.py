"""What localization costs with 1000 classes: an untrained ResNet-101 on the images of an ImageNet folder.

``python tests/measure/localize_untrained.py ROOT [--backbone resnet101]``: five random guesses of each validation image
are located by `tools/eval_loc.py` (dense, the recipe's four sizes), and the annotations themselves are scored by
`tools/score_loc.py`. Says seconds an image (start-up included), peak memory of the largest process, and that error.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from detection import checkpoint
from detection.config import Config, from_dict, to_dict
from detection.data import read_annotations
from detection.data.dataset import Annotations
from detection.localization.build import build_localizer
from detection.localization.guess_files import write_official
from detection.localization.rule import Guesses
from detection.localization.single import image_labels

TOOLS = Path(__file__).resolve().parents[2] / "tools"
GUESSES = 5


def main() -> None:
    """Locate and score; print three figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--backbone", default="resnet101")
    given = parser.parse_args()
    data = {"format": "ilsvrc", "root": given.root, "train": "val", "val": "val"}
    config = from_dict({"backbone": given.backbone, "weights": "none", "model": {"norm": "batch"}, "data": data})
    annotations = read_annotations(config.data, "val")
    with TemporaryDirectory() as name:
        folder = Path(name)
        guesses = prepare(folder, config, annotations)
        start = time.perf_counter()
        run("eval_loc.py", "--checkpoint", folder / "last.pt", "--guesses", guesses, "--output", folder / "eval")
        seconds = (time.perf_counter() - start) / len(annotations)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        lines = (folder / "eval" / "localization.txt").read_text().splitlines()
        words = [word for name, value in data.items() if name != "train" for word in (f"--data.{name}", value)]
        run("score_loc.py", "--guesses", folder / "own.txt", *words, "--json", folder / "own.json")
        error = json.loads((folder / "own.json").read_text())["errors"]["LOC error, top-5"]
    guesses = len(lines[0].split()) // 5
    print(f"{len(annotations)} images, {len(lines)} lines of {guesses} guesses: {seconds:.2f} s an image")
    print(f"peak memory {peak:.1f} GB; the annotations themselves have a top-5 error of {error}")


def prepare(folder: Path, config: Config, annotations: Annotations) -> Path:
    """Writes an untrained localizer, the annotations as guesses, and five random guesses an image; returns the last."""
    torch.manual_seed(0)
    names = list(annotations.class_names)
    localizer, _ = build_localizer(config, len(names))
    state = {"kind": "localizer", "config": to_dict(config), "class_names": names, "model": localizer.state_dict()}
    checkpoint.save(folder / "last.pt", state)
    first = annotations.boxes[annotations.offsets[:-1]][:, None]
    write_official(folder / "own.txt", Guesses(image_labels(annotations)[:, None], first), annotations)
    labels = np.random.default_rng(0).integers(1, len(names) + 1, (len(annotations), GUESSES))
    (folder / "guesses.txt").write_text("\n".join(" ".join(map(str, row)) for row in labels.tolist()) + "\n")
    return folder / "guesses.txt"


def run(tool: str, *words: str | Path) -> None:
    """A tool to its end."""
    subprocess.run([sys.executable, TOOLS / tool, *map(str, words)], check=True)


if __name__ == "__main__":
    main()
