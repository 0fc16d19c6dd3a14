"""Guesses of an ImageNet classifier, for images whose class is not known.

torchvision's networks see images as they were tested: shorter side 256, then the centre of 224 pixels, or ten views:
four corners and centre, and their mirror images (Krizhevsky et al., 2012).

Letters: ``I`` images, ``B`` images of a batch, ``V`` views of an image, ``K`` classes.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional

from backbones import BackboneError
from backbones.weights import COUNTER, download, read
from detection import distributed
from detection.config import ModelSettings
from detection.data.dataset import Annotations
from detection.data.loader import Images
from detection.errors import UserError
from detection.inference.devices import autocast, choose_precision
from detection.localization.answers import AS_STORED
from detection.localization.over_set import Columns, over_set
from detection.model.build import difference
from detection.model.pixels import Normalizer

CLASSES = 1000
"""K of ImageNet; outputs are in the order of the sorted synsets, as the lines of LOC_synset_mapping.txt."""
GUESSES = 5
SHORTER, SIDE = 256, 224
"""Pixels of the shorter side of images, and of a view."""
FAMILIES = ("resnet", "vgg")
"""Networks that this testing is right for; others were trained for other sizes or other colours."""
WHOLE = "IMAGENET1K_V1"
"""torchvision's weights that this testing is right for; its second ones were tested with a shorter side of 232."""

Views = Literal["single", "10crop"]


def guess(
    annotations: Annotations,
    name: str,
    weights: str,
    views: Views,
    device: torch.device,
    progress: Callable[[float], None],
    *,
    batch_size: int = 16,
    workers: int = 2,
) -> np.ndarray:
    """Labels (I, 5) of the most probable classes, best first; probabilities are means over the views.

    Args:
        annotations: images; each is classified exactly once over all processes.
        name: torchvision's name of the network: resnet101, vgg16.
        weights: torchvision's name of its weights (imagenet1k_v1), or a file.
        views: one view of each image, or ten.
        progress: called after each batch with the share of this process's images that is done.
        batch_size: at most so many images at a time.
        workers: processes that read images.

    Raises:
        UserError: the classes are not ImageNet's, there is no such network, its weights cannot be had or do not fit,
            or an image cannot be used.
    """
    require_imagenet(annotations.class_names)
    settings = ModelSettings()
    with distributed.main_first():
        classifier = load_classifier(name, weights).to(device)
    normalize = Normalizer(settings.image_mean, settings.image_std).to(device)
    cut, dtype = VIEWS[views], choose_precision("auto", device)

    @torch.inference_mode()
    def answer(images: Images, indices: np.ndarray) -> Columns:
        crops = (cut(images[AS_STORED].images) - normalize.mean) / normalize.std
        with autocast(device, dtype):
            logits = classifier(crops.flatten(0, 1))
        return (best_labels(logits.unflatten(0, crops.shape[:2])).cpu().numpy(),)

    sizes, read_by = [AS_STORED], {"batch_size": batch_size, "workers": workers}
    (labels,) = over_set(annotations, sizes, answer, progress, device=device, **read_by)
    return labels


def single_view(images: Tensor) -> Tensor:
    """The centre of images (B, 3, H, W), as (B, 1, 3, 224, 224) uint8."""
    return functional.center_crop(_resized(images), SIDE).unsqueeze(1)


def ten_views(images: Tensor) -> Tensor:
    """Four corners and the centre of images (B, 3, H, W), and their mirror images, as (B, 10, 3, 224, 224) uint8."""
    return torch.stack(functional.ten_crop(_resized(images), SIDE), dim=1)


VIEWS: dict[Views, Callable[[Tensor], Tensor]] = {"single": single_view, "10crop": ten_views}
"""Images of one size to views (B, V, 3, 224, 224)."""


def best_labels(logits: Tensor) -> Tensor:
    """The five labels (B, 5), 1..K, with the largest mean probability over the views, from logits (B, V, K)."""
    probabilities = logits.double().softmax(dim=-1).mean(dim=1)
    return probabilities.sort(dim=-1, descending=True, stable=True).indices[:, :GUESSES] + 1


def require_imagenet(class_names: Sequence[str]) -> None:
    """Raises a UserError unless the classes are ImageNet's, each named by its synset, in sorted order."""
    synsets = [name.split(" ")[0] for name in class_names]
    is_imagenet = all(re.fullmatch(r"n\d{8}", synset) for synset in synsets) and synsets == sorted(set(synsets))
    if len(synsets) != CLASSES or not is_imagenet:
        raise UserError(
            f"--classifier guesses among ImageNet's {CLASSES} classes, named by their synsets in order, but the data "
            f"has {len(synsets)} classes ({', '.join(class_names[:2])}, ...); give guesses in a file instead"
        )


def load_classifier(name: str, weights: str) -> nn.Module:
    """torchvision's network `name` in evaluation mode, with its published weights or those of a file.

    Raises:
        UserError: there is no such network, or its weights cannot be had or do not fit.
    """
    known = [each for each in models.list_models(module=models) if re.fullmatch(f"({'|'.join(FAMILIES)})\\d.*", each)]
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"--classifier {name}: not one of {', '.join(known)}{hint}")
    network = models.get_model(name, weights=None, num_classes=CLASSES)
    published = {each.name.lower(): each for each in models.get_model_weights(name) if each.name == WHOLE}
    try:
        source = published.get(str(weights).lower())
        tensors = download(source.url, "give --classifier_weights FILE") if source else read(Path(weights).expanduser())
    except BackboneError as error:
        raise UserError(f"--classifier_weights: {error}") from error
    problems = [problem for problem in difference(network, tensors) if COUNTER not in problem]
    if problems:
        count = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"--classifier_weights {weights}: not of {name} ({'; '.join(problems[:3])}{count})")
    network.load_state_dict(tensors)
    return network.eval()


def _resized(images: Tensor) -> Tensor:
    """With a shorter side of 256 pixels, low-passed as torchvision and Pillow do it."""
    return functional.resize(images, [SHORTER], antialias=True)
