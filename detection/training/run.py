"""A training run of a detector: data, detector, scores, pictures and the report."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detection import checkpoint, distributed
from detection.config import Config, from_dict
from detection.data import class_names, read_annotations
from detection.data.checks import require_clean
from detection.data.dataset import Annotations, for_training
from detection.data.overlap import overlap_sentence
from detection.data.transforms import TrainTransform
from detection.errors import UserError
from detection.evaluation.detections import Detections
from detection.evaluation.scores import Scores
from detection.finalize import anchors
from detection.inference.ensemble import Member
from detection.inference.predictor import ARCHITECTURE, Predictor
from detection.inspection.report import Reported, write_report
from detection.inspection.results import Judged, write_results
from detection.model.build import Stage, build_detector, stages
from detection.model.faster_rcnn import FasterRCNN
from detection.model.transfer import init_from
from detection.training.base import Run, RunData, go, left_out

REPORT_IMAGES = 200
"""Pictures in the report of a run's last evaluation."""


def train(config: Config, explicit: dict[str, Any]) -> Path:
    """Train a detector: see :func:`detection.training.base.go`."""
    return go(DetectionRun, config, explicit)


class DetectionRun(Run):
    """The training of a detector."""

    program, kind, fixed = "train_det.py", "detector", ARCHITECTURE

    def name(self) -> str:
        """`VOCdevkit_resnet101_c4`."""
        return f"{Path(self.config.data.root).name}_{self.config.backbone}_{self.config.model.head}"

    def read(self) -> RunData:
        """Annotations as they are trained on and as they are scored."""
        read, val = read_sets(self.config)
        train = for_training(read, self.config.data)
        names = train.class_names
        sentences = [
            anchors(self.config),
            *left_out(read, train),
            f"{len(names)} classes + background = {len(names) + 1} logits: {', '.join(names)}",
            *filter(None, [overlap_sentence(train, val)]),
        ]
        return RunData(train, val, sentences)

    def build(self, load_weights: bool) -> tuple[FasterRCNN, str]:
        """The detector of `self.config`."""
        return build_detector(self.config, len(self.data.names), load_weights=load_weights)

    def start_from(self, network: FasterRCNN, state: dict[str, Any]) -> str:
        """Keeps the rows of classes that the checkpoint knows.

        Raises:
            UserError: the other run's network is another one.
        """
        known, path = state.get("class_names", ()), self.config.init_from
        theirs, own = network_of(from_dict(state["config"])), network_of(self.config)
        if theirs != own:
            raise UserError(
                f"--init_from {path}: its network is a {theirs}, this run's a {own}; take one of the same kind"
            )
        return init_from(network, self.data.names, checkpoint.weights(state), known, path)

    def transform(self) -> TrainTransform:
        """Augmentation and resizing."""
        return TrainTransform(self.config.data, self.config.seed)

    def stages(self, network: FasterRCNN) -> list[Stage]:
        """As an image passes through them."""
        return stages(network)

    def evaluate(self, step: int) -> Callable[[], float]:
        """Detections in the validation set; their scores, tables, pictures and report."""
        members = [Member(self.loop.scored_detector, self.config)]
        predictor = Predictor(members, self.data.names, self.device, self.data.train.own_category_ids())
        detections = predictor.predict(self.data.val, self.log.share("predicted"))
        return lambda: self._score(step, detections)

    def _score(self, step: int, detections: Detections) -> float:
        judged, files = write_results(self.folder, detections, self.data.val, self.config)
        self.log.pictures("predictions", self.folder / "predictions.png")
        if judged is None:
            self.log.say(f"{self.config.data.val} has no annotations: written to {files[-1]}, not scored")
            return 0.0
        self.log.record(step, **judged.scores.record(self.data.names))
        for table in judged.tables(self.data.names):
            self.log.say(table)
        self.log.say(f"iteration {step}: {judged.headline()}")
        if step == self.config.train.iterations:
            self._report(judged)
        return float(np.nan_to_num(compared(judged.scores, self.config)))

    def _report(self, judged: Judged) -> None:
        """The page that shows where the detector fails, small enough to hand on."""
        reported = Reported(self.folder.name, judged, intervals=None)
        page = write_report(self.folder / "report", self.data.val, reported, images=REPORT_IMAGES)
        self.log.say(f"where it fails, on the {min(REPORT_IMAGES, len(self.data.val))} worst pictures: {page}")

    def last_words(self) -> str:
        """The files, and the next two commands."""
        best = self.folder / "best.pt"
        following = (
            "train on PASCAL VOC:        python tools/train_det.py --config configs/voc07_resnet101_c4.yaml "
            "--data.root data/VOCdevkit"
            if self.config.data.format == "shapes"
            else f"score another set:          python tools/eval_det.py --checkpoint {best} --data.val SET"
        )
        return (
            f"everything is in {self.folder}: best.pt and last.pt (checkpoints), predictions.png and train_samples.png "
            f"(pictures), report/index.html, detections.json, metrics.jsonl, log.txt, config.yaml\n"
            f"look at your own pictures:  python tools/predict_det.py --checkpoint {best} --input IMAGES --output out\n"
            f"{following}"
        )


def compared(scores: Scores, config: Config) -> float:
    """The score that ``best.pt`` is chosen by: COCO's AP on COCO data, VOC's area mean elsewhere."""
    return scores.coco.summary["COCO AP"] if config.data.format == "coco" else scores.voc.mean_area


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


def network_of(config: Config) -> str:
    """`resnet101 with head c4`."""
    return f"{config.backbone} with head {config.model.head}"
