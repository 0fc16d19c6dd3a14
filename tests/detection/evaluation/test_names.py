"""What results are called."""

import pytest

from detection.evaluation.names import result_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/voc07/eval/detections.json", "runs/voc12/best.pt"], ["voc07", "voc12"]),
        (["a/theirs.json", "b/theirs.json"], ["a/theirs.json", "b/theirs.json"]),
        (["a.json", "a.json"], ["a.json", "a.json (2)"]),
        (["detections.json"], ["detections.json"]),
    ],
)
def test_results_have_short_and_different_names(paths: list[str], names: list[str]) -> None:
    assert result_names(paths) == names
