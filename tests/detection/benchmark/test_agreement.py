"""What is equal agrees; what differs, is missing, is not a number or is empty does not."""

import numpy as np
import pytest
import torch

from detection.benchmark.agreement import (
    ABSOLUTE,
    NORM,
    RELATIVE,
    Boxes,
    Disagreement,
    count_pairs,
    require_close,
    require_paired,
)


def boxes(*rows: tuple[float, ...], scores: list[float] | None = None, labels: list[int] | None = None) -> Boxes:
    corners = np.array(rows, np.float64).reshape(-1, 4)
    return Boxes(corners, np.array(scores or [0.5] * len(rows)), np.array(labels or [1] * len(rows)))


def test_differences_are_of_the_largest_value_or_as_they_are() -> None:
    ours, theirs = torch.tensor([1.0, 4.004]), torch.tensor([1.0, 4.0])
    assert require_close("x", [ours], [theirs], 0.00101, RELATIVE).words.startswith("largest difference 1.0e-03")
    with pytest.raises(Disagreement, match=r"^x: the sides differ by 0.004, where 0.00101 is allowed$"):
        require_close("x", [ours], [theirs], 0.00101, ABSOLUTE)


def test_a_few_outliers_are_a_small_share_of_the_norm() -> None:
    """One of 10,000 ones is 2: the difference is 1, the norm 100."""
    theirs = torch.ones(10_000)
    ours = theirs.clone()
    ours[17] = 2
    assert require_close("x", [ours], [theirs], 0.0101, NORM).words == "largest difference 1.0e-02 of the norm"
    with pytest.raises(Disagreement, match="by 0.01 of the norm"):
        require_close("x", [ours], [theirs], 0.0099, NORM)


def test_the_second_of_several_tensors_counts_too() -> None:
    same = torch.ones(2, 3)
    with pytest.raises(Disagreement, match="differ by 1"):
        require_close("x", [same, same], [same, same + 1], 0.1, ABSOLUTE)


@pytest.mark.parametrize("values", [[], [torch.zeros(0, 4)]])
def test_an_empty_comparison_fails(values: list[torch.Tensor]) -> None:
    with pytest.raises(Disagreement, match="^features: there is nothing to compare$"):
        require_close("features", values, values, 1.0, ABSOLUTE)


def test_what_is_not_a_number_or_of_another_shape_does_not_agree() -> None:
    with pytest.raises(Disagreement, match="nan"):
        require_close("x", [torch.tensor([torch.nan])], [torch.tensor([torch.nan])], 1.0, ABSOLUTE)
    with pytest.raises(Disagreement, match=r"shapes \[\(2,\)\], the peer's \[\(3,\)\]"):
        require_close("x", [torch.zeros(2)], [torch.zeros(3)], 1.0, ABSOLUTE)


def test_pairs_do_not_depend_on_the_order_and_each_box_has_one_partner() -> None:
    first, second = (0, 0, 10, 10), (5, 5, 20, 20)
    assert count_pairs(boxes(first, second), boxes(second, first), 0.01, 0.1) == 2
    assert count_pairs(boxes(first, first), boxes(first, second), 0.01, 0.1) == 1


def test_partners_have_one_label_and_nearly_one_score_and_place() -> None:
    place = (0.0, 0.0, 10.0, 10.0)
    one = boxes(place)
    assert count_pairs(one, boxes(place, labels=[2]), 0.01, 0.1) == 0
    assert count_pairs(one, boxes(place, scores=[0.7]), 0.01, 0.1) == 0
    assert count_pairs(one, boxes((0, 0, 10, 10.02)), 0.01, 0.1) == 0
    assert count_pairs(one, boxes((0, 0, 10, 10.009)), 0.01, 0.1) == 1


def test_the_share_is_of_the_longer_side() -> None:
    three = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)]
    limits = {"pixels": 0.01, "score": 0.1}
    ours, theirs = [boxes(*three)], [boxes(*three, (60, 0, 70, 10))]
    assert "3 of 4 boxes" in require_paired("x", ours, theirs, share=0.75, **limits).words
    with pytest.raises(Disagreement, match="only 3 of 4 boxes pair within 0.01 pixels, where 99% must"):
        require_paired("x", ours, theirs, share=0.99, **limits)


def test_an_image_without_boxes_on_a_side_fails() -> None:
    some, none = boxes((0, 0, 1, 1)), boxes()
    with pytest.raises(Disagreement, match="nothing to compare"):
        require_paired("x", [some, none], [some, some], pixels=1, score=1, share=0.1)
