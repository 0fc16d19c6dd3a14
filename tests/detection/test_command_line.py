import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detection.command_line import (
    Arguments,
    explicit_settings,
    overlay,
    parse,
    parse_for,
    parse_over_checkpoint,
    run_tool,
)
from detection.config import Config, to_dict
from detection.errors import UserError

REPOSITORY = Path(__file__).parents[2]
ARGUMENTS = {
    "--checkpoint": {"required": True, "metavar": "FILE", "help": "Trained detector"},
    "--input": {"required": True, "nargs": "+", "metavar": "PATH", "help": "Images or folders"},
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe into the current folder, which is empty, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="recipe.yaml"):
        Path(name).write_text(text)
        return name

    return write


def sentence(argv):
    with pytest.raises(UserError) as caught:
        explicit_settings(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run(code, *argv):
    return subprocess.run([sys.executable, "-c", code, *argv], cwd=REPOSITORY, capture_output=True, text=True)


def test_command_line_wins_over_files_in_any_order_and_later_files_over_earlier(recipe):
    first = recipe("train: {lr: 0.1, iterations: 5}\nseed: 1\n", "first.yaml")
    second = recipe("train:\n  lr: 0.2\n  gamma: 0.5\n", "second.yaml")
    expected = {"train": {"lr": 3.0, "iterations": 5, "gamma": 0.5}, "seed": 1}
    assert explicit_settings(["--train.lr", "3", "--config", first, "--config", second]) == expected
    assert explicit_settings(["--config", first, "--config", second, "--train.lr=3"]) == expected
    assert explicit_settings(["--config", second, "--config", first])["train"]["lr"] == 0.1


def test_parse_lays_given_values_over_the_defaults(recipe):
    name = recipe("backbone: vgg16\ndata: {min_size: [480, 600]}\nmodel.head: fc\n")
    config = parse("train_det", "", ["--config", name, "--data.classes", "[cat,dog]", "--train.lr", "1e-3"])
    assert (config.backbone, config.model.head) == ("vgg16", "fc")
    assert config.data.min_size == (480, 600)
    assert config.data.classes == ("cat", "dog")
    assert config.train.lr == 0.001
    assert config.test == Config().test


def test_every_setting_survives_a_written_recipe(recipe):
    assert parse("train_det", "", ["--config", recipe(yaml.safe_dump(to_dict(Config())))]) == Config()


def test_quickstart_is_taken_only_without_recipe_and_without_resume(recipe):
    quick = Path(recipe("train: {iterations: 7, lr: 0.5}\n", "quick.yaml"))
    assert parse("train_det", "", ["--train.lr", "1"], quickstart=quick).train.iterations == 7
    assert parse("train_det", "", ["--train.lr", "1"], quickstart=quick).train.lr == 1.0
    other = recipe("seed: 3\n")
    assert parse("train_det", "", ["--config", other]).train.iterations == Config().train.iterations
    assert parse("train_det", "", ["--resume", "runs/x"]).train.iterations == Config().train.iterations


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("--model.nrom=group", "unknown setting --model.nrom: did you mean --model.norm?"),
        (
            "--batch_size=3",
            "unknown setting --batch_size: did you mean --train.batch_size or --test.batch_size?",
        ),
        ("--iterations", "unknown setting --iterations: did you mean --train.iterations?"),
        ("--train.weight-decay", "unknown setting --train.weight-decay: did you mean --train.weight_decay?"),
        ("--conf", "unknown setting --conf: did you mean --config?"),
        ("--zzz", "unknown setting --zzz: --help lists all settings"),
    ],
)
def test_unknown_setting_gets_the_nearest_name(word, advice):
    assert sentence([word]) == advice


def test_unknown_setting_in_a_recipe_names_the_file(recipe):
    name = recipe("model:\n  nrom: group\n")
    assert sentence(["--config", name]) == "unknown setting model.nrom in recipe.yaml: did you mean model.norm?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2: 3\n", "recipe.yaml, line 2: not YAML"),
        ("- 1\n", "recipe.yaml: a recipe maps settings to values"),
        ("", "recipe.yaml: a recipe maps settings to values"),
        ("a: \x00\n", "recipe.yaml: not YAML"),
        ("train: 3\n", "train in recipe.yaml: expected a group of settings, got 3"),
        ("train: {lr: fast}\n", "train.lr in recipe.yaml: expected a number, got fast"),
        ("seed:\n", "seed in recipe.yaml: expected a whole number, got nothing"),
        ("data: {min_size: 9}", "data.min_size in recipe.yaml: expected a list of whole numbers, as [480,600], got 9"),
    ],
)  # fmt: skip
def test_faulty_recipe_gets_one_sentence(recipe, text, expected):
    assert sentence(["--config", recipe(text)]).startswith(expected)


def test_missing_recipe_is_named():
    assert sentence(["--config", "nowhere.yaml"]).startswith("nowhere.yaml: the recipe cannot be read (No such file")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--train.lr", "abc"], "--train.lr: expected a number, got abc"),
        (["--seed", "1.5"], "--seed: expected a whole number, got 1.5"),
        (["--seed", "null"], "--seed: expected a whole number, got nothing"),
        (["--model.head=x"], "--model.head: expected one of c4, fpn, fc, got x"),
        (["--model.image_std=[1,2]"], "--model.image_std: expected a list of 3 numbers, as [0.5,1.0,1.5], got [1, 2]"),
        (["--train.deterministic"], "--train.deterministic needs a value: true or false"),
        (["--train", "2007/train"], "--train: this is a group of settings; name one of them, as in --train.iterations"),
        (["stray"], "nothing takes the argument stray; settings are given as --SETTING VALUE"),
    ],
)  # fmt: skip
def test_wrong_value_gets_one_sentence(argv, expected):
    assert sentence(argv) == expected


def test_settings_over_a_checkpoint_are_only_the_explicit_ones():
    argv = ["--checkpoint", "best.pt", "--input", "a.jpg", "b", "--test.nms_iou", "0.5"]
    given, explicit = parse_over_checkpoint("predict_det", "", argv, ARGUMENTS)
    assert (given.checkpoint, given.input, given.config) == ("best.pt", ["a.jpg", "b"], [])
    assert explicit == {"test": {"nms_iou": 0.5}}


def test_optional_argument_that_is_not_given_takes_its_default():
    given, explicit = parse_over_checkpoint("t", "", [], {"--limit": {"type": int, "default": 4, "help": "Images"}})
    assert given.limit == 4
    assert explicit == {}


def test_missing_required_arguments_are_named():
    with pytest.raises(UserError, match="^missing --checkpoint, --input; see --help$"):
        parse_over_checkpoint("predict_det", "", [], ARGUMENTS)


NESTED = st.dictionaries(
    st.sampled_from("ab"), st.integers() | st.dictionaries(st.sampled_from("cd"), st.integers()), max_size=2
)


@given(NESTED, NESTED)
def test_overlay_equals_assignment_of_dotted_names(base, explicit):
    def flat(values):
        groups = {(k, i): v for k, g in values.items() if isinstance(g, dict) for i, v in g.items()}
        return groups | {(k,): v for k, v in values.items() if not isinstance(v, dict)}

    if any(isinstance(base[k], dict) != isinstance(explicit[k], dict) for k in base.keys() & explicit.keys()):
        return
    before = repr(base)
    assert flat(overlay(base, explicit)) == flat(base) | flat(explicit)
    assert repr(base) == before


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("x.xml: object 3: no"), 2, "train_det.py: error: x.xml: object 3: no\n"),
        (KeyboardInterrupt(), 130, "train_det.py: interrupted\n"),
    ],
)
def test_run_tool_turns_mistakes_into_exit_statuses(monkeypatch, capsys, error, status, words):
    def main(argv):
        assert argv == ["--seed", "1"]
        raise error

    monkeypatch.setattr(sys, "argv", ["tools/train_det.py", "--seed", "1"])
    with pytest.raises(SystemExit) as end:
        run_tool(main)
    assert end.value.code == status
    assert capsys.readouterr().err == words


def test_run_tool_is_quiet_when_the_reader_has_gone():
    code = "from detection.command_line import run_tool\nrun_tool(lambda argv: [print('x' * 99) for _ in range(9999)])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


HELP = "import sys; from detection.command_line import parse; parse('train_det', 'Train.', sys.argv[1:])"


def test_help_shows_the_field_texts_with_defaults_and_no_groups():
    words = " ".join(run(HELP, "--help").stdout.split())
    assert words.startswith("usage: train_det [--config FILE] [--SETTING VALUE ...] Train.")
    assert "--train.batch_size N Images per optimizer step" in words
    assert "default: 70000" in words
    assert "--model CONFIG" not in words


def test_help_over_a_checkpoint_shows_no_defaults():
    code = HELP.replace("parse", "parse_over_checkpoint").replace("[1:]", f"[1:], {ARGUMENTS!r}")
    words = " ".join(run(code, "--help").stdout.split())
    assert words.startswith("usage: train_det --checkpoint FILE --input PATH ... [--config FILE]")
    assert "--train.batch_size N" in words
    assert "default: " not in words


def test_help_is_immediate_and_imports_no_torch():
    """Time of the processor, not of the clock: other work on the machine must not fail it."""
    seconds = []
    for _ in range(3):
        start = os.times()
        run(HELP, "--help").check_returncode()
        end = os.times()
        seconds.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert min(seconds) < 0.6
    loaded = run("import sys, detection.command_line; print('torch' in sys.modules, 'wandb' in sys.modules)")
    assert loaded.stdout == "False False\n"


def test_tools_never_ask_for_a_newer_albumentations():
    code = (
        "import os; from detection.command_line import run_tool\n"
        "run_tool(lambda argv: print(os.environ['NO_ALBUMENTATIONS_UPDATE']))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"1\n")


ONLY_DATA = ("data", "metric.voc", "seed")


def test_tool_with_few_settings_takes_recipes_with_all(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {lr: 0.5}\ndata: {root: somewhere}\n")
    argv = ["--detections", "x", "--config", str(recipe), "--metric.voc.iou", "0.75", "--data.val", "val"]
    given, config = parse_for("score_det.py", "", argv, {"--detections": {"required": True}}, ONLY_DATA)
    assert (given.detections, config.train.lr, config.metric.voc.iou) == ("x", 0.5, 0.75)
    assert (config.data.root, config.data.val, config.data.train) == ("somewhere", "val", "2007/trainval")


@pytest.mark.parametrize("flag", ["--train.lr", "--metric.bootstrap", "--output"])
def test_tool_refuses_settings_without_use(flag: str) -> None:
    with pytest.raises(UserError, match=f"^{flag}: this tool has no use for the setting"):
        parse_for("score_det.py", "", [flag, "3"], {}, ONLY_DATA)


@pytest.mark.parametrize(
    "flag", ["--model.global_context=true", "--model.roi.class_agnostic", "--backbone", "--weights"]
)
def test_tool_with_a_checkpoint_says_that_the_detector_is_fixed(flag: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_over_checkpoint("eval_det.py", "", ["--checkpoint", "a.pt", flag, "x"], ARGUMENTS, ("data", "test"))
    reason = "this is fixed in training and comes with the checkpoint; give it when you train a new one"
    assert str(caught.value) == f"{flag.partition('=')[0]}: {reason}"


@pytest.mark.parametrize(
    ("arguments", "flag"), [(ARGUMENTS, "--train.lr"), (ARGUMENTS, "--seed"), ({}, "--model.norm"), ({}, "--backbone")]
)
def test_all_else_without_use_is_said_as_before(arguments: Arguments, flag: str) -> None:
    with pytest.raises(UserError, match=f"^{flag}: this tool has no use for the setting; --help lists"):
        parse_over_checkpoint("t", "", [flag, "3"], arguments, ("data", "test"))


def test_tool_with_a_checkpoint_may_take_settings_of_the_detector() -> None:
    given = ["--checkpoint", "a.pt", "--input", "b", "--model.head", "fc"]
    assert parse_over_checkpoint("t", "", given, ARGUMENTS, ("model.head",))[1] == {"model": {"head": "fc"}}


def test_tool_without_checkpoint_checks_ranges() -> None:
    with pytest.raises(UserError, match="^metric.voc.iou 1.5: give a value from 0 to 1"):
        parse_for("score_det.py", "", ["--metric.voc.iou", "1.5"], {}, ONLY_DATA)


def test_help_of_a_tool_shows_its_settings_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_for("score_det.py", "Scores.", ["--help"], {}, ONLY_DATA)
    shown = capsys.readouterr().out
    assert "--data.root" in shown and "--metric.voc.iou" in shown
    assert "--metric.bootstrap" not in shown and "--train.lr" not in shown and "proposal" not in shown


def test_compile_needs_no_value():
    """The one switch that is an action; all others are given as they are written in recipes."""
    for words, expected in ((["--compile"], True), (["--compile", "--seed", "3"], True), (["--compile=false"], False)):
        assert parse("", "", words).compile is expected
