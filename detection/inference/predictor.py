"""The one place where a trained detector is run: on an image, or on a whole data set.

Shapes: ``D`` detections, of one image in a :class:`Prediction`, of all images in
:class:`~detection.evaluation.detections.Detections`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detection import checkpoint, distributed
from detection.config import Config, from_dict, overlay, to_dict
from detection.data.dataset import Annotations, Sample, read_image, resize, resized_size, to_rgb
from detection.data.loader import collate, scoring_loader
from detection.errors import UserError
from detection.evaluation.detections import Detections
from detection.finalize import check
from detection.inference.devices import autocast, choose_device, choose_precision, place
from detection.model.build import build_detector, class_names_of, load_state
from detection.model.faster_rcnn import FasterRCNN

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
    """A detector with what is needed to run it: class names, settings, device.

    Call it with a file name, a PIL image, a uint8 array (H, W, 3) in RGB, or a uint8 tensor (3, H, W).
    """

    def __init__(
        self,
        detector: FasterRCNN,
        class_names: tuple[str, ...],
        config: Config,
        device: torch.device,
        category_ids: tuple[int, ...] = (),
    ) -> None:
        """Takes a detector on `device`; `category_ids` are those of the K classes in files (none: 1..K)."""
        self.detector = detector
        self.class_names = class_names
        self.category_ids = category_ids
        self.config = config
        self.device = device
        is_fp16_on_cpu = config.train.precision == "fp16" and device.type == "cpu"
        self.dtype = choose_precision("fp32" if is_fp16_on_cpu else config.train.precision, device)

    def __call__(self, image: ImageLike) -> Prediction:
        """The objects in one image.

        Raises:
            UserError: the file is missing or does not decode, or the array is no RGB image.
        """
        pixels, data = as_array(image), self.config.data
        size = pixels.shape[:2]
        resized = resize(pixels, resized_size(size, data.test_min_size, data.test_max_size))
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
        sample = Sample(resized, size, *nothing, position=0, index=0)
        (found,) = self._run(collate([sample], self.config.model.padding))
        return Prediction(found["boxes"], found["labels"], found["scores"], self.class_names)

    def predict(self, annotations: Annotations, progress: Callable[[int], None]) -> Detections:
        """The objects in every image of a data set, each image exactly once over all processes.

        Args:
            progress: called after each batch with the share of this process's images that is done.

        Returns:
            All processes' detections in the order of the images, on every process.
        """
        loader = scoring_loader(
            annotations,
            self.config.data,
            batch_size=self.config.test.batch_size,
            padding=self.config.model.padding,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            pin_memory=self.device.type == "cuda",
        )
        parts, seen, images = [], [], sum(map(len, loader.batch_sampler))
        for batch in loader:
            for index, found in zip(batch.image_indices.tolist(), self._run(batch), strict=True):
                image = np.full(len(found["scores"]), index)
                parts.append(Detections(image, found["labels"], found["scores"], found["boxes"]))
                seen.append(index)
            progress(len(seen) / images)
        return gather(parts, seen, len(annotations))

    @torch.inference_mode()
    def _run(self, batch: Any) -> list[dict[str, np.ndarray]]:
        """Detections of each image of a batch, on the host; leaves the detector in evaluation mode."""
        self.detector.eval()
        with autocast(self.device, self.dtype):
            results = self.detector(batch.to(self.device, non_blocking=True))
        return [{name: values.cpu().numpy() for name, values in result.items()} for result in results]


def load_detector(path: str | Path, device: str = "auto", settings: dict[str, Any] | None = None) -> Predictor:
    """A trained detector from a checkpoint (or a run folder, which stands for its last.pt).

    Args:
        path: as ``runs/x/best.pt``; the moving average of the weights is taken if there is one.
        device: auto, cpu or cuda.
        settings: nested values laid over the run's settings, as ``{"test": {"score_threshold": 0.5}}``.

    Raises:
        UserError: the checkpoint is missing, damaged, or does not fit.
    """
    chosen = choose_device(device)
    state = checkpoint.load(path)
    config = from_dict(state["config"])
    if settings:
        config = from_dict(overlay(to_dict(config), settings))
        check(config)
    names = tuple(class_names_of(state, str(path)))
    detector, _ = build_detector(config, len(names), load_weights=False)
    load_state(detector, checkpoint.weights(state), str(path))
    detector = place(detector, chosen, config.train.channels_last).eval()
    return Predictor(detector, names, config, chosen, tuple(state.get("category_ids", ())))


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
