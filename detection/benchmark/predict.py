"""Prediction: from decoded pictures to detections on the host.

Shapes: ``B`` images, ``P`` proposals of an image, ``R`` regions of all images, ``K`` classes.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN as Peer
from torchvision.models.detection.image_list import ImageList

from detection.batch import Batch
from detection.benchmark.agreement import ABSOLUTE, RELATIVE, Boxes, Check, require_close, require_paired
from detection.benchmark.calibrated import calibrated_peer
from detection.benchmark.case import Case
from detection.benchmark.peer import as_torchvision_takes
from detection.benchmark.pictures import draw_pictures
from detection.benchmark.report import Measured
from detection.benchmark.sides import (
    Found,
    Side,
    compare,
    found_by_ours,
    found_by_peer,
    images_of,
    name_of,
    save_checkpoint,
)
from detection.inference.devices import autocast, choose_device
from detection.inference.predictor import Predictor, load_detector
from detection.model.faster_rcnn import FasterRCNN
from detection.model.rpn import Proposals
from detection.model.selection import select_detections

FEATURES, PIXELS, SCORE = 1e-4, 1e-3, 1e-4
"""Largest relative difference of features; of boxes and scores computed from the same features and regions."""
END_TO_END, SHARE = 1e-2, 0.99
"""Pixels within which detections pair, and how many of them must."""
EXACT = {"train": {"precision": "fp32"}}


class Seen(NamedTuple):
    """What the peer makes of the images, stage by stage; both sides' later stages start from it."""

    images: ImageList
    features: dict[str, Tensor]


def predict_stage(case: Case) -> Measured:
    """Seconds of a prediction of `batch_size` pictures by either side, once both give the same.

    Raises:
        Disagreement: they do not.
    """
    device, config = choose_device(case.config.device), case.config
    pictures = draw_pictures(config.seed, case.batch_size, case.size)
    peer = calibrated_peer(config, len(config.data.classes), as_torchvision_takes(pictures, device))
    with TemporaryDirectory() as folder:
        path = save_checkpoint(config, peer.state_dict(), Path(folder))
        predictor = load_detector(path, config.device, {"compile": config.compile})
        is_exact = predictor.dtype == torch.float32
        checks = check_prediction(predictor if is_exact else load_detector(path, config.device, EXACT), peer, pictures)
    sides = {"ours": our_side(predictor, pictures), "peer": peer_side(peer, pictures, device, torch.float32)}
    if not is_exact:
        sides[f"peer in {name_of(predictor.dtype)}"] = peer_side(copy.deepcopy(peer), pictures, device, predictor.dtype)
    return compare("predict", sides, case, checks, device)


def our_side(predictor: Predictor, pictures: Sequence[np.ndarray]) -> Side:
    """What a user of ResiDet runs."""
    return Side(lambda: found_by_ours(predictor, pictures), predictor.members[0].detector)


def peer_side(peer: Peer, pictures: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Side:
    """What a user of torchvision runs: as shipped in float32, otherwise under autocast and with channels last."""
    if dtype != torch.float32:
        peer.to(memory_format=torch.channels_last)

    def work() -> Found:
        with autocast(device, dtype):
            return found_by_peer(peer, pictures, device)

    return Side(work, peer)


@torch.inference_mode()
def check_prediction(predictor: Predictor, peer: Peer, pictures: Sequence[np.ndarray]) -> list[Check]:
    """Every stage from the same inputs, uncompiled, then all of it end to end.

    Raises:
        Disagreement: a stage differs.
    """
    member = predictor.members[0]
    detector, batch = member.detector.eval(), images_of(predictor, pictures)[member.proposal_size]
    with exact_arithmetic(), torch.compiler.set_stance("force_eager"):
        prepared, _ = peer.transform(as_torchvision_takes(pictures, predictor.device))
        seen = Seen(prepared, peer.backbone(prepared.tensors))
        features = require_close("features", detector.features(batch), list(seen.features.values()), FEATURES, RELATIVE)
        proposals, proposal_check = check_proposals(detector, peer, batch, seen)
        checks = [features, proposal_check, *check_regions(detector, peer, batch, seen, proposals)]
    with exact_arithmetic():
        mine, theirs = found_by_ours(predictor, pictures), found_by_peer(peer, pictures, predictor.device)
    whole = require_paired("end to end", *as_boxes(mine, theirs), pixels=END_TO_END, score=SCORE, share=SHARE)
    return [*checks, whole]


def check_proposals(detector: FasterRCNN, peer: Peer, batch: Batch, seen: Seen) -> tuple[Proposals, Check]:
    """Proposals from the same features; ours are returned."""
    proposals, _ = detector.rpn(list(seen.features.values()), batch)
    expected, _ = peer.rpn(seen.images, seen.features)
    mine = [{"boxes": boxes} for boxes in valid(proposals)]
    sides = as_boxes(mine, [{"boxes": boxes} for boxes in expected])
    return proposals, require_paired("proposals", *sides, pixels=PIXELS, score=SCORE, share=SHARE)


def check_regions(
    detector: FasterRCNN, peer: Peer, batch: Batch, seen: Seen, proposals: Proposals
) -> tuple[Check, Check, Check]:
    """Scores and boxes of every class from the same proposals, then the detections that are selected."""
    heads, theirs, regions = detector.roi_heads, peer.roi_heads, valid(proposals)
    vectors = heads.describe(list(seen.features.values()), proposals.boxes, batch.sizes)
    outputs = heads.outputs(vectors, proposals.boxes)
    pooled = theirs.box_roi_pool(seen.features, regions, seen.images.image_sizes)
    logits, deltas = theirs.box_predictor(theirs.box_head(pooled))
    boxes = theirs.box_coder.decode(deltas, regions)[:, 1:]
    scores = logits.softmax(dim=1)[:, 1:]
    is_valid = proposals.is_valid
    chosen = select_detections(outputs, is_valid, batch, heads.test)
    names = ("boxes", "scores", "labels")
    selected = theirs.postprocess_detections(logits, deltas, regions, seen.images.image_sizes)
    expected = [dict(zip(names, values, strict=True)) for values in zip(*selected, strict=True)]
    return (
        require_close("region scores", [outputs.scores[is_valid]], [scores], SCORE, ABSOLUTE),
        require_close("region boxes", [outputs.boxes[is_valid]], [boxes], PIXELS, ABSOLUTE),
        require_paired("detections", *as_boxes(chosen, expected), pixels=PIXELS, score=SCORE, share=SHARE),
    )


def valid(proposals: Proposals) -> list[Tensor]:
    """The proposals (P, 4) of each image, without what fills up."""
    return [boxes[keep] for boxes, keep in zip(proposals.boxes, proposals.is_valid, strict=True)]


def as_boxes(ours: Sequence[dict], theirs: Sequence[dict]) -> tuple[list[Boxes], list[Boxes]]:
    """Both sides' results, image by image."""
    return [Boxes.of(found) for found in ours], [Boxes.of(found) for found in theirs]


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Convolutions and matrix products of GPUs in float32 proper, which they round to 10 bits of mantissa otherwise."""
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
