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
from detection.inspection.draw import save_picture
from detection.localization.build import build_localizer
from detection.localization.crops import CropTransform
from detection.localization.localizer import Localizer
from detection.localization.locate import Located, Locator, LocMember, load_first_stage
from detection.localization.pictures import sheet
from detection.localization.rule import best_constant_box, counted, given_class_errors
from detection.localization.single import image_labels, read_sets
from detection.localization.tables import GIVEN, STRICT_IOU
from detection.localization.val_set import require_boxes
from detection.model.build import Stage, load_state
from detection.training.base import Run, RunData, go


def train(config: Config, explicit: dict[str, Any]) -> Path:
    """Train a localizer: see :func:`detection.training.base.go`."""
    return go(LocalizationRun, config, explicit)


class LocalizationRun(Run):
    """The training of a localizer."""

    program, kind = "train_loc.py", "localizer"

    def name(self) -> str:
        """`single_shapes_resnet18_rpn`."""
        return f"{Path(self.config.data.root).name}_{self.config.backbone}_{self.config.loc.method}"

    def read(self) -> RunData:
        """The two sets, and how wrong a single box would be everywhere."""
        train, val = read_sets(self.config)
        require_boxes(val, self.config.data.val)
        self.constant = best_constant_box(train, val)
        sentences = [
            f"{len(train.class_names)} classes, one in each image",
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
        """Takes the trunk; the per-class layers too where they are of the same method, classes and shape.

        Raises:
            UserError: the other run's trunk is another one.
        """
        path, other = self.config.init_from, from_dict(state["config"])
        if other.backbone != self.config.backbone:
            raise UserError(f"--init_from {path}: its trunk is {other.backbone}, this run's {self.config.backbone}")
        own, _ = _layers_apart(network.state_dict())
        given, trunk = _layers_apart(checkpoint.weights(state))
        is_same = other.loc.method == self.config.loc.method and tuple(state["class_names"]) == self.data.names
        keeps = is_same and all(given[name].shape == tensor.shape for name, tensor in own.items())
        load_state(network, {**trunk, **(given if keeps else own)}, path)
        return f"weights from {path}, {'with its per-class layers' if keeps else 'the per-class layers start anew'}"

    def transform(self) -> CropTransform:
        """Random crops; with rcnn around the proposals of the first stage."""
        config, first_stage = self.config, self.member.first_stage
        if first_stage is None:
            return CropTransform(config, config.seed)
        proposals = first_stage.propose_all(self.data.train, config.loc.proposals, self.log.share("proposed"))
        return CropTransform(config, config.seed, proposals)

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
        known = counted(val)
        error, strict = (given_class_errors(boxes, val, iou)[known].mean() for iou in (0.5, STRICT_IOU))
        save_picture(self.folder / "predictions.png", sheet(val, image_labels(val)[:, None], located))
        self.log.pictures("predictions", self.folder / "predictions.png")
        told = {GIVEN: error, f"{GIVEN}, IoU {STRICT_IOU:g}": strict, "LOC error, best constant box": self.constant}
        self.log.record(step, **{name: float(value) for name, value in told.items()})
        words = ", ".join(f"{name} {100 * value:.1f} %" for name, value in told.items())
        self.log.say(f"iteration {step}: {words} ({int(known.sum())} images)")
        return -float(error)

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
