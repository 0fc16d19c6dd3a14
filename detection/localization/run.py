"""A training run of a localizer: data, network, the error by ILSVRC's rule, pictures."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from detection import checkpoint
from detection.config import Config, from_dict
from detection.data.overlap import overlap_sentence
from detection.errors import UserError
from detection.finalize import value_of
from detection.inspection.draw import save_picture
from detection.localization.build import build_localizer
from detection.localization.crops import CropTransform
from detection.localization.load import (
    ARCHITECTURE,
    load_first_stage,
    require_first_stage,
    require_same_first_stage,
    weights_digest,
)
from detection.localization.localizer import Localizer
from detection.localization.locate import Located, Locator, LocMember
from detection.localization.pictures import sheet
from detection.localization.proposals import kept_proposals
from detection.localization.rule import best_constant_box, counted
from detection.localization.single import image_labels, read_sets, with_targets
from detection.localization.tables import GIVEN, given_errors
from detection.localization.val_set import require_boxes
from detection.model.build import Stage, load_state
from detection.training.base import Run, RunData, go, left_out

LAYERS = tuple(f"loc.{name}" for name in ("method", "layer", "anchor_sizes", "anchor_ratios", "box_weights"))
"""Settings that the weights of the per-class layers belong to."""


def train(config: Config, explicit: dict[str, Any]) -> Path:
    """Train a localizer: see :func:`detection.training.base.go`."""
    return go(LocalizationRun, config, explicit)


class LocalizationRun(Run):
    """The training of a localizer."""

    program, kind, fixed = "train_loc.py", "localizer", ARCHITECTURE

    def name(self) -> str:
        """`single_shapes_resnet18_rpn`."""
        return f"{Path(self.config.data.root).name}_{self.config.backbone}_{self.config.loc.method}"

    def read(self) -> RunData:
        """The two sets, and how wrong a single box would be everywhere."""
        require_first_stage(self.config)  # before anything that takes long
        read, val = read_sets(self.config)
        require_boxes(val, self.config.data.val)
        train = with_targets(read, self.config.data)
        self.constant = best_constant_box(train, val)
        sentences = [
            f"{len(train.class_names)} classes, one in each image",
            *left_out(read, train),
            f"the best constant box is wrong in {100 * self.constant:.1f} % of the images to score",
            *filter(None, [overlap_sentence(train, val)]),
        ]
        return RunData(train, val, sentences)

    def build(self, load_weights: bool) -> tuple[Localizer, str]:
        """The localizer of `self.config`; with rcnn also the one that makes its proposals."""
        config, names = self.config, self.data.names
        first_stage = load_first_stage(config, names, self.device) if config.loc.method == "rcnn" else None
        localizer, report = build_localizer(config, len(names), load_weights=load_weights)
        self.member = LocMember(localizer, config, first_stage)  # what cannot be scored is refused before training
        return localizer, report

    def start_from(self, network: Localizer, state: dict[str, Any]) -> str:
        """Takes the trunk; the per-class layers too where they are of the same classes and the same settings.

        Raises:
            UserError: the other run's trunk is another one.
        """
        path, other = self.config.init_from, from_dict(state["config"])
        if other.backbone != self.config.backbone:
            raise UserError(f"--init_from {path}: its trunk is {other.backbone}, this run's {self.config.backbone}")
        own, _ = _layers_apart(network.state_dict())
        given, trunk = _layers_apart(checkpoint.weights(state))
        is_same = all(value_of(other, name) == value_of(self.config, name) for name in LAYERS)
        keeps = is_same and tuple(state["class_names"]) == self.data.names
        load_state(network, {**trunk, **(given if keeps else own)}, path)
        return f"weights from {path}, {'with its per-class layers' if keeps else 'the per-class layers start anew'}"

    def transform(self) -> CropTransform:
        """Random crops; with rcnn around the proposals of the first stage."""
        config, first_stage = self.config, self.member.first_stage
        if first_stage is None:
            return CropTransform(config, config.seed)
        told = self.log.share("proposed")
        proposals = kept_proposals(self.folder, first_stage, self.data.train, config.loc.proposals, told)
        return CropTransform(config, config.seed, proposals)

    def require_same(self, state: dict[str, Any]) -> None:
        """The proposals of an rcnn stay those of the first stage that it has begun with."""
        super().require_same(state)
        if self.member.first_stage:
            otherwise = "begin a new run with --init_from"
            require_same_first_stage(state, self.member.first_stage, self.config.resume, otherwise)

    def more_identity(self) -> dict[str, str]:
        """The digest of the first stage's weights, of an rcnn."""
        first_stage = self.member.first_stage
        return {"first_stage": weights_digest(first_stage.members[0].localizer)} if first_stage else {}

    def stages(self, network: Localizer) -> list[Stage]:
        """As an image passes through them."""
        return network.stages()

    def evaluate(self, step: int) -> Callable[[], float]:
        """A box for the class of each image; the error, and pictures."""
        member = dataclasses.replace(self.member, localizer=self.loop.scored_detector)
        locator, val = Locator([member], self.data.names, self.device), self.data.val
        located = locator.locate(val, image_labels(val)[:, None], self.log.share("located"))
        return lambda: self._score(step, located)

    def _score(self, step: int, located: Located) -> float:
        val, boxes = self.data.val, located.boxes[:, 0]
        told = {**given_errors(boxes, val), "LOC error, best constant box": self.constant}
        save_picture(self.folder / "predictions.png", sheet(val, image_labels(val)[:, None], located))
        self.log.pictures("predictions", self.folder / "predictions.png")
        self.log.record(step, **told)
        words = ", ".join(f"{name} {100 * value:.1f} %" for name, value in told.items())
        self.log.say(f"iteration {step}: {words} ({int(counted(val).sum())} images)")
        return -told[GIVEN]

    def last_words(self) -> str:
        """The files, and the next command."""
        best = self.folder / "best.pt"
        return (
            f"everything is in {self.folder}: best.pt and last.pt (checkpoints), predictions.png and train_samples.png "
            f"(pictures), metrics.jsonl, log.txt, config.yaml\n"
            f"score it again, or another set:  python tools/eval_loc.py --checkpoint {best}"
        )


def _layers_apart(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the per-class layers, and the others."""
    layers = {name: tensor for name, tensor in weights.items() if name.startswith("layers.")}
    return layers, {name: tensor for name, tensor in weights.items() if name not in layers}
