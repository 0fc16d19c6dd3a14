"""The one place where trained localizers run: a box for each class that an image is known, or guessed, to show.

Letters: ``I`` images, ``B`` images of a batch, ``n`` asked classes of an image, ``K`` classes, ``P`` proposals.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection import checkpoint
from detection.config import Config
from detection.data.dataset import Annotations, ImageSize
from detection.data.loader import Images
from detection.errors import UserError
from detection.inference.compilation import compile_parts
from detection.inference.devices import autocast, choose_device, place, trained_precision
from detection.inference.predictor import ImageLike, as_paths, at_sizes, settings_from, settled
from detection.localization.answers import AS_STORED, Answers, agree, best, join, look_again, on_centre, on_map
from detection.localization.build import build_localizer
from detection.localization.localizer import Localizer
from detection.localization.over_set import Columns, over_set
from detection.localization.single import image_labels
from detection.model.build import class_names_of, load_state

ARCHITECTURE = (
    "backbone",
    *(f"model.{name}" for name in ("norm", "image_mean", "image_std")),
    *(f"loc.{name}" for name in ("method", "layer", "crop", "anchor_sizes", "anchor_ratios", "box_weights")),
)
"""Settings that a trained localizer's weights belong to; some would change results without a word."""
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

    def __init__(
        self,
        members: Sequence[LocMember],
        class_names: Sequence[str],
        device: torch.device,
        category_ids: Sequence[int] = (),
    ) -> None:
        """Takes localizers on `device`; `category_ids` are those of the K classes in files (none: 1..K)."""
        self.members = members
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
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
        return Located(*(values[:, :, 0] for values in self._over_set(annotations, labels, 1, progress)))

    def propose_all(self, annotations: Annotations, count: int, progress: Callable[[float], None]) -> np.ndarray:
        """The best boxes (I, `count`, 4) float32 of each image's own class, best first; zeros where there are fewer.

        Arguments and errors as of :meth:`locate`.
        """
        labels = image_labels(annotations)[:, None]
        boxes, _ = self._over_set(annotations, labels, count, progress, np.float32)
        return np.pad(boxes[:, 0], ((0, 0), (0, count - boxes.shape[2]), (0, 0)))

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

    def _over_set(
        self,
        annotations: Annotations,
        labels: np.ndarray,
        count: int,
        progress: Callable[[float], None],
        dtype: type = np.float64,
    ) -> Columns:
        """Boxes (I, n, P, 4) of type `dtype`, and scores (I, n, P)."""
        labels = self._checked(labels, len(annotations))

        def answer(images: Images, indices: np.ndarray) -> Columns:
            boxes, scores = self._best(images, labels[indices], count)
            return boxes.astype(dtype), scores

        return over_set(
            annotations,
            sizes_of(self.members),
            answer,
            progress,
            device=self.device,
            batch_size=self.config.test.batch_size,
            workers=self.config.data.workers,
        )

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


class _Loaded(NamedTuple):
    """What a checkpoint gives."""

    member: LocMember
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]


def load_locator(
    path: str | Path | Sequence[str | Path], device: str = "auto", settings: dict[str, Any] | None = None
) -> Locator:
    """A trained localizer from a checkpoint (or a run folder, which stands for its last.pt); an ensemble from several.

    Args:
        path: as ``runs/x/best.pt``, or several such; the moving average of the weights is taken if there is one.
        device: auto, cpu or cuda.
        settings: values laid over each run's settings, as ``{"loc": {"test": "1crop"}}``.

    Raises:
        UserError: a setting is unknown or has a wrong value; a checkpoint (or that of the first stage of one) is
            missing, damaged, or does not fit; those of an ensemble have different classes.
    """
    paths, asked, chosen = as_paths(path), settings_from(settings), choose_device(device)
    loaded = [_load(each, chosen, asked) for each in paths]
    names = loaded[0].class_names
    for other, its in zip(paths, loaded, strict=True):
        if its.class_names != names:
            raise UserError(f"{other}: its classes are not those of {paths[0]}; an ensemble needs the same classes")
    ids = next((each.category_ids for each in loaded if each.category_ids), ())
    return Locator([each.member for each in loaded], names, chosen, ids)


def load_first_stage(config: Config, class_names: Sequence[str], device: torch.device) -> Locator:
    """The rpn whose proposals the rcnn of `config` looks at; it looks at images as `config` says (`loc.test`).

    Raises:
        UserError: `loc.first_stage` is no checkpoint of an rpn with the classes `class_names`.
    """
    loc = config.loc
    name = f"loc.first_stage {loc.first_stage or '(empty)'}"
    if not loc.first_stage or not checkpoint.resolve(loc.first_stage).is_file():
        raise UserError(f"{name}: no such checkpoint; rcnn looks at the proposals of a trained rpn, so name its run")
    test = {"test": loc.test, "test_scales": list(loc.test_scales), "test_crop_from": loc.test_crop_from}
    loaded = _load(loc.first_stage, device, {"loc": test, "compile": config.compile})
    method = loaded.member.config.loc.method
    if method != "rpn":
        raise UserError(f"{name}: a trained {method}, but proposals are made by an rpn; name the run of one")
    if loaded.class_names != tuple(class_names):
        raise UserError(f"{name}: its classes are not those of the rcnn; train an rpn on the same classes")
    return Locator([loaded.member], class_names, device, loaded.category_ids)


def _load(path: str | Path, device: torch.device, settings: dict[str, Any]) -> _Loaded:
    """A localizer with its settings, first stage, class names and category ids."""
    state = checkpoint.load(path)
    checkpoint.require_kind(state, "localizer", path)
    config = settled(state, settings, ARCHITECTURE, path)
    names = tuple(class_names_of(state, str(path)))
    localizer, _ = build_localizer(config, len(names), load_weights=False)
    load_state(localizer, checkpoint.weights(state), str(path))
    localizer = place(localizer, device, config.train.channels_last).eval()
    if config.compile:
        compile_parts(localizer, device, is_graphed=False)
    first_stage = load_first_stage(config, names, device) if config.loc.method == "rcnn" else None
    return _Loaded(LocMember(localizer, config, first_stage), names, tuple(state.get("category_ids", ())))
