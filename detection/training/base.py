"""What every training run has: a folder, a log, a loop, checkpoints, and how it goes on after a stop.

A kind of run (detection, localization) says how its data are read, its network is built and its scores are made.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.table import Table
from torch import nn

from detection import checkpoint, distributed
from detection.config import Config, from_dict, overlay, to_dict
from detection.data.checks import report
from detection.data.dataset import Annotations
from detection.data.loader import DetectionDataset, TrainingBatches
from detection.data.transforms import TrainingTransform
from detection.errors import UserError, listed
from detection.files import replacing, unused
from detection.finalize import finalize, require_unchanged
from detection.inference.devices import choose_device
from detection.inspection.draw import SHEET_IMAGES, save_picture, training_sheet
from detection.model.build import Stage, load_state
from detection.training.log import RunLog
from detection.training.loop import Loop


class RunData(NamedTuple):
    """What a run is about."""

    train: Annotations
    val: Annotations
    sentences: list[str]
    """What is worth saying about them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The K class names."""
        return self.train.class_names


class Run(ABC):
    """One run with its folder, data, network and loop; `state` is the checkpoint that it goes on from."""

    program: str
    """The tool that trains such a run."""
    kind: str
    """What its checkpoints hold: "detector" or "localizer"."""
    fixed: tuple[str, ...]
    """Settings that its weights belong to: they stay when it goes on."""

    def __init__(self, config: Config, state: dict[str, Any] | None, device: torch.device) -> None:
        self.config, sentences = finalize(config, distributed.world_size())
        if config.model.norm == "sync" and device.type == "cpu":
            raise UserError(
                "model.norm sync: torch synchronizes batch statistics between GPUs only; use group or batch"
            )
        torch.manual_seed(self.config.seed)
        torch.use_deterministic_algorithms(self.config.train.deterministic)
        self.device = device
        self.data = self.read()
        sentences += self.data.sentences
        with distributed.main_first():
            is_fresh = state is None and not config.init_from
            network, loaded = self.build(load_weights=is_fresh)
        sentences.append(loaded)
        if state:
            self.require_same(state)
            load_state(network, state["model"], config.resume)
        elif config.init_from:
            other = checkpoint.load(config.init_from)
            checkpoint.require_kind(other, self.kind, config.init_from)
            sentences.append(self.start_from(network, other))
        self.folder = prepare_folder(self.config, self.name(), is_new=state is None)
        began_from = state["config"]["init_from"] if state else config.init_from
        self.config = dataclasses.replace(self.config, output=str(self.folder), resume="", init_from=began_from)
        self.log = open_log(self.config, self.folder)
        self.loop = Loop(network, self.config, device, self.log, self.folder, self.transform())
        if state:
            self.loop.restore(state)
            self.log.rewind(self.loop.done)
            sentences.append(f"resumed from {config.resume} at iteration {self.loop.done}")
        self._introduce(sentences, network)

    @abstractmethod
    def name(self) -> str:
        """Of the run's folder, when none is given."""

    @abstractmethod
    def read(self) -> RunData:
        """The training and the validation set; `self.config` is finalized already."""

    @abstractmethod
    def build(self, load_weights: bool) -> tuple[nn.Module, str]:
        """The network, and one line on the weights it starts from."""

    @abstractmethod
    def start_from(self, network: nn.Module, state: dict[str, Any]) -> str:
        """Takes over the weights of the checkpoint `init_from`; says what was taken."""

    @abstractmethod
    def transform(self) -> TrainingTransform:
        """What happens to a training image."""

    @abstractmethod
    def stages(self, network: nn.Module) -> list[Stage]:
        """What the network consists of, for the table that the run begins with."""

    def require_same(self, state: dict[str, Any]) -> None:
        """Raises a UserError unless the run can go on from `state`: by default, when its classes are the same."""
        require_same_classes(state["class_names"], self.data.names, self.config.resume)

    def more_identity(self) -> dict[str, Any]:
        """What the checkpoints of such runs hold beside what all do."""
        return {}

    @abstractmethod
    def evaluate(self, step: int) -> Callable[[], float]:
        """Predict on all processes; the function returned writes and scores on the main one.

        It returns what ``best.pt`` is chosen by: the larger, the better.
        """

    @abstractmethod
    def last_words(self) -> str:
        """What is where, and what to do next."""

    def go(self) -> Path:
        """Train, score at the intervals and at the end, and say where everything is."""
        try:
            is_complete = self.loop.run(self.data.train, self._evaluate, self._save)
            self.log.say(self.last_words() if is_complete else self._stopped())
        finally:
            self.log.close()
        return self.folder

    def _introduce(self, sentences: list[str], network: nn.Module) -> None:
        config, data = self.config, self.data
        epochs = config.train.iterations * config.train.batch_size / len(data.train)
        sentences += [
            f"{describe(data.train, config.data.train)} to train, {describe(data.val, config.data.val)} to score",
            f"{config.train.iterations} iterations = {epochs:.1f} epochs, on {self.device} "
            f"in {str(self.loop.dtype).removeprefix('torch.')}, seed {config.seed}",
        ]
        sentences += report(data.train.dropped + data.val.dropped)
        for sentence in sentences:
            self.log.say(sentence)
        self.log.say(stage_table(self.stages(network), self.config.backbone))
        distributed.on_main(self._write_settings)
        distributed.on_main(self._draw_samples)

    def _write_settings(self) -> None:
        with replacing(self.folder / "config.yaml") as path:
            path.write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False))

    def _draw_samples(self) -> None:
        """The first training samples as the network gets them, so that mistakes in boxes and labels are seen."""
        data, seed = self.config.data, self.config.seed
        images = self.config.train.batch_size // self.config.train.accumulate
        batches = TrainingBatches(self.data.train.sizes, images, seed, data.group_by_shape)
        dataset = DetectionDataset(self.data.train, self.loop.transform)
        keys = islice(chain.from_iterable(batches), SHEET_IMAGES)
        sheet = training_sheet([dataset[key] for key in keys], self.data.names)
        save_picture(self.folder / "train_samples.png", sheet)
        self.log.pictures("training samples", self.folder / "train_samples.png")

    def _evaluate(self, step: int) -> None:
        """Score the validation set; the best weights so far go to ``best.pt``."""
        self.log.say(f"iteration {step}: predicting {len(self.data.val)} images of {self.config.data.val}")
        score = self.evaluate(step)
        self.loop.best = distributed.on_main(lambda: self._save_best(score()))

    def _save_best(self, score: float) -> float:
        """Returns the best score so far."""
        if score < self.loop.best:
            return self.loop.best
        state = {"model": self.loop.scored_detector.state_dict(), "step": self.loop.done, "best": score}
        checkpoint.save(self.folder / "best.pt", {**self._identity(), **state})
        return score

    def _save(self) -> None:
        path = self.folder / "last.pt"
        distributed.on_main(lambda: checkpoint.save(path, {**self._identity(), **self.loop.state()}))

    def _identity(self) -> dict[str, Any]:
        ids = list(self.data.train.own_category_ids())
        identity = {"kind": self.kind, "config": to_dict(self.config), "category_ids": ids}
        return {**identity, "class_names": list(self.data.names), **self.more_identity()}

    def _stopped(self) -> str:
        return (
            f"stopped at iteration {self.loop.done} of {self.config.train.iterations}; all is saved, go on with:\n"
            f"  python tools/{self.program} --resume {self.folder}"
        )


def go(kind: type[Run], config: Config, explicit: dict[str, Any]) -> Path:
    """Train a network, score it, and say where everything is.

    Args:
        kind: of run.
        config: the settings, not yet finalized.
        explicit: what of them was given by the user; a resumed run takes everything else from its checkpoint.

    Returns:
        The run folder.

    Raises:
        UserError: settings, data or weights are at fault.
    """
    state = checkpoint.load(config.resume) if config.resume else None
    if state:
        checkpoint.require_kind(state, kind.kind, config.resume)
        config = resumed_config(state, explicit, config.resume, kind.fixed)
    device = distributed.init_from_environment(choose_device(config.device))
    try:
        return kind(config, state, device).go()
    finally:
        distributed.shutdown()


def resumed_config(state: dict[str, Any], explicit: dict[str, Any], path: str, fixed: Sequence[str]) -> Config:
    """The settings of the run that a checkpoint belongs to, with what was given now laid over them.

    Args:
        fixed: names of settings that must stay.

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
    config = from_dict(overlay(before, given))
    require_unchanged(from_dict(before), config, fixed, path)
    return dataclasses.replace(config, output=str(folder), resume=path)


def require_same_classes(before: list[str], now: tuple[str, ...], path: str) -> None:
    """Raises a UserError unless a checkpoint and the data have the same classes in the same order."""
    if tuple(before) != now:
        raise UserError(f"{path}: the checkpoint has classes {listed(before)}, but the data has {listed(now)}")


def prepare_folder(config: Config, name: str, is_new: bool) -> Path:
    """The run folder; a new run never writes into that of another.

    Raises:
        UserError: `output` holds a run already, or cannot be written to.
    """
    if not is_new:
        return Path(config.output)
    folder = Path(config.output) if config.output else unused(Path("runs") / name)
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
    """A sentence on the training images without a target, which are left out; none without such."""
    count = len(read) - len(kept)
    return [f"images to train without a target: {count:,}, left out"] if count else []


def describe(annotations: Annotations, name: str) -> str:
    """`150 images with 412 objects (2007/train)`."""
    return f"{len(annotations)} images with {len(annotations.labels)} objects ({name})"


def stage_table(rows: Sequence[Stage], backbone: str) -> Table:
    """Stage by stage: parameters, whether they are trained, normalization."""
    table = Table("stage", "parameters", "trained", "normalization", title=backbone, title_justify="left")
    for row in rows:
        state = "frozen" if row.trained == 0 else "all" if row.trained == row.parameters else f"{row.trained:,}"
        table.add_row(row.name, f"{row.parameters:,}", state, row.norm)
    table.add_section()
    table.add_row("in all", f"{sum(r.parameters for r in rows):,}", f"{sum(r.trained for r in rows):,}", "")
    for column in table.columns[1:3]:
        column.justify = "right"
    return table
