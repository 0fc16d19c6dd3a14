"""A new run from another run's weights: the rows of a class are kept, in whatever order and under whichever name.

Letters: K classes of the detector, J classes of the checkpoint, D inputs of the two sibling layers. Row 0 of the class
layer (K+1, D) is the background; the box layer has 4 rows for each row of the class layer (4(K+1), D), or 4 in all when
it is class-agnostic. With global context there are 2D columns, the first D for the region: these are kept where only
one of the two has context.
"""

import textwrap
from collections.abc import Sequence

from torch import Tensor

from detection.model.build import load_state
from detection.model.faster_rcnn import FasterRCNN

COCO_TO_VOC = {
    "airplane": "aeroplane",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "tv": "tvmonitor",
}
"""What COCO and PASCAL VOC call differently; the other 14 of VOC's 20 classes have the same names in both."""
OTHER_NAME = COCO_TO_VOC | {voc: coco for coco, voc in COCO_TO_VOC.items()}

PREDICTOR = "roi_heads.box_predictor."
"""Names of the tensors of the two sibling layers, whose shapes depend on the classes."""
CLASS, BOX = f"{PREDICTOR}cls_score.", f"{PREDICTOR}bbox_pred."
BOX_SIZE = 4
"""Offsets of one box, and so the rows of a class-agnostic box layer."""
LINES = {"width": 120, "initial_indent": "  ", "subsequent_indent": "    ", "break_on_hyphens": False}
"""How lists of classes are wrapped."""


def init_from(
    detector: FasterRCNN, names: Sequence[str], state: dict[str, Tensor], state_names: Sequence[str], path: str
) -> str:
    """Start a detector from a checkpoint's weights; rows of classes that it does not know stay as they are.

    Args:
        detector: freshly built; K classes.
        names: the K class names, without the background.
        state: the checkpoint's weights; they are not changed.
        state_names: its J class names; none when it does not tell them.
        path: of the checkpoint, for messages.

    Returns:
        What was kept and what starts anew: a sentence, and below it the classes on lines of their own.

    Raises:
        UserError: anything but the two sibling layers differs, or these differ in more than their classes, in
            `model.global_context` and in `model.roi.class_agnostic`.
    """
    fresh = {name: tensor for name, tensor in detector.state_dict().items() if name.startswith(PREDICTOR)}
    if reason := _reason_to_drop(fresh, state, state_names):
        load_state(detector, {**state, **fresh}, path)
        return f"weights from {path}; the class and box layers start anew ({reason})"
    sources = same_things(names, state_names)
    rows = {0: 0} | {names.index(name) + 1: state_names.index(source) + 1 for name, source in sources.items()}
    is_agnostic = _is_agnostic(fresh), _is_agnostic(state)
    classes, boxes = _merged(fresh, state, CLASS, rows, 1), _boxes(fresh, state, rows, is_agnostic)
    load_state(detector, {**state, **classes, **boxes}, path)
    context = _context(fresh, state)
    if list(names) == list(state_names) and is_agnostic[0] == is_agnostic[1]:
        return f"weights from {path}, with its class and box layers{context}"
    return _told(names, sources, is_agnostic, path, context)


def same_things(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """For each of `names` that is among `known` its name there: the same, or else the one that COCO or VOC uses.

    No two names get the same one: the other spelling counts only where `names` does not have it itself.
    """
    sources = {}
    for name in names:
        other = OTHER_NAME.get(name)
        if name in known:
            sources[name] = name
        elif other in known and other not in names:
            sources[name] = other
    return sources


def _reason_to_drop(fresh: dict[str, Tensor], state: dict[str, Tensor], state_names: Sequence[str]) -> str:
    """Why none of the checkpoint's rows can be taken; nothing if some can."""
    if not fresh.keys() <= state.keys():
        return "the checkpoint has none"
    classes = len(state[f"{CLASS}weight"]) - 1
    if classes != len(state_names):
        return f"the checkpoint has {classes} classes and names {len(state_names) or 'none'} of them"
    return ""


def _is_agnostic(state: dict[str, Tensor]) -> bool:
    return len(state[f"{BOX}bias"]) == BOX_SIZE


def _boxes(
    fresh: dict[str, Tensor], state: dict[str, Tensor], rows: dict[int, int], is_agnostic: tuple[bool, bool]
) -> dict[str, Tensor]:
    """The box layer: row by row, whole when it is one for all classes, or anew when only one of the two is."""
    if any(is_agnostic) and not all(is_agnostic):
        return {name: tensor for name, tensor in fresh.items() if name.startswith(BOX)}
    return _merged(fresh, state, BOX, {0: 0} if all(is_agnostic) else rows, BOX_SIZE)


def _merged(
    fresh: dict[str, Tensor], state: dict[str, Tensor], layer: str, rows: dict[int, int], size: int
) -> dict[str, Tensor]:
    """One layer's fresh tensors with rows of the checkpoint put in: `rows` maps a row here to its row there.

    `size` rows of the box layer make one of `rows`. Of layers with and without context the region's columns are put
    in. Tensors of another width are left as the checkpoint has them, for the refusal to name.
    """
    merged = {name: tensor.clone() for name, tensor in fresh.items() if name.startswith(layer)}
    for name, tensor in merged.items():
        if tensor.shape[1:] != state[name].shape[1:] and not _context(fresh, state):
            merged[name] = state[name]
            continue
        given = state[name].unflatten(0, (-1, size))[list(rows.values())].to(tensor)
        columns = min(tensor.shape[-1], given.shape[-1])
        kept = tensor.unflatten(0, (-1, size))  # a view: writing to it changes `tensor`
        kept[list(rows), ..., :columns] = given[..., :columns]
    return merged


def _context(fresh: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """What becomes of the context's columns where only one of the two has any; nothing otherwise."""
    own, given = fresh[f"{CLASS}weight"].shape[1], state[f"{CLASS}weight"].shape[1]
    if own == 2 * given:
        return "; the columns of global context, which the checkpoint has not, start anew"
    return "; its columns of global context are left out" if given == 2 * own else ""


def _told(
    names: Sequence[str], sources: dict[str, str], is_agnostic: tuple[bool, bool], path: str, context: str
) -> str:
    """The sentence, and which classes were kept under which other name, and which were not."""
    layers, boxes = "class and box layers", ""
    if any(is_agnostic):
        owner = "this run" if is_agnostic[0] else "the checkpoint"
        layers = "class layer"
        boxes = f"; the box layer starts anew (model.roi.class_agnostic in {owner} only)"
    if all(is_agnostic):
        boxes = "; the box layer is one for all classes and is kept"
    kept = [name if name == source else f"{name} ({source})" for name, source in sources.items()]
    new = [name for name in names if name not in sources]
    known = f"those of the background and {len(kept)} of {len(names)} classes"
    first = f"weights from {path}, in the {layers} {known}{boxes}{context}"
    return "\n".join([first, *_listed("kept", kept), *_listed("start anew", new)])


def _listed(what: str, classes: list[str]) -> list[str]:
    """All names, on as many lines as they take; no line without names."""
    if not classes:
        return []
    unbroken = ", ".join(name.replace(" ", "\N{NO-BREAK SPACE}") for name in classes)
    lines = textwrap.wrap(f"{what}: {unbroken}", **LINES)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
