"""Whether what makes training faster leaves its losses alone: 100 steps with and without each, drawn as one picture.

``python tests/measure/levers.py OUT``: writes the runs and ``levers.png`` into the folder OUT; then
``cp OUT/levers.png docs/``. Every run is `tools/train_det.py` on the built-in shapes from the same seed, on the CPU
unless ``--device cuda`` is given. The plain run from another seed shows how far apart losses are by chance. Curves are
means over 10 steps; each run's mean over the last quarter is printed. bf16 is tried on a GPU alone: most CPUs only
imitate it. Folding, RoIAlign as a sum and the order in conv5 have no switch: `tools/benchmark.py --stage train` holds
them against torchvision's losses and gradients.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STEPS, SMOOTH = 100, 10
PLAIN = {"train.channels_last": "false", "train.precision": "fp32", "compile": "false", "seed": "0"}
RUNS = {
    "none of them": {},
    "none, another seed": {"seed": "1"},
    "channels last": {"train.channels_last": "true"},
    "bf16": {"train.precision": "bf16"},
    "compiled": {"compile": "true"},
    "all": {"train.channels_last": "true", "train.precision": "bf16", "compile": "true"},
}
"""Name of a curve, and what it changes."""


def main() -> None:
    """Train all, then draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    curves = {}
    for name, changes in runs_on(given.device).items():
        folder = given.out / name.replace(",", "").replace(" ", "_")
        curves[name] = losses(folder, {**PLAIN, **changes, "backbone": given.backbone, "device": given.device})
        print(f"{name}: {curves[name][-STEPS // 4 :].mean():.4f} over the last {STEPS // 4} steps", flush=True)
    draw(curves, given.out / "levers.png")


def runs_on(device: str) -> dict[str, dict[str, str]]:
    """The runs that a device can do."""
    if device != "cpu":
        return RUNS
    plain = {name: {key: value for key, value in changes.items() if value != "bf16"} for name, changes in RUNS.items()}
    return {name: changes for name, changes in plain.items() if name != "bf16"}


def losses(folder: Path, settings: dict[str, str]) -> np.ndarray:
    """The loss (STEPS,) of each step of a run, which ends before anything is scored."""
    course = {"iterations": STEPS + 1, "stop_at": STEPS, "log_every": 1, "checkpoint_every": 0}
    words = [f"--{name}={value}" for name, value in settings.items()]
    words += [f"--train.{name}={value}" for name, value in course.items()]
    recipe = ["--config", str(ROOT / "configs/quickstart.yaml"), "--output", str(folder)]
    subprocess.run([sys.executable, str(ROOT / "tools/train_det.py"), *recipe, *words], check=True)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([record["loss"] for record in records if "loss" in record])


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    """The smoothed curves in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        smooth = np.convolve(values, np.full(SMOOTH, 1 / SMOOTH), mode="valid")
        axes.plot(np.arange(SMOOTH, len(values) + 1), smooth, "--" if "seed" in name else "-", label=name)
    axes.set(xlabel="step", ylabel=f"loss, mean of {SMOOTH} steps")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
