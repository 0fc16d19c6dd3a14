"""torch.compile for what of a network is layers alone: the trunk, the proposal head, the region head.

What lies between them (selection of proposals, NMS, sampling, what of conv5 runs on the map, pooling) is left as it is.
The modules are compiled in place, so that a network's tensors keep their names, and when they first run, which takes a
minute or more.

Rows, columns and the number of images or regions are symbols in the compiled code: a part is compiled once for
training and once for prediction (once more for a single image), whatever sizes follow. On a CPU code for fixed sizes
was measured to be no faster. On a GPU the launches of a part are recorded as a CUDA graph for each size; the graphs
before and after NMS share their memory. Recording pays where sizes return, so it is left out for images in many sizes.
"""

import torch
from torch import nn

from detection.config import Config
from detection.errors import UserError
from detection.model.faster_rcnn import FasterRCNN

PARTS = ("backbone", "tail", "rpn.head", "roi_heads.box_head")
"""Names of the compiled parts in a detector and in a localizer, which has trunk and tail."""
MOST_VARIANTS = 64
"""Beyond so many compiled forms torch computes uncompiled; it counts those of all modules together, and stops at 8."""


def compile_parts(network: nn.Module, device: torch.device, is_graphed: bool) -> None:
    """Let torch compile the parts of a detector or a localizer when they first run.

    Args:
        network: on `device`.
        is_graphed: record CUDA graphs; for detectors on a GPU only, a localizer's large batches do not wait for
            launches. Every step then has to begin with :func:`begin_step`.

    Raises:
        UserError: torch cannot compile here.
    """
    _require_compiler(device)
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    is_graphed = is_graphed and device.type == "cuda" and isinstance(network, FasterRCNN)
    for name, part in network.named_modules():
        if name in PARTS:
            part.compile(dynamic=True, mode="reduce-overhead" if is_graphed else "default")


def returns_to_sizes(config: Config, is_training: bool) -> bool:
    """Whether images come in so few padded sizes that a CUDA graph of each pays.

    With one shorter side and batches of images that are all wide or all tall, few multiples of 32 pixels remain: for
    600 and at most 1000 pixels, 13 lengths twice. Several shorter sides, jitter and image pyramids multiply them.
    """
    data = config.data
    is_single = len(data.min_size) == 1 and data.augment.scale_jitter == (1.0, 1.0)
    return not config.test.scales and (is_single or not is_training)


def begin_step(device: torch.device) -> None:
    """Mark the beginning of a step, before its first batch: what the step before returned may be overwritten now."""
    if device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()


def _require_compiler(device: torch.device) -> None:
    """Compile a trifle: inside a network the failure would come late, and as pages."""
    try:
        torch.compile(lambda values: values + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(".: ")
        raise UserError(
            f"--compile: torch cannot compile here ({reason}); install a C++ compiler (g++, or name one by CXX) and "
            "Python's headers, or leave --compile out"
        ) from None
