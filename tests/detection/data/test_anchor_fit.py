"""The best anchor of each object, against all anchors that the detector itself lists."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detection.config import ModelSettings, ProposalSettings
from detection.data.anchor_fit import anchor_shapes, best_ious
from detection.model.anchors import Anchors
from detection.model.faster_rcnn import anchor_sizes

PYRAMID = ModelSettings(
    head="fpn", rpn=ProposalSettings(anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0), ignore_border=False)
)


def _listed(boxes: np.ndarray, size: tuple[int, int], model: ModelSettings, strides: tuple[int, ...]) -> np.ndarray:
    """The same by listing every anchor of the padded image."""
    padded = [-(-side // model.padding) * model.padding for side in size]
    grids = [(padded[0] // stride, padded[1] // stride) for stride in strides]
    anchors = Anchors(anchor_sizes(model, strides), model.rpn.anchor_ratios, strides)(grids, torch.zeros(1))
    if model.rpn.ignore_border:
        limit = torch.tensor([size[1], size[0]])
        anchors = anchors[(anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= limit).all(1)]
    ious = box_iou(torch.from_numpy(boxes), anchors.double())
    return ious.amax(1).numpy() if len(anchors) else np.zeros(len(boxes))


@pytest.mark.parametrize("size", [(600, 420), (375, 333), (100, 640)])
@pytest.mark.parametrize("ignore_border", [False, True])
@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_the_best_place_is_found_without_listing_the_anchors(
    head: str, ignore_border: bool, size: tuple[int, int]
) -> None:
    sizes = (33.0, 100.0, 256.0) if head == "c4" else PYRAMID.rpn.anchor_sizes
    rpn = ProposalSettings(anchor_sizes=sizes, anchor_ratios=(0.37, 1.0, 2.0), ignore_border=ignore_border)
    model = ModelSettings(head=head, rpn=rpn)
    rng = np.random.default_rng(3)
    corners = np.sort(rng.uniform(0, 1, (60, 2, 2)) ** rng.uniform(0.2, 5, (60, 1, 1)), axis=1)
    boxes = (corners * [size[1], size[0]]).reshape(-1, 4)
    found = best_ious(boxes, np.tile(size, (len(boxes), 1)), model)
    strides = (16,) if head == "c4" else (4, 8, 16, 32, 64)
    np.testing.assert_allclose(found, _listed(boxes, size, model, strides), atol=1e-9)


def test_shapes_are_rounded_as_torchvision_rounds_them() -> None:
    anchors = Anchors(((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)), (0.5, 1.0, 2.0), (4, 8, 16, 32, 64))
    anchors.set_cell_anchors(torch.float32, torch.device("cpu"))
    expected = [(cell[:, 2:] - cell[:, :2]).tolist() for cell in anchors.cell_anchors]
    found = list(anchor_shapes(PYRAMID))
    assert [shape.tolist() for _, shape in found] == [shape for level in expected for shape in level]
    assert [stride for stride, _ in found] == [stride for stride in (4, 8, 16, 32, 64) for _ in range(3)]


def test_objects_that_are_anchors_fit_and_a_small_image_has_no_anchor_inside() -> None:
    model = ModelSettings(rpn=ProposalSettings(anchor_sizes=(128.0,), anchor_ratios=(1.0,)))
    on_grid, off_grid = [96.0, 96, 224, 224], [104.0, 96, 232, 224]  # 160 is a place of the grid, 168 half-way
    found = best_ious(np.array([on_grid, off_grid]), np.full((2, 2), 600), model)
    np.testing.assert_allclose(found, [1, 120 / 136])
    assert best_ious(np.array([[0.0, 0, 100, 100]]), np.array([[100, 600]]), model) == 0
    crossing = replace(model, rpn=replace(model.rpn, ignore_border=False))
    assert best_ious(np.array([[0.0, 0, 100, 100]]), np.array([[100, 600]]), crossing) == pytest.approx(10000 / 16384)
