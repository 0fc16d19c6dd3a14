"""A training run from settings to last words: data, detector, loop, scores, and the folder that they leave."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.table import Table

from detection import checkpoint, distributed
from detection.config import Config, finalize, from_dict, overlay, to_dict
from detection.data import class_names, read_annotations
from detection.data.dataset import Annotations, apply_difficult
from detection.data.loader import DetectionDataset, TrainingBatches
from detection.data.transforms import TrainTransform
from detection.errors import UserError
from detection.evaluation.tables import voc_table
from detection.evaluation.voc import headline
from detection.files import unused
from detection.inference.devices import choose_device
from detection.inference.predictor import Predictor
from detection.inspection.draw import save_picture, training_sheet
from detection.inspection.results import write_results
from detection.model.build import build_detector, init_from, load_state, stages
from detection.model.faster_rcnn import FasterRCNN
from detection.training.log import RunLog
from detection.training.loop import Loop

SAMPLES = 16
"""Training samples that are drawn at the start."""


def train(config: Config, explicit: dict[str, Any]) -> Path:
    """Train a detector, score it, and say where everything is.

    Args:
        config: the settings, not yet finalized.
        explicit: what of them was given by the user; a resumed run takes everything else from its checkpoint.

    Returns:
        The run folder.

    Raises:
        UserError: settings, data or weights are at fault.
    """
    device = distributed.init_from_environment(choose_device(config.device))
    try:
        return Run(config, explicit, device).go()
    finally:
        distributed.shutdown()


class Run:
    """One run with its folder, data, detector and loop."""

    def __init__(self, config: Config, explicit: dict[str, Any], device: torch.device) -> None:
        state = checkpoint.load(config.resume) if config.resume else None
        if state:
            config = resumed_config(state, explicit, config.resume)
        self.config, sentences = finalize(config, distributed.world_size())
        torch.manual_seed(self.config.seed)
        torch.use_deterministic_algorithms(self.config.train.deterministic)
        self.train_set, self.val_set = read_sets(self.config)
        self.names = self.train_set.class_names
        with distributed.main_first():
            detector, report = build_detector(self.config, len(self.names), load_weights=state is None)
        sentences.append(report)
        if state:
            require_same_classes(state["class_names"], self.names, config.resume)
            load_state(detector, state["model"], config.resume)
        elif config.init_from:
            sentences.append(start_from(detector, self.names, config.init_from))
        self.folder = prepare_folder(self.config, is_new=state is None)
        self.config = dataclasses.replace(self.config, output=str(self.folder), resume="")
        self.log = open_log(self.config, self.folder)
        self.loop = Loop(detector, self.config, device, self.log, self.folder)
        if state:
            self.loop.restore(state)
            self.log.rewind(self.loop.done)
            sentences.append(f"resumed from {config.resume} at iteration {self.loop.done}")
        self._introduce(sentences, detector, device)

    def go(self) -> Path:
        """Train, score at the intervals and at the end, and say where everything is."""
        try:
            is_complete = self.loop.run(self.train_set, self._evaluate, self._save)
            self._last_words() if is_complete else self._stopped()
        finally:
            self.log.close()
        return self.folder

    def _introduce(self, sentences: list[str], detector: FasterRCNN, device: torch.device) -> None:
        epochs = self.config.train.iterations * self.config.train.batch_size / len(self.train_set)
        sentences += [
            f"{len(self.names)} classes + background = {len(self.names) + 1} logits: {', '.join(self.names)}",
            f"{describe(self.train_set, self.config.data.train)} to train, "
            f"{describe(self.val_set, self.config.data.val)} to score",
            f"{self.config.train.iterations} iterations = {epochs:.1f} epochs, on {device} "
            f"in {str(self.loop.dtype).removeprefix('torch.')}, seed {self.config.seed}",
        ]
        sentences += [line for data in (self.train_set, self.val_set) for line in left_out(data)]
        for sentence in sentences:
            self.log.say(sentence)
        self.log.say(stage_table(detector, self.config.backbone))
        if distributed.is_main():
            (self.folder / "config.yaml").write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False))
            self._draw_samples()

    def _draw_samples(self) -> None:
        """The first training samples as the detector gets them, so that mistakes in boxes and labels are seen."""
        data, seed = self.config.data, self.config.seed
        batches = TrainingBatches(self.train_set.sizes, min(SAMPLES, len(self.train_set)), seed, data.group_by_shape)
        dataset = DetectionDataset(apply_difficult(self.train_set, data.difficult), TrainTransform(data, seed))
        samples = [dataset[key] for key in next(iter(batches))]
        pictures = [(sample.image, sample.boxes, sample.labels, sample.ignore) for sample in samples]
        save_picture(self.folder / "train_samples.png", training_sheet(pictures, self.names))
        self.log.pictures("training samples", self.folder / "train_samples.png")

    def _evaluate(self, step: int) -> None:
        """Score the validation set; the best weights so far go to ``best.pt``."""
        self.log.say(f"iteration {step}: predicting {len(self.val_set)} images of {self.config.data.val}")
        predictor = Predictor(self.loop.scored_detector, self.names, self.config, self.loop.device)
        detections = predictor.predict(self.val_set)
        if not distributed.is_main():
            return
        scores = write_results(self.folder, detections, self.val_set, self.config.data.val)
        self.log.pictures("predictions", self.folder / "predictions.png")
        if scores is None:
            self.log.say(f"{self.config.data.val} has no annotations: written, not scored")
            return self._save_best(0.0)
        per_class = {f"VOC area AP@0.5 {name}": ap for name, ap in zip(self.names, scores.ap_area, strict=True)}
        self.log.record(step, **headline(scores), **per_class)
        self.log.say(voc_table(scores, self.names))
        self._save_best(float(np.nan_to_num(scores.mean_area)))

    def _save_best(self, score: float) -> None:
        if score < self.loop.best:
            return
        self.loop.best = score
        state = {"model": self.loop.scored_detector.state_dict(), "step": self.loop.done, "best": score}
        checkpoint.save(self.folder / "best.pt", {**self._identity(), **state})

    def _save(self) -> None:
        self.loop.best = distributed.broadcast_object(self.loop.best)
        if distributed.is_main():
            checkpoint.save(self.folder / "last.pt", {**self._identity(), **self.loop.state()})
        distributed.barrier()

    def _identity(self) -> dict[str, Any]:
        return {"config": to_dict(self.config), "class_names": list(self.names)}

    def _stopped(self) -> None:
        self.log.say(
            f"stopped at iteration {self.loop.done} of {self.config.train.iterations}; all is saved, go on with:\n"
            f"  python tools/train_det.py --resume {self.folder}"
        )

    def _last_words(self) -> None:
        best = self.folder / "best.pt"
        self.log.say(
            f"everything is in {self.folder}: best.pt and last.pt (checkpoints), predictions.png and train_samples.png "
            f"(pictures), detections.json, metrics.jsonl, log.txt, config.yaml\n"
            f"look at your own pictures:  python tools/predict_det.py --checkpoint {best} --input IMAGES --output out\n"
            f"train on PASCAL VOC:        python tools/train_det.py --config configs/voc07_resnet101_c4.yaml "
            f"--data.root data/VOCdevkit"
        )


def resumed_config(state: dict[str, Any], explicit: dict[str, Any], path: str) -> Config:
    """The settings of the run that a checkpoint belongs to, with what was given now laid over them."""
    before = overlay(state["config"], {"train": {"stop_at": 0}, "resume": "", "init_from": ""})
    given = {name: value for name, value in explicit.items() if name not in ("resume", "output")}
    folder = checkpoint.resolve(path).parent
    return dataclasses.replace(from_dict(overlay(before, given)), output=str(folder), resume=path)


def read_sets(config: Config) -> tuple[Annotations, Annotations]:
    """The training and the validation set; the main process may have to write the built-in one.

    Raises:
        UserError: the training set has no annotations, or something is wrong with one of them.
    """
    data = config.data
    with distributed.main_first():
        data = dataclasses.replace(data, classes=class_names(data))
        sets = read_annotations(data, data.train), read_annotations(data, data.val)
    if not sets[0].annotated:
        raise UserError(f"{data.root}: {data.train} has no annotations to learn from; name another set by --data.train")
    return sets


def require_same_classes(before: list[str], now: tuple[str, ...], path: str) -> None:
    """Raises a UserError unless a checkpoint and the data have the same classes in the same order."""
    if tuple(before) != now:
        raise UserError(f"{path}: the checkpoint has classes {', '.join(before)}, but the data has {', '.join(now)}")


def start_from(detector: FasterRCNN, names: tuple[str, ...], path: str) -> str:
    """Take over the weights of another run; returns one line on what was taken."""
    state = checkpoint.load(path)
    same = tuple(state.get("class_names", ())) == names
    return init_from(detector, state.get("ema") or state["model"], same, path)


def prepare_folder(config: Config, is_new: bool) -> Path:
    """The run folder; a new run never writes into that of another.

    Raises:
        UserError: `output` holds a run already, or cannot be written to.
    """
    if not is_new:
        return Path(config.output)
    base = Path("runs") / f"{Path(config.data.root).name}_{config.backbone}_{config.model.head}"
    folder = Path(config.output) if config.output else unused(base)
    folder = Path(distributed.broadcast_object(str(folder)))
    if (folder / "metrics.jsonl").exists() or (folder / "last.pt").exists():
        raise UserError(f"{folder} holds another run: choose a new --output, or go on with --resume {folder}")
    distributed.barrier()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror}; choose a folder that can be written to") from error
    return folder


def open_log(config: Config, folder: Path) -> RunLog:
    """The records of the run; only the main process writes any."""
    return RunLog(
        folder,
        config.train.iterations,
        log_every=config.train.log_every,
        wandb=config.wandb,
        config=to_dict(config),
        enabled=distributed.is_main(),
    )


def describe(annotations: Annotations, name: str) -> str:
    """`150 images with 412 objects (2007/train)`."""
    return f"{len(annotations)} images with {len(annotations.labels)} objects ({name})"


def left_out(annotations: Annotations) -> list[str]:
    """One line for the faults that `data.on_error drop` has left out."""
    return [f"left out: {fault}" for fault in annotations.dropped]


def stage_table(detector: FasterRCNN, backbone: str) -> Table:
    """Stage by stage: parameters, whether they are trained, normalization."""
    table = Table("stage", "parameters", "trained", "normalization", title=f"{backbone} detector", title_justify="left")
    rows = stages(detector)
    for row in rows:
        state = "frozen" if row.trained == 0 else "all" if row.trained == row.parameters else f"{row.trained:,}"
        table.add_row(row.name, f"{row.parameters:,}", state, row.norm)
    table.add_section()
    table.add_row("in all", f"{sum(r.parameters for r in rows):,}", f"{sum(r.trained for r in rows):,}", "")
    for column in table.columns[1:3]:
        column.justify = "right"
    return table
