"""The one place where trained localizers run: a box for each class that an image is known, or guessed, to show.

Letters: ``I`` images, ``B`` images of a batch, ``n`` asked classes of an image, ``K`` classes, ``P`` proposals.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.config import Config
from detection.data.dataset import Annotations, ImageSize, keep_images
from detection.data.loader import Images
from detection.errors import UserError
from detection.inference.devices import autocast, trained_precision
from detection.inference.look_through import look_through
from detection.inference.predictor import ImageLike, at_sizes
from detection.localization.answers import AS_STORED, Answers, agree, best, join, look_again, on_centre, on_map
from detection.localization.localizer import Localizer
from detection.localization.over_set import Columns, over_set
from detection.localization.single import image_labels

LONGEST = 4
"""Whole images are at most so many times as long as the wanted shorter side, to bound memory: longer ones shrink."""
STRIDE = 32
"""Padded sides of whole images are multiples of the coarsest stride in use."""


class Located(NamedTuple):
    """Boxes for the asked classes of images."""

    boxes: np.ndarray
    """(I, n, 4) float64: x1, y1, x2, y2 in pixels of the original image; zeros where nothing was asked."""
    scores: np.ndarray
    """(I, n) float64 in [0, 1]; 0 where nothing was asked."""


@dataclass(frozen=True)
class LocMember:
    """A localizer and the settings that it is run with."""

    localizer: Localizer
    config: Config
    first_stage: "Locator | None" = None
    """rcnn: what makes the proposals."""

    @property
    def sizes(self) -> list[ImageSize]:
        """The sizes at which it looks at images."""
        loc = self.config.loc
        if self.first_stage is not None:
            return [*sizes_of(self.first_stage.members), AS_STORED]
        if loc.test == "1crop":
            return [ImageSize(max(loc.test_crop_from, loc.crop), math.inf, 1)]
        return [ImageSize(scale, LONGEST * scale, STRIDE) for scale in loc.test_scales]

    def answers(self, images: Images, labels: Tensor) -> Answers:
        """Everything that it can say of `labels` (B, n) in `images`, which hold all of :attr:`sizes`."""
        loc, localizer = self.config.loc, self.localizer
        if self.first_stage is not None:
            proposals = best(self.first_stage.answers(images, labels), loc.proposals)
            return look_again(localizer, images[AS_STORED], proposals, labels, loc.crop)
        if loc.test == "1crop":
            return on_centre(localizer, images[self.sizes[0]], labels, loc.crop)
        return join([on_map(localizer, images[size], labels) for size in self.sizes])


def sizes_of(members: Sequence[LocMember]) -> list[ImageSize]:
    """Every size that one of the members looks at, once."""
    return list(dict.fromkeys(size for member in members for size in member.sizes))


class Locator:
    """A localizer, or an ensemble of several, with what is needed to run it: class names, settings, device.

    rpn: the best of all anchors, over all sizes of the image (dense) or in its centre (1crop). pcr: its one box, in
    the centre. rcnn: the best of the first stage's top `loc.proposals` of the class, by the score that it gives them;
    without suppression of overlapping ones, of which the paper has none. Several members: see
    :func:`~detection.localization.answers.agree`.
    """

    def __init__(self, members: Sequence[LocMember], class_names: Sequence[str], device: torch.device) -> None:
        """Takes localizers on `device`."""
        self.members = members
        self.class_names = tuple(class_names)
        self.device = device
        self.dtype = trained_precision(self.config.train.precision, device)

    @property
    def config(self) -> Config:
        """The settings; those of the first localizer for what an ensemble does as a whole."""
        return self.members[0].config

    def __call__(self, image: ImageLike, labels: Sequence[int]) -> Located:
        """A box for each of `labels` (n, 1..K; 0: none) in one image; I is 1.

        Raises:
            UserError: the image is missing, does not decode or has another form, or a label is none of the K.
        """
        return Located(*(values[:, :, 0] for values in self._alone(image, labels, 1)))

    def propose(self, image: ImageLike, label: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The best boxes (P, 4) of a class in one image and their scores (P,), best first; P <= `count`.

        Raises:
            UserError: as on calling it.
        """
        boxes, scores = (values[0, 0] for values in self._alone(image, [label], count))
        return boxes[scores > 0], scores[scores > 0]

    def locate(self, annotations: Annotations, labels: np.ndarray, progress: Callable[[float], None]) -> Located:
        """A box for each of `labels` (I, n; 1..K, 0: none), each image exactly once over all processes.

        Args:
            progress: called after each batch with the share of this process's images that is done.

        Returns:
            The boxes of all processes' images, on every process.

        Raises:
            UserError: an image cannot be used, or there is another number of rows or a label that is none of the K.
        """
        labels = self._checked(labels, len(annotations))
        asked = labels.any(axis=1)
        if asked.any() and not asked.all():
            return self._locate_some(annotations, labels, asked, progress)

        def answer(images: Images, indices: np.ndarray) -> Columns:
            return tuple(values[:, :, 0] for values in self._best(images, labels[indices], 1))

        sizes = sizes_of(self.members)
        return Located(*over_set(annotations, sizes, answer, progress, device=self.device, **self._reading))

    def _locate_some(
        self, annotations: Annotations, labels: np.ndarray, asked: np.ndarray, progress: Callable[[float], None]
    ) -> Located:
        """As :meth:`locate`, for images of some of which (`asked`, (I,) bool) nothing is asked."""
        found = self.locate(keep_images(annotations, asked), labels[asked], progress)
        boxes, scores = np.zeros((*labels.shape, 4)), np.zeros(labels.shape)
        boxes[asked], scores[asked] = found
        return Located(boxes, scores)

    def propose_all(
        self,
        annotations: Annotations,
        count: int,
        write: Callable[[int, np.ndarray], None],
        progress: Callable[[float], None],
    ) -> None:
        """The best `count` boxes of each image's own class, best first; zeros where there are fewer.

        Args:
            write: called by each process for every image of its part, with the image's index and boxes (`count`, 4)
                float32.
            progress: and errors: as of :meth:`locate`.
        """
        labels = self._checked(image_labels(annotations)[:, None], len(annotations))

        def answer(images: Images, indices: list[int]) -> None:
            boxes, _ = self._best(images, labels[indices], count)
            rows = np.pad(boxes[:, 0], ((0, 0), (0, count - boxes.shape[2]), (0, 0)))
            for index, row in zip(indices, rows.astype(np.float32), strict=True):
                write(index, row)

        look_through(annotations, sizes_of(self.members), answer, progress, device=self.device, **self._reading)

    @torch.inference_mode()
    def answers(self, images: Images, labels: Tensor) -> Answers:
        """What the members say of `labels` (B, n); where the label is 0 no answer counts.

        Leaves the localizers in evaluation mode.
        """
        for member in self.members:
            member.localizer.eval()
        with autocast(self.device, self.dtype):
            answers = agree([member.answers(images, labels) for member in self.members])
        return answers._replace(scores=torch.where(labels.unsqueeze(-1) > 0, answers.scores, 0.0))

    @property
    def _reading(self) -> dict[str, int]:
        """How images are read: see :func:`~detection.data.loader.scoring_loader`."""
        data = self.config.data
        return {
            "batch_size": self.config.test.batch_size,
            "workers": data.workers,
            "reduced_decoding": data.reduced_decoding,
        }

    def _alone(self, image: ImageLike, labels: Sequence[int], count: int) -> Columns:
        """Boxes (1, n, P, 4) and scores (1, n, P) of one image."""
        asked, images = self._checked(np.array([labels]), 1), at_sizes(image, sizes_of(self.members))
        return self._best({size: batch.to(self.device) for size, batch in images.items()}, asked, count)

    def _best(self, images: Images, labels: np.ndarray, count: int) -> Columns:
        """The best answers, on the host: boxes (B, n, P, 4), zeros where an answer does not count; scores (B, n, P)."""
        answers = best(self.answers(images, torch.from_numpy(labels).to(self.device)), count)
        boxes, scores = (values.double().cpu().numpy() for values in answers)
        return np.where(scores[..., None] > 0, boxes, 0.0), scores

    def _checked(self, labels: np.ndarray, images: int) -> np.ndarray:
        """The labels as (I, n) int64.

        Raises:
            UserError: they are none.
        """
        labels, classes = np.asarray(labels), len(self.class_names)
        if labels.ndim != 2 or len(labels) != images or labels.dtype.kind not in "iu":
            raise UserError(
                f"labels: give a row of whole numbers for each of {images} images, not {labels.dtype} of shape "
                f"{labels.shape}"
            )
        wrong = labels[(labels < 0) | (labels > classes)]
        if len(wrong):
            raise UserError(f"label {wrong[0]}: the localizer knows labels 1 to {classes}; 0 stands for none")
        return labels.astype(np.int64)
