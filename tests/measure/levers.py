"""Whether what makes training faster leaves its losses alone: 100 steps with and without each, drawn as one picture.

``python tests/measure/levers.py OUT``: writes the runs and ``levers.png`` into the folder OUT; then
``cp OUT/levers.png docs/``. Every run is `tools/train_det.py` on the built-in shapes, on the CPU unless
``--device cuda`` is given, and every lever is run from the same seeds, so that its runs differ from the plain ones by
the lever alone. Rounding makes any two such runs drift apart, so what is asked is whether their difference is one that
chance explains: the mean over the seeds against its standard error. bf16 is tried on a GPU alone: most CPUs only
imitate it. Folding, RoIAlign as a sum and the order in conv5 have no switch: `tools/benchmark.py --stage train` holds
them against torchvision's losses and gradients.

Letters: ``S`` seeds, ``T`` steps.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STEPS, SMOOTH, FIRST, LAST = 100, 10, 5, 25
PLAIN = {"train.channels_last": "false", "train.precision": "fp32", "compile": "false"}
NONE = "none of them"
LEVERS = {
    NONE: {},
    "channels last": {"train.channels_last": "true"},
    "bf16": {"train.precision": "bf16"},
    "compiled": {"compile": "true"},
    "all": {"train.channels_last": "true", "train.precision": "bf16", "compile": "true"},
}
"""Name of a curve, and what it changes."""


def main() -> None:
    """Train all, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    curves = {}
    for name, changes in levers_on(given.device).items():
        settings = {**PLAIN, **changes, "backbone": given.backbone, "device": given.device}
        folder = given.out / name.replace(" ", "_")
        curves[name] = np.stack([losses(folder / f"{s}", {**settings, "seed": f"{s}"}) for s in range(given.seeds)])
        print(comparison(name, curves[name], curves[NONE]), flush=True)
    draw(curves, given.out / "levers.png")


def levers_on(device: str) -> dict[str, dict[str, str]]:
    """Those that a device can do."""
    if device != "cpu":
        return LEVERS
    plain = {
        name: {key: value for key, value in changes.items() if value != "bf16"} for name, changes in LEVERS.items()
    }
    return {name: changes for name, changes in plain.items() if name != "bf16"}


def losses(folder: Path, settings: dict[str, str]) -> np.ndarray:
    """The loss (T,) of each step of a run, which ends before anything is scored."""
    course = {"iterations": STEPS + 1, "stop_at": STEPS, "log_every": 1, "checkpoint_every": 0}
    words = [f"--{name}={value}" for name, value in settings.items()]
    words += [f"--train.{name}={value}" for name, value in course.items()]
    recipe = ["--config", str(ROOT / "configs/quickstart.yaml"), "--output", str(folder)]
    command = [sys.executable, str(ROOT / "tools/train_det.py"), *recipe, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([record["loss"] for record in records if "loss" in record])


def comparison(name: str, own: np.ndarray, plain: np.ndarray) -> str:
    """One line on curves (S, T) and those of the plain runs."""
    ends, change = own[:, -LAST:].mean(1), (own - plain)[:, -LAST:].mean(1)
    start = np.abs(own / plain - 1)[:, :FIRST].max()
    return (
        f"{name}: {with_error(ends)} over the last {LAST} steps, {with_error(change)} more than without; "
        f"the first {FIRST} differ by at most {start:.0e} of themselves"
    )


def with_error(values: np.ndarray) -> str:
    """The mean of values (S,), and its standard error."""
    return f"{values.mean():.4f} ± {values.std(ddof=1) / len(values) ** 0.5:.4f}"


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    """The smoothed curves in one picture: means over the seeds, and the range of the plain runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(SMOOTH, STEPS + 1)
    for name, values in curves.items():
        smooth = np.stack([np.convolve(each, np.full(SMOOTH, 1 / SMOOTH), mode="valid") for each in values])
        if name == NONE:
            axes.fill_between(steps, smooth.min(0), smooth.max(0), color="0.88", label=f"{name}: least and most")
        axes.plot(steps, smooth.mean(0), label=name)
    axes.set(xlabel="step", ylabel=f"loss, mean of {SMOOTH} steps and {len(values)} seeds")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
