"""The command line of tools/benchmark.py: what it takes, what it prints and writes, how it ends."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from detection.benchmark import stages
from detection.benchmark.agreement import Check, Disagreement
from detection.benchmark.case import Case
from detection.benchmark.report import Measured, Row
from detection.benchmark.timing import Timing
from detection.errors import UserError


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Every stage answers at once; the cases that they were asked for."""
    cases: list[Case] = []

    def stage(case: Case) -> Measured:
        cases.append(case)
        timing = Timing({"ours": [1.0, 1.0], "peer": [2.0, 2.0]})
        return Measured([Row("some stage", str(case), timing)], [Check("features", "the same")])

    for name in stages.STAGES:
        monkeypatch.setitem(stages.STAGES, name, stage)
    return cases


def test_the_stages_of_the_tool_are_those_there_are(tool: ModuleType) -> None:
    assert tuple(stages.STAGES) == tool.STAGES


def test_one_stage_with_its_options(
    tool: ModuleType, seen: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.json"
    words = "--stage train --backbone resnet50 --head fpn --size 400x500 --rounds 3 --train.precision bf16 --device cpu"
    tool.main([*words.split(), "--json", str(out)])
    (case,) = seen
    assert str(case) == "resnet50 fpn, 400x500, batch 2"
    assert (case.rounds, case.config.train.precision) == (3, "bf16")
    printed = capsys.readouterr().out
    assert "the same on both sides: features: the same" in printed and "2.00 to 2.00" in printed
    content = json.loads(out.read_text())
    assert (
        content["rows"][0]["ratio"] == 2.0
        and content["complete"] is True
        and "--head fpn" in content["command"]
        and content["machine"]["cores"]
    )


def test_all_stages_with_their_own_batches(tool: ModuleType, seen: list[Case]) -> None:
    tool.main(["--backbone", "vgg16", "--rounds", "1"])
    batches = dict(zip(tool.STAGES, (case.batch_size for case in seen), strict=True))
    assert batches == {"loader": 8, "train": 2, "predict": 1, "score": 1, "startup": 1, "eval": 1, "growth": 1}
    assert {case.config.model.head for case in seen} == {"fc"}


def test_a_disagreement_ends_with_status_1_and_a_sentence(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(case: Case) -> Measured:
        raise Disagreement("features: the sides differ by 0.1, where 0.0001 is allowed")

    monkeypatch.setitem(stages.STAGES, "predict", stage)
    with pytest.raises(SystemExit) as ended:
        tool.main(["--stage", "predict"])
    sentence = (
        "benchmark.py: predict: the sides do not do the same work: features: the sides differ by 0.1, where 0.0001"
    )
    assert str(ended.value.code).startswith(sentence)  # Python prints a text and makes it status 1


def test_a_disagreement_leaves_what_was_measured_before(
    tool: ModuleType, seen: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(case: Case) -> Measured:
        raise Disagreement("scores: there is nothing to compare")

    monkeypatch.setitem(stages.STAGES, "score", stage)
    with pytest.raises(SystemExit, match="score: the sides do not do the same work"):
        tool.main(["--json", str(tmp_path / "all.json")])
    content = json.loads((tmp_path / "all.json").read_text())
    assert len(seen) == len(content["rows"]) == tool.STAGES.index("score") and content["complete"] is False


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--size 600", "--size 600: give rows and columns, as 600x800"),
        ("--size 32x800", "^--size 32x800: give at least 64x64"),
        ("--rounds 0", "^--rounds 0: give 1 or more"),
        ("--batch_size -3", "^--batch_size -3: give 1 or more"),
        ("--backbone vgg16 --head c4", "vgg16 has no residual conv5"),
        ("--backbone resnet99", "did you mean resnet50"),
        ("--json .", "that is a folder; name a file in it"),
        ("--profile setup.py", "is no folder that can be written to"),
        ("--backbone vgg16 --stage predict --test.refine true", "no use for the setting"),
    ],
)
def test_mistakes(tool: ModuleType, seen: list[Case], words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tool.main(words.split())
