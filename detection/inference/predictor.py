"""The one place where a trained detector is run: on an image, or on a whole data set.

Shapes: ``D`` detections, of one image in a :class:`Prediction`, of all images in
:class:`~detection.evaluation.detections.Detections`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detection import checkpoint, distributed
from detection.command_line import checked
from detection.config import Config, from_dict, overlay, to_dict
from detection.data.dataset import Annotations, ImageSize, Sample, read_image, resize, to_rgb
from detection.data.loader import Images, collate_sizes
from detection.errors import UserError, listed
from detection.evaluation.detections import Detections
from detection.finalize import check, require_unchanged
from detection.inference.compilation import begin_step, compile_parts, returns_to_sizes
from detection.inference.devices import autocast, choose_device, place, trained_precision
from detection.inference.ensemble import Member, detect, sizes_of
from detection.inference.look_through import look_through
from detection.model.build import Undrawn, build_detector, class_names_of, load_state, prepare_for_prediction

ARCHITECTURE = (
    "backbone",
    *(f"model.{name}" for name in ("head", "norm", "pyramid_channels", "global_context", "image_mean", "image_std")),
    *(f"model.rpn.{name}" for name in ("channels", "anchor_sizes", "anchor_ratios")),
    *(f"model.roi.{name}" for name in ("pooling", "pool_size", "sampling_ratio", "hidden", "class_agnostic")),
    "model.roi.box_weights",
)
"""Settings that a trained detector's weights belong to; some would change results without a word."""

ImageLike = str | Path | Image.Image | np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Prediction:
    """What was found in one image, best first."""

    boxes: np.ndarray
    """(D, 4) float32: x1, y1, x2, y2 in pixels of the image."""
    labels: np.ndarray
    """(D,) int64: 1..K."""
    scores: np.ndarray
    """(D,) float32 in [0, 1]."""
    class_names: tuple[str, ...]
    """K names; label 1 is the first."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label - 1] for label in self.labels]


class Predictor:
    """A detector, or an ensemble of several, with what is needed to run it: class names, settings, device.

    Call it with a file name, a PIL image, a uint8 array (H, W, 3) in RGB, or a uint8 tensor (3, H, W).
    """

    def __init__(
        self,
        members: Sequence[Member],
        class_names: tuple[str, ...],
        device: torch.device,
        category_ids: tuple[int, ...] = (),
    ) -> None:
        """Takes detectors on `device`; `category_ids` are those of the K classes in files (none: 1..K)."""
        self.members = members
        self.class_names = class_names
        self.category_ids = category_ids
        self.device = device
        self.dtype = trained_precision(self.config.train.precision, device)

    @property
    def config(self) -> Config:
        """The settings; those of the first detector for what an ensemble does as a whole."""
        return self.members[0].config

    def __call__(self, image: ImageLike) -> Prediction:
        """The objects in one image.

        Raises:
            UserError: the file is missing or does not decode, or the array is no RGB image.
        """
        images = at_sizes(image, sizes_of(self.members))
        (found,) = self.run({size: batch.to(self.device) for size, batch in images.items()})
        return Prediction(found["boxes"], found["labels"], found["scores"], self.class_names)

    def predict(self, annotations: Annotations, progress: Callable[[int], None]) -> Detections:
        """The objects in every image of a data set, each image exactly once over all processes.

        Args:
            progress: called after each batch with the share of this process's images that is done.

        Returns:
            All processes' detections in the order of the images, on every process.
        """
        parts, seen = look_through(
            annotations,
            sizes_of(self.members),
            self._detections,
            progress,
            device=self.device,
            batch_size=self.config.test.batch_size,
            workers=self.config.data.workers,
            reduced_decoding=self.config.data.reduced_decoding,
        )
        return gather(parts, seen, len(annotations))

    def _detections(self, images: Images, indices: list[int]) -> Detections:
        """Those in the images of a batch, whose indices in their set are given."""
        found = zip(indices, self.run(images), strict=True)
        return Detections.concatenate(
            [Detections(np.full(len(f["scores"]), index), f["labels"], f["scores"], f["boxes"]) for index, f in found]
        )

    @torch.inference_mode()
    def run(self, images: Images) -> list[dict[str, np.ndarray]]:
        """Detections of each image, on the host; leaves the detectors in evaluation mode."""
        for member in self.members:
            member.detector.eval()
        if self.config.compile:
            begin_step(self.device)
        with autocast(self.device, self.dtype):
            results = detect(self.members, images)
        return [{name: values.cpu().numpy() for name, values in result.items()} for result in results]


def load_detector(
    path: str | Path | Sequence[str | Path], device: str = "auto", settings: dict[str, Any] | None = None
) -> Predictor:
    """A trained detector from a checkpoint (or a run folder, which stands for its last.pt); an ensemble from several.

    Args:
        path: as ``runs/x/best.pt``, or several such; the moving average of the weights is taken if there is one.
        device: auto, cpu or cuda.
        settings: values laid over each run's settings, as ``{"test": {"score_threshold": 0.5}}``.

    Raises:
        UserError: a setting is unknown or has a wrong value; a checkpoint is missing, damaged, or does not fit; those
            of an ensemble have different classes.
    """
    paths, asked, chosen = as_paths(path), settings_from(settings), choose_device(device)
    loaded = [_load_member(each, chosen, asked) for each in paths]
    _, names, _ = loaded[0]
    for other, (_, its_names, _) in zip(paths, loaded, strict=True):
        _require_same_classes(paths[0], names, other, its_names)
    category_ids = next((ids for _, _, ids in loaded if ids), ())
    return Predictor([member for member, *_ in loaded], names, chosen, category_ids)


def _load_member(
    path: str | Path, device: torch.device, settings: dict[str, Any]
) -> tuple[Member, tuple[str, ...], tuple[int, ...]]:
    """A detector with its settings, class names and category ids."""
    state = checkpoint.load(path)
    checkpoint.require_kind(state, "detector", path)
    config = settled(state, settings, ARCHITECTURE, path)
    names = tuple(class_names_of(state, str(path)))
    with Undrawn():
        detector, _ = build_detector(config, len(names), load_weights=False)
    load_state(detector, checkpoint.weights(state), str(path))
    detector = place(detector, device, config.train.channels_last)
    prepare_for_prediction(detector)
    if config.compile:
        compile_parts(detector, device, is_graphed=returns_to_sizes(config, is_training=False))
    return Member(detector, config), names, tuple(state.get("category_ids", ()))


def as_paths(path: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """One checkpoint or several, as a list.

    Raises:
        UserError: there is none.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths:
        raise UserError("no checkpoint was given; name one, or several for an ensemble")
    return paths


def settings_from(settings: dict[str, Any] | None) -> dict[str, Any]:
    """Settings given in Python, as the command line would give them.

    Raises:
        UserError: one is unknown or of a wrong type.
    """
    if not isinstance(settings or {}, Mapping):
        raise UserError(f'settings {settings!r}: give a dictionary, as {{"test": {{"refine": True}}}}')
    return checked(settings or {}, "settings: {}")


def settled(state: dict[str, Any], settings: dict[str, Any], fixed: Sequence[str], path: str | Path) -> Config:
    """The settings of a checkpoint with others laid over them, of which those named `fixed` must stay.

    Whether to compile is asked anew each time: for a few images it does not pay.

    Raises:
        UserError: a fixed one would change, or settings are out of range or contradict each other.
    """
    trained = from_dict(state["config"])
    config = from_dict(overlay(to_dict(trained), {"compile": False, **settings}))
    require_unchanged(trained, config, fixed, path)
    check(config)
    return config


def at_sizes(image: ImageLike, sizes: Sequence[ImageSize]) -> Images:
    """One image at each size, on the host.

    Raises:
        UserError: as :func:`as_array`.
    """
    pixels = as_array(image)
    shape = pixels.shape[:2]
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    samples = [Sample(resize(pixels, size.resized(shape)), shape, *nothing, position=0, index=0) for size in sizes]
    return collate_sizes([samples], sizes)


def _require_same_classes(first: str | Path, names: tuple[str, ...], other: str | Path, its: tuple[str, ...]) -> None:
    """Raises a UserError when two checkpoints of an ensemble do not know the same classes in the same order."""
    if its == names:
        return
    lacking = [name for name in names if name not in its]
    unknown = [name for name in its if name not in names]
    why = [f"it lacks {listed(lacking)}"] if lacking else []
    why += [f"{first} does not know {listed(unknown)}"] if unknown else []
    raise UserError(
        f"{other}: its classes are not those of {first} ({' and '.join(why) or 'they come in another order'}); "
        "an ensemble needs detectors of the same classes"
    )


def as_array(image: ImageLike) -> np.ndarray:
    """An image as uint8 (H, W, 3) in RGB; files and PIL images obey their EXIF orientation.

    Raises:
        UserError: the file is missing or does not decode, or the array has another form.
    """
    if isinstance(image, str | Path):
        return read_image(image, obey_exif=True)
    if isinstance(image, Image.Image):
        return to_rgb(image, "the image", obey_exif=True)
    if isinstance(image, torch.Tensor):
        image = image.permute(1, 2, 0).cpu().numpy() if image.ndim == 3 else image.numpy()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"an image is uint8 with three channels (RGB), not {image.dtype} of shape {image.shape}")
    return np.ascontiguousarray(image)


def gather(parts: list[Detections], seen: list[int], images: int) -> Detections:
    """Every process's detections in the order of the images.

    Raises:
        RuntimeError: an image was computed twice or not at all.
    """
    everywhere = distributed.gather_objects((Detections.concatenate(parts), seen))
    indices = sorted(index for _, part in everywhere for index in part)
    if indices != list(range(images)):
        raise RuntimeError(f"{len(indices)} results for {images} images: each image must be computed exactly once")
    merged = Detections.concatenate([detections for detections, _ in everywhere])
    order = np.argsort(merged.image_indices, kind="stable")
    return Detections(*(values[order] for values in vars(merged).values()))
