"""Both sides predict the same; a changed weight is noticed in the stage that it belongs to."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detection.benchmark import sides
from detection.benchmark.agreement import Disagreement
from detection.benchmark.case import Case
from detection.benchmark.predict import check_prediction, our_side, peer_side
from detection.benchmark.sides import compare, found_by_ours, found_by_peer, images_of, stacked
from detection.benchmark.work import INSIDE, OUTSIDE

CPU = torch.device("cpu")
STAGES = ["features", "proposals", "region scores", "region boxes", "detections", "end to end"]


@contextmanager
def changed(tensor: Tensor, factor: float) -> Iterator[None]:
    before = tensor.detach().clone()
    tensor.data.mul_(factor)
    try:
        yield
    finally:
        tensor.data.copy_(before)


@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_both_sides_predict_the_same(predictors: dict[str, Any], head: str) -> None:
    assert [check.stage for check in check_prediction(*predictors[head])] == STAGES


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("backbone.body.layer2.0.conv1.weight", "features"),
        ("rpn.head.bbox_pred.weight", "proposals"),
        ("roi_heads.box_head.fc6.weight", "region scores"),
        ("roi_heads.box_predictor.bbox_pred.weight", "region boxes"),
    ],
)
def test_a_changed_weight_is_noticed_where_it_acts(predictors: dict[str, Any], name: str, stage: str) -> None:
    pair = predictors["fpn"]
    with changed(pair.peer.get_parameter(name), 1.01), pytest.raises(Disagreement, match=f"^{stage}: "):
        check_prediction(*pair)


def test_another_threshold_is_noticed_among_the_detections(predictors: dict[str, Any]) -> None:
    pair = predictors["fpn"]
    pair.peer.roi_heads.nms_thresh = 0.2
    with pytest.raises(Disagreement, match="^detections: only"):
        check_prediction(*pair)
    pair.peer.roi_heads.nms_thresh = 0.5


def test_a_batch_is_what_a_user_gets_image_by_image(predictors: dict[str, Any]) -> None:
    predictor, _, pictures = predictors["fpn"]
    for picture, found in zip(pictures, found_by_ours(predictor, pictures), strict=True):
        single = predictor(picture)
        assert len(single) == len(found["scores"])
        torch.testing.assert_close(torch.tensor(single.scores), torch.tensor(found["scores"]), rtol=0, atol=1e-4)
    (batch,) = images_of(predictor, pictures).values()
    (alone,) = images_of(predictor, pictures[:1]).values()
    assert torch.equal(stacked([alone, alone]).images[1], batch.images[0])


def test_the_peer_under_autocast_computes_in_bfloat16(predictors: dict[str, Any]) -> None:
    _, peer, pictures = predictors["fpn"]
    exact = found_by_peer(peer, pictures, CPU)
    rough = peer_side(peer, pictures, CPU, torch.bfloat16).work()
    peer.to(memory_format=torch.contiguous_format)
    assert not torch.equal(torch.tensor(exact[0]["scores"][:5]), torch.tensor(rough[0]["scores"][:5]))


def test_sides_are_compared_stage_by_stage(predictors: dict[str, Any], tmp_path: Path) -> None:
    predictor, peer, pictures = predictors["fpn"]
    both = {"ours": our_side(predictor, pictures), "peer": peer_side(peer, pictures, CPU, torch.float32)}
    case = Case(predictor.config, (64, 96), 2, rounds=2, profile=str(tmp_path))
    measured = compare("predict", both, case, [], CPU)
    assert [len(measured.rows[0].timing.seconds[name]) for name in both] == [2, 2]
    for details in measured.details.values():
        assert list(details) == ["trunk", "proposals", "region head", "operations"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["predict_ours.json", "predict_peer.json"]


def test_what_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none: what is measured there is given, its words are what is tested."""
    monkeypatch.setattr(sides, "peak_memory", lambda work, held, device: 3 * 2**30)
    monkeypatch.setattr(sides, "synchronizations", lambda work: Counter({OUTSIDE: 2, INSIDE: 5}))
    layer = torch.nn.Linear(1000, 500, bias=False)
    side = sides.Side(lambda: layer(torch.zeros(1000, 1000)), layer)
    assert sides.look_into(side, seconds=0.01, rate=1e12, device=torch.device("cuda")) == {
        "operations": "0.001 TFLOP, 0.1 TFLOP/s, 10% of the bf16 matrix rate of 1 TFLOP/s",
        "peak memory": "3,072 MiB",
        "synchronizations": "2 outside the selection of boxes, 5 inside it",
    }
