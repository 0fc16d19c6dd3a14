"""Box refinement: regions are looked at once more where the detector has moved them (ResNet paper, appendix B).

Shapes: ``B`` images, ``R`` regions of an image, ``K`` classes.
"""

import torch
from torch import Tensor

from detection.inference.pyramid import Scorer
from detection.model.selection import RegionOutputs, clip_to_images


def refine(score: Scorer, regions: Tensor, sizes: Tensor, rounds: int) -> RegionOutputs:
    """What is said of regions, and of the regions that they become, `rounds` times over.

    Args:
        score: pools regions and scores and regresses them; no trunk runs in it.
        regions: (B, R, 4).
        sizes: (B, 2) rows and columns of the images.
        rounds: 0 is the plain detector.

    Returns:
        The union of all outputs: (rounds + 1) * R regions of an image, the first R those of `regions`.
    """
    found = [score(regions)]
    for _ in range(rounds):
        found.append(score(regressed_regions(found[-1], sizes)))
    return RegionOutputs(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))


def regressed_regions(outputs: RegionOutputs, sizes: Tensor) -> Tensor:
    """(B, R, 4): of each region the box of its best class, cut to the image.

    The paper leaves open which class's box it is.
    """
    best = outputs.scores.argmax(dim=2)[..., None, None].expand(-1, -1, 1, 4)
    return clip_to_images(outputs.boxes.gather(2, best), sizes).squeeze(2)
