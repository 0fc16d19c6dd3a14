"""Loading: from JPEG files to batches on the device, with as many workers as `data.workers` says.

Shapes: ``B`` images, ``H, W`` rows and columns.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detection.batch import Batch
from detection.benchmark.agreement import ABSOLUTE, Check, Disagreement, require_close, require_some
from detection.benchmark.case import Case
from detection.benchmark.pictures import OBJECTS, draw_pictures, random_boxes
from detection.benchmark.reference_loader import ReferenceImages, reference_loader
from detection.benchmark.report import Measured, Row
from detection.benchmark.timing import in_turns, settle
from detection.config import AugmentSettings, Config
from detection.data.dataset import Annotations, read_image
from detection.data.loader import DetectionDataset, training_loader
from detection.data.transforms import TrainTransform
from detection.errors import UserError
from detection.inference.devices import choose_device
from detection.model.pixels import Normalizer

SHRINK = 0.625
"""Side of the stored pictures over that of the resized ones: 375x500, a common size in VOC, becomes 600x800."""
PICTURES, QUALITY = 32, 96
"""Drawn pictures, and JPEG's quality, at which they are about as large as VOC's files (80 kB)."""
IMAGES_A_TURN = 64
LEVELS = 2.0
"""Mean difference in levels (0 to 255) between the sides' pictures, decoded and resized."""
BOX_PIXELS = 0.01
NORMALIZED = "ours, normalized on the CPU"


def loader_stage(case: Case) -> Measured:
    """Images a second, once both sides make the same of a file.

    On a GPU, "ours" normalizes there; otherwise it hands out the uint8 batches that a GPU would get.

    Raises:
        Disagreement: they do not.
    """
    device = choose_device(case.config.device)
    normalize = Normalizer(case.config.model.image_mean, case.config.model.image_std)
    with TemporaryDirectory() as folder:
        annotations = annotate(find_pictures(case.pictures) if case.pictures else write_pictures(case, Path(folder)))
        checks = check_samples(annotations, case.config)
        sides = {
            "ours": partial(drawn, ours, annotations, case, device, on_device(normalize, device)),
            NORMALIZED: partial(
                drawn, ours, annotations, case, device, finish=lambda batch: to(normalize(batch), device)
            ),
            "peer": partial(drawn, theirs, annotations, case, device, finish=lambda batch: to(batch, device)),
        }
        timing = in_turns(sides, case.rounds, warm_up=1)
    what = f"{case.config.data.workers} worker, {case.size[0]}x{case.size[1]}, batch {case.batch_size}"
    images = turns_of(case) * case.batch_size
    return Measured([Row("loader", what, timing, own, images=images) for own in ("ours", NORMALIZED)], checks)


def turns_of(case: Case) -> int:
    """Batches of a turn."""
    return max(1, IMAGES_A_TURN // case.batch_size)


def ours(annotations: Annotations, case: Case, device: torch.device) -> Iterator[Batch]:
    """Our training batches, without end."""
    config = case.config
    return iter(
        training_loader(
            annotations,
            config.data,
            TrainTransform(config.data, config.seed),
            batch_size=case.batch_size,
            seed=config.seed,
            padding=config.model.padding,
            pin_memory=device.type == "cuda",
        )
    )


def theirs(annotations: Annotations, case: Case, device: torch.device) -> Iterator[Tensor]:
    """torchvision's batches (B, 3, H, W); more than a turn takes, so that the worker has something to do to its end."""
    count = turns_of(case) + 8
    loader = reference_loader(annotations, case.config, case.batch_size, count, pin_memory=device.type == "cuda")
    return (images for images, _ in loader)


def drawn(
    source: Callable[[Annotations, Case, torch.device], Iterator[Any]],
    annotations: Annotations,
    case: Case,
    device: torch.device,
    finish: Callable[[Any], Any],
) -> float:
    """Seconds of a turn's batches until they are on the device, from the arrival of one: workers start before it."""
    batches = source(annotations, case, device)
    finish(next(batches))
    settle(device)
    start = time.perf_counter()
    for _ in range(turns_of(case)):
        finish(next(batches))
    settle(device)
    return time.perf_counter() - start


def on_device(normalize: Normalizer, device: torch.device) -> Callable[[Batch], Any]:
    """The batch taken to the device, and normalized there if that is a GPU."""
    if device.type == "cpu":
        return lambda batch: batch
    moved = copy.deepcopy(normalize).to(device)
    return lambda batch: moved(to(batch, device))


def to(batch: Any, device: torch.device) -> Any:
    """The batch, or its images, on the device."""
    return batch.to(device, non_blocking=True)


def check_samples(annotations: Annotations, config: Config) -> list[Check]:
    """Pictures and boxes, unmirrored, of all files that both sides resize to the same number of pixels.

    Raises:
        Disagreement: they differ.
    """
    data = replace(config.data, augment=AugmentSettings(hflip=0.0))
    dataset = DetectionDataset(annotations, TrainTransform(data, config.seed))
    reference = ReferenceImages(annotations, config, mirrored=0.0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.model.image_mean, config.model.image_std))
    differences, ours, boxes = [], [], []
    for index in range(len(annotations)):
        sample, (image, target) = dataset[index, index], reference[index]
        if sample.image.shape[:2] != tuple(image.shape[1:]):  # torchvision cuts off the fraction of a pixel, we round
            continue
        levels = 255 * (image * std + mean)
        differences.append((levels - torch.from_numpy(sample.image).permute(2, 0, 1)).abs().mean().item())
        ours.append(torch.from_numpy(sample.boxes))
        boxes.append(target["boxes"].as_subclass(Tensor))
    require_some("pictures", len(differences))
    mean_difference = float(np.mean(differences))
    if not mean_difference <= LEVELS:
        raise Disagreement(f"pictures: they differ by {mean_difference:.2f} levels on average, {LEVELS:g} are allowed")
    words = f"{mean_difference:.2f} levels of difference on average over {len(differences)} of {len(annotations)} files"
    return [Check("pictures", words), require_close("boxes", ours, boxes, BOX_PIXELS, ABSOLUTE)]


def write_pictures(case: Case, folder: Path) -> list[Path]:
    """Drawn JPEGs, wide and tall in turn."""
    rows, columns = (round(SHRINK * side) for side in case.size)
    files = []
    for number, picture in enumerate(draw_pictures(case.config.seed, PICTURES, (rows, columns))):
        files.append(folder / f"{number:06d}.jpg")
        Image.fromarray(picture if number % 2 else picture.transpose(1, 0, 2)).save(files[-1], quality=QUALITY)
    return files


def find_pictures(folder: str) -> list[Path]:
    """The JPEGs of a folder.

    Raises:
        UserError: there is none.
    """
    files = sorted(Path(folder).glob("*.jpg"))
    if not files:
        problem = "there is no .jpg in it" if Path(folder).is_dir() else "there is no such folder"
        raise UserError(f"--pictures {folder}: {problem}; name a folder that holds some")
    return files


def annotate(files: list[Path]) -> Annotations:
    """A set of these pictures with random objects.

    Raises:
        UserError: one of them does not decode.
    """
    rng = np.random.default_rng(0)
    sizes = [read_image(file).shape[:2] for file in files]
    count = OBJECTS * len(files)
    return Annotations(
        class_names=("thing",),
        image_ids=np.array([file.stem for file in files]),
        image_paths=np.array([str(file) for file in files]),
        sizes=np.array(sizes, np.int32),
        offsets=np.arange(0, count + 1, OBJECTS),
        boxes=np.concatenate([random_boxes(rng, size) for size in sizes]).astype(np.float64),
        labels=np.ones(count, np.int64),
        ignore=np.zeros(count, bool),
        areas=np.ones(count),
    )
