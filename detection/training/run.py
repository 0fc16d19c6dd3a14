"""A training run from settings to last words: data, detector, loop, scores, and the folder that they leave."""

import dataclasses
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.table import Table

from detection import checkpoint, distributed
from detection.config import Config, from_dict, overlay, to_dict
from detection.data import class_names, read_annotations
from detection.data.checks import report, require_clean
from detection.data.dataset import Annotations, for_training
from detection.data.loader import DetectionDataset, TrainingBatches
from detection.data.overlap import overlap_sentence
from detection.data.transforms import TrainTransform
from detection.errors import UserError
from detection.evaluation.detections import Detections
from detection.evaluation.scores import Scores
from detection.files import replacing, unused
from detection.finalize import finalize
from detection.inference.devices import choose_device
from detection.inference.ensemble import Member
from detection.inference.predictor import Predictor
from detection.inspection.draw import SHEET_IMAGES, save_picture, training_sheet
from detection.inspection.report import Reported, write_report
from detection.inspection.results import Judged, write_results
from detection.model.build import build_detector, load_state, stages
from detection.model.faster_rcnn import FasterRCNN
from detection.model.transfer import init_from
from detection.training.log import RunLog
from detection.training.loop import Loop

REPORT_IMAGES = 200
"""Pictures in the report of a run's last evaluation."""


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
    state = checkpoint.load(config.resume) if config.resume else None
    if state:
        config = resumed_config(state, explicit, config.resume)
    device = distributed.init_from_environment(choose_device(config.device))
    try:
        return Run(config, state, device).go()
    finally:
        distributed.shutdown()


class Run:
    """One run with its folder, data, detector and loop; `state` is the checkpoint that it goes on from."""

    def __init__(self, config: Config, state: dict[str, Any] | None, device: torch.device) -> None:
        self.config, sentences = finalize(config, distributed.world_size())
        if config.model.norm == "sync" and device.type == "cpu":
            raise UserError(
                "model.norm sync: torch synchronizes batch statistics between GPUs only; use group or batch"
            )
        torch.manual_seed(self.config.seed)
        torch.use_deterministic_algorithms(self.config.train.deterministic)
        read, self.val_set = read_sets(self.config)
        self.train_set = for_training(read, self.config.data)
        sentences += left_out(read, self.train_set)
        self.names = self.train_set.class_names
        with distributed.main_first():
            is_fresh = state is None and not config.init_from
            detector, loaded = build_detector(self.config, len(self.names), load_weights=is_fresh)
        sentences.append(loaded)
        if state:
            require_same_classes(state["class_names"], self.names, config.resume)
            load_state(detector, state["model"], config.resume)
        elif config.init_from:
            sentences.append(start_from(detector, self.names, config))
        self.folder = prepare_folder(self.config, is_new=state is None)
        began_from = state["config"]["init_from"] if state else config.init_from
        self.config = dataclasses.replace(self.config, output=str(self.folder), resume="", init_from=began_from)
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
        sentences += report(self.train_set.dropped + self.val_set.dropped)
        sentences += filter(None, [overlap_sentence(self.train_set, self.val_set)])
        for sentence in sentences:
            self.log.say(sentence)
        self.log.say(stage_table(detector, self.config.backbone))
        distributed.on_main(self._write_settings)
        distributed.on_main(self._draw_samples)

    def _write_settings(self) -> None:
        with replacing(self.folder / "config.yaml") as path:
            path.write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False))

    def _draw_samples(self) -> None:
        """The first training samples as the detector gets them, so that mistakes in boxes and labels are seen."""
        data, seed = self.config.data, self.config.seed
        images = self.config.train.batch_size // self.config.train.accumulate
        batches = TrainingBatches(self.train_set.sizes, images, seed, data.group_by_shape)
        dataset = DetectionDataset(self.train_set, TrainTransform(data, seed))
        keys = islice(chain.from_iterable(batches), SHEET_IMAGES)
        save_picture(self.folder / "train_samples.png", training_sheet([dataset[key] for key in keys], self.names))
        self.log.pictures("training samples", self.folder / "train_samples.png")

    def _evaluate(self, step: int) -> None:
        """Score the validation set; the best weights so far go to ``best.pt``."""
        self.log.say(f"iteration {step}: predicting {len(self.val_set)} images of {self.config.data.val}")
        ids = self.train_set.own_category_ids()
        predictor = Predictor([Member(self.loop.scored_detector, self.config)], self.names, self.loop.device, ids)
        detections = predictor.predict(self.val_set, self.log.share("predicted"))
        self.loop.best = distributed.on_main(lambda: self._score(step, detections))

    def _score(self, step: int, detections: Detections) -> float:
        """Write and score; returns the best score so far."""
        judged, files = write_results(self.folder, detections, self.val_set, self.config)
        self.log.pictures("predictions", self.folder / "predictions.png")
        if judged is None:
            self.log.say(f"{self.config.data.val} has no annotations: written to {files[-1]}, not scored")
            return self._save_best(0.0)
        self.log.record(step, **judged.scores.record(self.names))
        for table in judged.tables(self.names):
            self.log.say(table)
        self.log.say(f"iteration {step}: {judged.headline()}")
        if step == self.config.train.iterations:
            self._report(judged)
        return self._save_best(float(np.nan_to_num(compared(judged.scores, self.config))))

    def _report(self, judged: Judged) -> None:
        """The page that shows where the detector fails, small enough to hand on."""
        reported = Reported(self.folder.name, judged, intervals=None)
        page = write_report(self.folder / "report", self.val_set, reported, images=REPORT_IMAGES)
        self.log.say(f"where it fails, on the {min(REPORT_IMAGES, len(self.val_set))} worst pictures: {page}")

    def _save_best(self, score: float) -> float:
        if score < self.loop.best:
            return self.loop.best
        state = {"model": self.loop.scored_detector.state_dict(), "step": self.loop.done, "best": score}
        checkpoint.save(self.folder / "best.pt", {**self._identity(), **state})
        return score

    def _save(self) -> None:
        path = self.folder / "last.pt"
        distributed.on_main(lambda: checkpoint.save(path, {**self._identity(), **self.loop.state()}))

    def _identity(self) -> dict[str, Any]:
        ids = list(self.train_set.own_category_ids())
        return {"config": to_dict(self.config), "class_names": list(self.names), "category_ids": ids}

    def _stopped(self) -> None:
        self.log.say(
            f"stopped at iteration {self.loop.done} of {self.config.train.iterations}; all is saved, go on with:\n"
            f"  python tools/train_det.py --resume {self.folder}"
        )

    def _last_words(self) -> None:
        best = self.folder / "best.pt"
        following = (
            "train on PASCAL VOC:        python tools/train_det.py --config configs/voc07_resnet101_c4.yaml "
            "--data.root data/VOCdevkit"
            if self.config.data.format == "shapes"
            else f"score another set:          python tools/eval_det.py --checkpoint {best} --data.val SET"
        )
        self.log.say(
            f"everything is in {self.folder}: best.pt and last.pt (checkpoints), predictions.png and train_samples.png "
            f"(pictures), report/index.html, detections.json, metrics.jsonl, log.txt, config.yaml\n"
            f"look at your own pictures:  python tools/predict_det.py --checkpoint {best} --input IMAGES --output out\n"
            f"{following}"
        )


def compared(scores: Scores, config: Config) -> float:
    """The score that ``best.pt`` is chosen by: COCO's AP on COCO data, VOC's area mean elsewhere."""
    return scores.coco.summary["COCO AP"] if config.data.format == "coco" else scores.voc.mean_area


def resumed_config(state: dict[str, Any], explicit: dict[str, Any], path: str) -> Config:
    """The settings of the run that a checkpoint belongs to, with what was given now laid over them.

    Raises:
        UserError: the checkpoint cannot be gone on from, or not with these settings.
    """
    if "optimizer" not in state:
        raise UserError(
            f"{path}: holds weights only, not where the run stopped; resume from last.pt, or use --init_from"
        )
    if explicit.get("output"):
        raise UserError("--output: a resumed run goes on in its own folder; leave it out, or use --init_from")
    optimizer = state["config"]["train"]["optimizer"]
    if explicit.get("train", {}).get("optimizer", optimizer) != optimizer:
        raise UserError("--train.optimizer: a resumed run keeps its optimizer; leave it out, or use --init_from")
    before = overlay(state["config"], {"train": {"stop_at": 0}, "resume": "", "init_from": ""})
    given = {name: value for name, value in explicit.items() if name != "resume"}
    folder = checkpoint.resolve(path).parent
    return dataclasses.replace(from_dict(overlay(before, given)), output=str(folder), resume=path)


def read_sets(config: Config) -> tuple[Annotations, Annotations]:
    """The training and the validation set; the main process may have to write the built-in one.

    Raises:
        UserError: the training set has no annotations, or something is wrong with one of them.
    """
    data = config.data
    with distributed.main_first():
        tolerant = dataclasses.replace(data, classes=class_names(data), on_error="drop")
        sets = read_annotations(tolerant, data.train), read_annotations(tolerant, data.val)
        if data.on_error == "fail":
            require_clean([*sets[0].dropped, *sets[1].dropped])
    if not sets[0].annotated:
        raise UserError(f"{data.root}: {data.train} has no annotations to learn from; name another set by --data.train")
    return sets


def require_same_classes(before: list[str], now: tuple[str, ...], path: str) -> None:
    """Raises a UserError unless a checkpoint and the data have the same classes in the same order."""
    if tuple(before) != now:
        raise UserError(f"{path}: the checkpoint has classes {', '.join(before)}, but the data has {', '.join(now)}")


def start_from(detector: FasterRCNN, names: tuple[str, ...], config: Config) -> str:
    """Take over the weights of another run; says what was taken, and which classes start anew.

    Raises:
        UserError: the other run's network is another one.
    """
    path = config.init_from
    state = checkpoint.load(path)
    theirs, own = network_of(from_dict(state["config"])), network_of(config)
    if theirs != own:
        raise UserError(f"--init_from {path}: its network is a {theirs}, this run's a {own}; take one of the same kind")
    return init_from(detector, names, checkpoint.weights(state), state.get("class_names", ()), path)


def network_of(config: Config) -> str:
    """`resnet101 with head c4`."""
    return f"{config.backbone} with head {config.model.head}"


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


def left_out(read: Annotations, kept: Annotations) -> list[str]:
    """A sentence on the training images that `data.empty` left out; none without such."""
    count = len(read) - len(kept)
    return [f"images to train without a target: {count}, left out (data.empty drop)"] if count else []


def describe(annotations: Annotations, name: str) -> str:
    """`150 images with 412 objects (2007/train)`."""
    return f"{len(annotations)} images with {len(annotations.labels)} objects ({name})"


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
