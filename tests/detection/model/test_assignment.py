"""Matching equals a loop over images, boxes and objects in exact rational arithmetic.

Shapes: ``B`` images, ``A`` boxes of an image, ``N`` objects of an image after padding.
"""

from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou

from detection.model import assignment
from detection.model.assignment import Matches, match

Corners = tuple[float, ...]


def exact_area(box: Corners) -> Fraction:
    return Fraction(box[2] - box[0]) * Fraction(box[3] - box[1])


def exact_overlap(first: Corners, second: Corners) -> Fraction:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return Fraction(max(width, 0)) * Fraction(max(height, 0))


def slow_match(boxes: list[Corners], objects: list[Corners], ignored: list[Corners], usable: list[bool]) -> list[tuple]:
    """(best IoU, object or None, is best, is covered) of each box of one image."""
    table = []
    for box, use in zip(boxes, usable, strict=True):
        shared = [exact_overlap(box, other) if use else Fraction(0) for other in objects]
        table.append([s / (exact_area(box) + exact_area(o) - s) for s, o in zip(shared, objects, strict=True)])
    top = [max(row[number] for row in table) for number in range(len(objects))]
    results = []
    for box, row in zip(boxes, table, strict=True):
        best = max(row, default=Fraction(0))
        is_best = any(iou == limit and limit > 0 for iou, limit in zip(row, top, strict=True))
        covered = any(2 * exact_overlap(box, other) >= exact_area(box) for other in ignored)
        results.append((best, row.index(best) if best > 0 else None, is_best, covered))
    return results


def scene(seed: int, images: int = 3, boxes: int = 60, rows: int = 9) -> tuple[Tensor, ...]:
    """Boxes on a coarse grid, so that equal IoUs abound; some rows are padding, ignored or objects out of reach."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        corner = torch.randint(0, 14, (*shape, 2), generator=generator)
        return torch.cat((corner, corner + torch.randint(1, 9, (*shape, 2), generator=generator)), dim=-1).double()

    gt_boxes = draw(images, rows)
    gt_boxes[:, -1] = torch.tensor([500.0, 500.0, 510.0, 510.0])  # overlaps nothing: best IoU 0
    gt_boxes[:, 3] = gt_boxes[:, 1]  # an object twice: the first wins
    kind = torch.randint(0, 4, (images, rows), generator=generator)
    is_object, is_ignored = kind >= 2, kind == 1
    is_object[:, [1, 3, -1]], is_ignored[:, [1, 3, -1]] = True, False
    is_object[-1] = False
    usable = torch.rand(images, boxes, generator=generator) < 0.7
    return draw(images, boxes), gt_boxes, is_object, is_ignored, usable


@pytest.mark.parametrize("chunk", [1, 3 * 60 * 2, 2**24])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_exact_loop(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "CHUNK_ELEMENTS", chunk)
    boxes, gt_boxes, is_object, is_ignored, usable = scene(seed)
    found = match(boxes, gt_boxes, is_object, is_ignored, usable)
    for image in range(len(boxes)):
        rows = is_object[image].nonzero().flatten().tolist()
        objects, ignored = gt_boxes[image, rows].tolist(), gt_boxes[image, is_ignored[image]].tolist()
        expected = slow_match(boxes[image].tolist(), objects, ignored, usable[image].tolist())
        for number, (iou, index, is_best, covered) in enumerate(expected):
            assert abs(found.iou[image, number].item() - float(iou)) < 1e-15
            assert index is None or found.index[image, number] == rows[index]
            assert found.is_best[image, number] == is_best
            assert found.covered[image, number] == covered
    assert found.is_best[:-1].any(dim=1).all() and not found.is_best[-1].any() and (found.iou[-1] == 0).all()


def test_the_first_of_equal_objects_wins() -> None:
    box = torch.tensor([[[0.0, 0, 4, 4]]])
    gt_boxes = torch.tensor([[[0.0, 0, 1, 1], [2, 0, 6, 4], [-2, 0, 2, 4], [2, 0, 6, 4]]])
    yes, no = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)
    found = match(box, gt_boxes, yes, no, torch.ones(1, 1, dtype=torch.bool))
    assert found.index.item() == 1
    assert found.iou.item() == pytest.approx(8 / 24)


def test_all_boxes_that_share_the_top_iou_are_best() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 2], [2, 0, 4, 2], [0, 0, 1, 1], [9, 9, 10, 10]]])
    gt_boxes = torch.tensor([[[1.0, 0, 3, 2], [40, 40, 50, 50]]])
    yes, no = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)
    found = match(boxes, gt_boxes, yes, no, torch.ones(1, 4, dtype=torch.bool))
    assert found.is_best.tolist() == [[True, True, False, False]]  # and the object that nothing overlaps has none


def test_half_covered_counts_and_two_ignored_boxes_do_not_add_up() -> None:
    boxes = torch.tensor([[[0.0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4]]])
    ignored = torch.tensor([[[0.0, 0, 2, 4], [10, 0, 11.75, 4], [12, 0, 13.75, 4], [20, 0, 100, 100]]])
    yes, no = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)
    found = match(boxes, ignored, no, yes, torch.ones(1, 3, dtype=torch.bool))
    assert found.covered.tolist() == [[True, False, True]]
    assert (found.iou == 0).all() and not found.is_best.any()


def test_boxes_shared_by_all_images_and_float32_agree_with_torchvision() -> None:
    generator = torch.Generator().manual_seed(5)
    corner = torch.rand(300 + 2 * 6, 2, generator=generator) * 400
    drawn = torch.cat((corner, corner + 20 + torch.rand(312, 2, generator=generator) * 200), dim=1)
    boxes, gt_boxes = drawn[:300], drawn[300:].view(2, 6, 4)
    yes, no = torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 6, dtype=torch.bool)
    found = match(boxes[None], gt_boxes, yes, no, torch.ones(2, 300, dtype=torch.bool))
    for image in range(2):
        iou, index = box_iou(boxes, gt_boxes[image]).max(dim=1)
        torch.testing.assert_close(found.iou[image], iou, rtol=0, atol=1e-6)
        assert torch.equal(found.index[image][iou > 0], index[iou > 0])


def test_chunks_change_nothing_and_bound_the_largest_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return result

    def largest(chunk: int) -> tuple[Matches, int]:
        monkeypatch.setattr(assignment, "CHUNK_ELEMENTS", chunk)
        with Largest() as mode:
            found = match(*arguments)
        return found, mode.elements

    arguments = scene(9, images=2, boxes=50, rows=40)
    whole, elements = largest(2**24)
    assert elements == 2 * 50 * 40
    for objects in (4, 7, 39):  # from 4 on: fewer elements than the boxes themselves have coordinates otherwise
        parts, elements = largest(objects * 2 * 50 + 7)
        assert elements == objects * 2 * 50
        for one, other in zip(whole, parts, strict=True):
            assert torch.equal(one, other)
