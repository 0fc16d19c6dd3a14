"""The one form of results: flat arrays, written to and read from COCO JSON and VOC result files.

Letters: ``D`` detections, ``K`` classes of the data set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.data.dataset import Annotations
from detection.evaluation import coco_files, voc_files
from detection.evaluation.columns import Columns


@dataclass
class Detections:
    """D detections of a data set. Their order is the order of the file: protocols break ties of scores by it."""

    image_indices: np.ndarray
    """(D,) int64: index of the image in the data set's `Annotations`."""
    labels: np.ndarray
    """(D,) int64: 1..K."""
    scores: np.ndarray
    """(D,) float32 or float64, higher is better."""
    boxes: np.ndarray
    """(D, 4) x1, y1, x2, y2 in pixels of the original image: float32 from a detector, float64 from a file."""

    @classmethod
    def empty(cls) -> "Detections":
        """No detections (D = 0)."""
        return cls(
            image_indices=np.zeros(0, np.int64),
            labels=np.zeros(0, np.int64),
            scores=np.zeros(0, np.float32),
            boxes=np.zeros((0, 4), np.float32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Detections"]) -> "Detections":
        """The detections of all parts, one part after another; of no parts, none."""
        if not parts:
            return cls.empty()
        return cls(
            image_indices=np.concatenate([part.image_indices for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            boxes=np.concatenate([part.boxes for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, which: np.ndarray) -> "Detections":
        """The detections at `which`, a mask (D,) or indices in the wanted order."""
        return Detections(self.image_indices[which], self.labels[which], self.scores[which], self.boxes[which])

    def write_coco(self, path: str | Path, annotations: Annotations) -> None:
        """Writes COCO's result form: a list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``.

        :meth:`read_coco` gives back the same detections in the same order: the same scores, and boxes that are the
        same float32 (of float64 ones, sizes are written with nine decimals).

        Args:
            path: the file; it is replaced whole or not at all.
            annotations: the data set. Its image ids are written as numbers when all of them are plain numbers
                (COCO), otherwise as text (VOC's "000017" would lose its zeros); classes by their own category ids.

        Raises:
            UserError: a score or box is not finite, or the file cannot be written.
        """
        coco_files.write(path, self._columns(), annotations)

    @classmethod
    def read_coco(cls, path: str | Path, annotations: Annotations) -> "Detections":
        """Reads what :meth:`write_coco`, or other software, wrote about the images of `annotations`.

        Detections in images that faults kept out of the set (`Annotations.left_out`) are passed over. An id may be a
        number where the set has text: 40 is "000040" as long as that can mean no other image.

        Returns:
            Detections in the order of the file; scores and boxes are float64.

        Raises:
            UserError: the file is missing or no such list; a detection names an image or a category that the set does
                not have, has a box of negative size or a number that is not finite, or is there twice; or the boxes
                are corners (x1, y1, x2, y2) or shares of the image's sides by all appearances.
        """
        return cls(*coco_files.read(path, annotations))

    def write_voc(
        self, folder: str | Path, annotations: Annotations, set_name: str, competition: str = "comp4"
    ) -> list[Path]:
        """Writes the devkit's result files ``<competition>_det_<set>_<class>.txt``, one for each class.

        A line is ``image_id confidence xmin ymin xmax ymax`` with 1-based inclusive pixels, to three decimals. Scores
        have all their digits. A class without detections has an empty file, which the evaluation server expects.

        Args:
            folder: where the files go; it is made if necessary.
            annotations: the data set that was detected in.
            set_name: the set's name without the year, as "test".
            competition: "comp3" if nothing but VOC images was used in training, otherwise "comp4".

        Returns:
            The K files, in the order of the classes.

        Raises:
            UserError: a class name cannot be part of a file name, a score or box is not finite, or a file cannot be
                written.
        """
        return voc_files.write(folder, self._columns(), annotations, set_name, competition)

    @classmethod
    def read_voc(cls, folder: str | Path, annotations: Annotations) -> "Detections":
        """Reads the result files ``comp3_det_<set>_<class>.txt`` or ``comp4_...`` of all classes of `annotations`.

        Detections in images that faults kept out of the set (`Annotations.left_out`) are passed over.

        Returns:
            Detections class by class, in the order of each file; scores and boxes are float64.

        Raises:
            UserError: the folder holds no such files, those of several sets, or not one for each class; or a line has
                another form, names an image that the set does not have, has a reversed box or a number that is not
                finite, or is there twice.
        """
        return cls(*voc_files.read(folder, annotations))

    def _columns(self) -> Columns:
        return Columns(self.image_indices, self.labels, self.scores, self.boxes)
