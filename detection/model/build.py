"""Settings in, detector out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import FrozenBatchNorm2d

from backbones import BackboneError, BackboneSettings, Staged, build_backbone, fold
from detection.config import Config
from detection.errors import UserError
from detection.model.box_heads import PyramidHead
from detection.model.faster_rcnn import FasterRCNN


class Stage(NamedTuple):
    """One line of the table that a run begins with."""

    name: str
    parameters: int
    trained: int
    """How many of the parameters are trained."""
    norm: str


class Undrawn(TorchFunctionMode):
    """A context in which layers are made without initial weights: a checkpoint will replace every one of them.

    Drawing random numbers takes most of the time in which a large network is built.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function in (Tensor.uniform_, Tensor.normal_) or getattr(function, "__module__", "") == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return function(*args, **given)


def build_detector(config: Config, num_classes: int, *, load_weights: bool = True) -> tuple[FasterRCNN, str]:
    """The detector that `config` describes, and one line on the weights its backbone starts from.

    Args:
        num_classes: K, without the background.
        load_weights: False when a checkpoint will replace every tensor.

    Raises:
        UserError: the backbone, its head, its normalization and its weights do not go together.
    """
    model = config.model
    settings = BackboneSettings(
        name=config.backbone,
        head=model.head,
        norm=model.norm,
        weights=config.weights,
        freeze_at=model.freeze_at,
        pyramid_channels=model.pyramid_channels,
        dropout=model.roi.dropout,
    )
    try:
        trunk, tail, report = build_backbone(settings, load_weights=load_weights)
    except BackboneError as error:
        raise UserError(str(error)) from error
    size = (config.data.test_min_size, config.data.test_max_size)
    return FasterRCNN(trunk, tail, num_classes, model, config.test, size, config.seed), report


def prepare_for_prediction(detector: FasterRCNN) -> None:
    """Put the weights into the form in which prediction costs least; what is computed stays the same to the last bit.

    The detector is in evaluation mode then, and has other tensors: it is not one to train, and no other takes them.

    Args:
        detector: on its device, so that the products are formed where they would be otherwise.
    """
    fold(detector.eval())
    if isinstance(detector.roi_heads.box_head, PyramidHead):
        detector.roi_heads.box_head.sort_weights()


def load_state(detector: FasterRCNN, state: dict[str, Tensor], path: str) -> None:
    """Put a checkpoint's weights into a detector of the same architecture and classes.

    Raises:
        UserError: tensors are missing, left over, or of another shape.
    """
    problems = difference(detector, state)
    if problems:
        raise UserError(
            f"{path}: the checkpoint is of another architecture or other classes ({'; '.join(problems[:3])}"
            f"{f'; and {len(problems) - 3} more' if len(problems) > 3 else ''})"
        )
    detector.load_state_dict(state)


def difference(detector: nn.Module, state: dict[str, Any]) -> list[str]:
    """One phrase for each tensor of `state` that does not fit the detector."""
    own = detector.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} has no place" for name in state if name not in own]
    shared = [name for name in own if name in state and own[name].shape != state[name].shape]
    return problems + [f"{n} is {tuple(state[n].shape)} instead of {tuple(own[n].shape)}" for n in shared]


def stages(detector: FasterRCNN) -> list[Stage]:
    """What the detector consists of, in the order in which an image passes through it."""
    parts: dict[str, nn.Module] = dict(detector.backbone.stages())
    parts["proposals"] = detector.rpn
    head = detector.roi_heads.box_head
    tail = getattr(head, "tail", head)
    parts |= tail.stages() if isinstance(tail, Staged) else {"region head": head}
    parts["class and box"] = detector.roi_heads.box_predictor
    return [describe(name, part) for name, part in parts.items()]


def describe(name: str, part: nn.Module) -> Stage:
    """Count one part's parameters; constants of frozen normalization count as parameters that are not trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in part.parameters()]
    constants = [layer for layer in part.modules() if isinstance(layer, FrozenBatchNorm2d)]
    fixed = sum(layer.weight.numel() + layer.bias.numel() for layer in constants)
    trained = sum(size for size, is_trained in sizes if is_trained)
    return Stage(name, fixed + sum(size for size, _ in sizes), trained, norms(part))


def norms(part: nn.Module) -> str:
    """The kind of normalization in `part`; "-" without one."""
    kinds = {FrozenBatchNorm2d: "frozen", nn.BatchNorm2d: "batch", nn.SyncBatchNorm: "sync", nn.GroupNorm: "group"}
    found = {kinds[type(layer)] for layer in part.modules() if type(layer) in kinds}
    return ", ".join(sorted(found)) or "-"


def class_names_of(state: dict[str, Any], path: str) -> Sequence[str]:
    """The class names in a checkpoint.

    Raises:
        UserError: it has none.
    """
    if not state.get("class_names"):
        raise UserError(f"{path}: the checkpoint names no classes; it was not written by train_det")
    return tuple(state["class_names"])
