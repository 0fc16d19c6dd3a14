"""Both protocols on every data set: COCO's and PASCAL VOC's numbers, each under the full name of its protocol."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from detection.config import APName, MetricSettings, VOCMetricSettings
from detection.data.dataset import Annotations
from detection.evaluation.coco import COCOScores, coco_scores
from detection.evaluation.detections import Detections
from detection.evaluation.names import COCO_HEADLINE, voc_names
from detection.evaluation.tables import class_table, coco_table
from detection.evaluation.voc import VOCScores, voc_scores


@dataclass(frozen=True)
class Scores:
    """What detections are worth under both protocols."""

    voc: VOCScores
    coco: COCOScores
    voc_ap: APName
    """Which of VOC's two APs are shown."""

    def headline(self) -> dict[str, float]:
        """The means that a detector is compared by, in [0, 1]; NaN when there was nothing to find.

        They are those that :func:`detection.evaluation.names.headline_names` gives for the same settings.
        """
        means = {"area": self.voc.mean_area, "11point": self.voc.mean_11point}
        chosen = {name: means[kind] for kind, name in self._voc_names("mAP").items()}
        return {name: self.coco.summary[name] for name in COCO_HEADLINE} | chosen

    def record(self, class_names: Sequence[str]) -> dict[str, float | None]:
        """Every number, unrounded, under the full name of its protocol, for JSON; None where there is none.

        First COCO's 12 and VOC's means, then for each class "COCO AP cat", "COCO AP50 cat", "VOC area AP@0.5 cat" and
        "VOC07 11-point AP@0.5 cat".
        """
        record = self.coco.summary | self.headline()
        for class_name, numbers in self.classes(class_names).items():
            record |= {f"{name} {class_name}": value for name, value in numbers.items()}
        return {name: None if math.isnan(value) else value for name, value in record.items()}

    def classes(self, class_names: Sequence[str]) -> dict[str, dict[str, float]]:
        """The APs of each class, by class and by the full name of the protocol; NaN where there is nothing to find."""
        columns = self.columns()
        return {
            class_name: {name: float(column[index]) for name, column in columns.items()}
            for index, class_name in enumerate(class_names)
        }

    def columns(self) -> dict[str, np.ndarray]:
        """(K,) APs in [0, 1] by the full name of the protocol, COCO's first; NaN where there is nothing to find."""
        of_kind = {"area": self.voc.ap_area, "11point": self.voc.ap_11point}
        chosen = {name: of_kind[kind] for kind, name in self._voc_names("AP").items()}
        return {"COCO AP": self.coco.ap, "COCO AP50": self.coco.ap50} | chosen

    def tables(self, class_names: Sequence[str]) -> list[Table]:
        """COCO's 12 numbers with their meaning, then the APs of every class, side by side."""
        return [coco_table(self.coco), class_table(self.coco, self.voc, self.voc_ap, class_names)]

    def _voc_names(self, number: str) -> dict[str, str]:
        voc = self.voc
        return voc_names(number, VOCMetricSettings(self.voc_ap, voc.pixels, voc.difficult, voc.iou))


def score(detections: Detections, annotations: Annotations, settings: MetricSettings) -> Scores:
    """Scores detections by COCO's and by VOC's protocol, with the variants that `settings` name.

    Raises:
        UserError: the set has no annotations.
    """
    voc = settings.voc
    return Scores(
        voc=voc_scores(detections, annotations, iou=voc.iou, pixels=voc.pixels, difficult=voc.difficult),
        coco=coco_scores(detections, annotations, settings.coco_engine),
        voc_ap=voc.ap,
    )
