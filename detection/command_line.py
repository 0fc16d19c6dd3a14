"""From the words of a command line to settings, and from a user's mistake to one sentence.

Values come from three places, the later winning: the defaults in :mod:`detection.config` (or a checkpoint), recipes
(``--config FILE``, in the order given) and ``--section.setting value``. Nothing here imports torch, so that
``--help`` is immediate.
"""

import argparse
import difflib
import errno
import os
import re
import sys
import typing
from argparse import ArgumentError, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from detection.config import Config, from_dict, overlay
from detection.errors import UserError
from detection.finalize import check

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
QUICKSTART, LOC_QUICKSTART = CONFIGS / "quickstart.yaml", CONFIGS / "loc_quickstart.yaml"
"""The recipes of a training run that names none."""
DETECTION = (
    *("backbone", "weights", "output", "device", "compile", "seed", "resume", "init_from", "wandb"),
    *("model", "data", "train", "test", "metric"),
)
"""Settings of the training of a detector."""
LOCALIZATION = (
    *("backbone", "weights", "output", "device", "compile", "seed", "resume", "init_from", "wandb"),
    *("model.norm", "model.freeze_at", "model.image_mean", "model.image_std"),
    *("data.format", "data.root", "data.train", "data.val", "data.classes", "data.on_error", "data.ids"),
    *("data.blacklist", "data.workers", "data.augment.hflip", "data.augment.vflip", "data.augment.colour"),
    *("train", "test.batch_size", "loc"),
)
"""Settings of the training of a localizer."""

Arguments = Mapping[str, Mapping[str, Any]]
"""A tool's own arguments: the flag, and what ``add_argument`` takes besides it."""

CHECKPOINTS: Arguments = {
    "--checkpoint": {
        "required": True,
        "nargs": "+",
        "action": "extend",
        "metavar": "FILE",
        "help": "best.pt or last.pt of a run, or its folder (for last.pt); several are an ensemble",
    }
}
"""What tools take that run trained networks."""


def parse(
    program: str, description: str, argv: list[str], groups: Sequence[str] = DETECTION, quickstart: Path = QUICKSTART
) -> Config:
    """The settings of a new run: defaults, then recipes, then the command line.

    Args:
        groups: settings and groups of settings that the command line takes; recipes may hold others.
        quickstart: the recipe when neither a recipe nor a run to resume is given; it never lies under another one.

    Raises:
        UserError: an unknown setting, a value of the wrong type, or a recipe that cannot be read.
    """
    given, settings = _given(program, description, argv, {}, show_defaults=True, groups=groups, is_new_run=True)
    if not given.config and not settings.get("resume"):
        settings = overlay(_read_recipe(quickstart), settings)
    return from_dict(settings)


def explicit_settings(argv: list[str]) -> dict[str, Any]:
    """Only what recipes and the command line say, nested like :func:`detection.config.to_dict`.

    Raises:
        UserError: as :func:`parse`.
    """
    return _given("", "", argv, {}, show_defaults=False, is_new_run=True)[1]


def parse_over_checkpoint(
    program: str, description: str, argv: list[str], arguments: Arguments, groups: Sequence[str] = ()
) -> tuple[Namespace, dict[str, Any]]:
    """For tools whose settings come from a checkpoint: their own arguments, and the settings to lay over it.

    Args:
        arguments: flag to options, as ``{"--checkpoint": {"required": True, "metavar": "FILE", "help": "..."}}``.
        groups: settings and groups of settings that the command line takes, as ("data", "metric.voc", "seed"); none:
            all. Recipes may hold others.

    Raises:
        UserError: as :func:`parse`; also when a required argument is missing, or the tool has no use for a setting.
    """
    return _given(program, description, argv, arguments, show_defaults=False, groups=groups)


def parse_for(
    program: str, description: str, argv: list[str], arguments: Arguments, groups: Sequence[str]
) -> tuple[Namespace, Config]:
    """For tools without a checkpoint: their own arguments, and settings from defaults, recipes and the command line.

    Args:
        arguments: as for :func:`parse_over_checkpoint`, as are `groups`.

    Raises:
        UserError: as :func:`parse_over_checkpoint`; also when settings are out of range or contradict each other.
    """
    given, settings = _given(program, description, argv, arguments, show_defaults=True, groups=groups)
    config = from_dict(settings)
    check(config)
    return given, config


def run_tool(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a tool's `main` on the command line and end the process.

    The exit status is 0, 2 after a user's mistake or when nothing can be printed (with a sentence on stderr), 130 after
    Ctrl-C, and 141 when the reader of a pipe has gone (128 + the signal's number, as shells count).
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks the network for a newer version
    program = Path(sys.argv[0]).name
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        # Each of several processes knows of the mistake; one says it.
        sys.exit(_complain(f"{program}: error: {error}", 2) if os.environ.get("RANK", "0") == "0" else 2)
    except KeyboardInterrupt:
        sys.exit(_complain(f"{program}: interrupted", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its own last flush
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_complain(f"{program}: error: output cannot be written ({error.strerror}); make room on the disk", 2))
    sys.exit(0)


def _complain(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


def _given(
    program: str,
    description: str,
    argv: list[str],
    arguments: Arguments,
    show_defaults: bool,
    groups: Sequence[str] = (),
    is_new_run: bool = False,
) -> tuple[Namespace, dict[str, Any]]:
    """What was given: the tool's own arguments (and ``config``, a list of files), and the merged settings."""
    parser = _build_parser(program, description, arguments, show_defaults, groups)
    own = {flag.removeprefix("--"): options.get("default") for flag, options in arguments.items()}
    _check_flags(argv, ["help", "config", *own], groups)
    try:
        values = parser.parse_args(argv, defaults=False).as_dict()
    except ArgumentError as error:
        raise UserError(_reworded(str(error), "--{}")) from None
    given = Namespace(config=values.pop("config", []), **{name: values.pop(name, own[name]) for name in own})
    settings: dict[str, Any] = {}
    for file in given.config:
        recipe = _read_recipe(Path(file))
        if not is_new_run:
            recipe.pop("output", None)  # the folder of the run that the recipe is from is not this tool's
        settings = overlay(settings, recipe)
    return given, overlay(settings, _plain(values, "--{}"))


# The parser and its help


def _build_parser(
    program: str, description: str, arguments: Arguments, show_defaults: bool, groups: Sequence[str] = ()
) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    own = [_usage(flag, options) for flag, options in arguments.items()]
    usage = " ".join(["%(prog)s", *own, "[--config FILE]", "[--SETTING VALUE ...]"])
    parser = ArgumentParser(
        prog=program or None, usage=usage, description=description, exit_on_error=False, allow_abbrev=False
    )
    for flag, options in arguments.items():
        parser.add_argument(flag, **options)
    config_help = "A recipe, a YAML file of settings; may be repeated, the later file wins, and the command line wins"
    parser.add_argument("--config", action="append", metavar="FILE", default=argparse.SUPPRESS, help=config_help)
    parser.add_class_arguments(Config, None)
    for action in parser._actions:
        if action.dest in _GROUPS:
            action.help = argparse.SUPPRESS  # --model FILE and the like, which _check_flags does not let through
        elif action.dest in _SETTINGS:
            action.metavar = action.metavar if "{" in (action.metavar or "") else _metavar(_SETTINGS[action.dest])
            action.default = action.default if show_defaults else argparse.SUPPRESS
            action.help = action.help if _is_taken(action.dest, groups) else argparse.SUPPRESS
            if action.dest == "compile":
                action.nargs, action.const = "?", True  # alone it is true, as the name of an action reads
    return parser


def _is_taken(name: str, groups: Sequence[str]) -> bool:
    """Whether a tool that takes `groups` (none: all) takes this setting on its command line."""
    return not groups or any(f"{name}.".startswith(f"{group}.") for group in groups)


def _usage(flag: str, options: Mapping[str, Any]) -> str:
    words = f"{flag} {options.get('metavar', 'VALUE')}{' ...' if options.get('nargs') else ''}"
    return words if options.get("required") else f"[{words}]"


def _settings(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every setting, in the order of declaration; of groups as well."""
    for name, annotation in typing.get_type_hints(kind).items():
        yield prefix + name, annotation
        if hasattr(annotation, "__dataclass_fields__"):
            yield from _settings(annotation, f"{prefix}{name}.")


_ALL = dict(_settings(Config))
_GROUPS = [name for name, kind in _ALL.items() if hasattr(kind, "__dataclass_fields__")]
_SETTINGS = {name: kind for name, kind in _ALL.items() if name not in _GROUPS}
_ARCHITECTURE = ("backbone", "weights", "model")
"""What a detector is made of; no tool can change it in a checkpoint."""


def _metavar(kind: Any) -> str | None:
    if typing.get_origin(kind) is tuple:
        return f"[{_metavar(typing.get_args(kind)[0])},...]"
    return {str: "TEXT", int: "N", float: "X"}.get(kind)


# Recipes


def _read_recipe(path: Path) -> dict[str, Any]:
    return checked(_load_yaml(path), f"{{}} in {path}")


def checked(settings: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Settings from elsewhere, nested or with dotted names, as the command line would give them.

    Args:
        where: what a message says of a setting, with ``{}`` for its name.

    Raises:
        UserError: an unknown setting (with the nearest valid one), or a value of the wrong type.
    """
    given = dict(_flat(settings, where))
    for name in given:
        _check_name(name, where)
    parser = _build_parser("", "", {}, show_defaults=False)
    try:
        values = parser.parse_object(_nested(given), defaults=False)
    except ArgumentError as error:
        raise UserError(_reworded(str(error), where)) from None
    return _plain(values.as_dict(), where)


def _load_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: the recipe cannot be read ({error.strerror}); give the path of a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "unreadable characters"
        raise UserError(f"{path}{line}: not YAML ({reason}); write one `setting: value` a line") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe maps settings to values, as in `backbone: resnet50`; this file does not")
    return content


def _flat(content: Mapping[Any, Any], where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a recipe; a group may be written out or dotted, and may be empty."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, where, f"{name}.")
        elif name not in _GROUPS:
            yield name, value
        elif value is not None:
            raise UserError(f"{where.format(name)}: expected a group of settings, got {value!r}")


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        inside = nested
        for group in groups:
            inside = inside.setdefault(group, {})
        inside[last] = value
    return nested


def _plain(values: Mapping[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """Tuples as lists, as :func:`detection.config.to_dict` has them. The parser lets null pass; here it ends."""
    plain = {}
    for name, value in values.items():
        if value is None:
            raise _wrong_value(prefix + name, "None", where)
        inner = isinstance(value, Mapping)
        value = _plain(value, where, f"{prefix}{name}.") if inner else value
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


# Mistakes. `where` is "--{}" or "{} in FILE", with the setting's name to be filled in.


def _check_flags(argv: list[str], own: list[str], groups: Sequence[str]) -> None:
    for word in argv:
        name = word[2:].partition("=")[0]
        if word.startswith("--") and name and name not in own:
            _check_name(name, "--{}", own)
            if not _is_taken(name, groups):
                raise _no_use(name, own)


def _no_use(name: str, own: Sequence[str]) -> UserError:
    if "checkpoint" in own and _is_taken(name, _ARCHITECTURE):
        return UserError(
            f"--{name}: this is fixed in training and comes with the checkpoint; give it when you train a new one"
        )
    return UserError(f"--{name}: this tool has no use for the setting; --help lists those that it takes")


def _check_name(name: str, where: str, own: Sequence[str] = ()) -> None:
    if name in _GROUPS:
        example = next(setting for setting in _SETTINGS if setting.startswith(f"{name}."))
        raise UserError(f"{where.format(name)}: this is a group of settings; name one of them, as in --{example}")
    if name not in _SETTINGS:
        prefix = where.partition("{")[0]
        nearest = " or ".join(prefix + candidate for candidate in _nearest(name, [*own, *_SETTINGS]))
        advice = f"did you mean {nearest}?" if nearest else "--help lists all settings"
        raise UserError(f"unknown setting {where.format(name)}: {advice}")


def _nearest(name: str, valid: list[str]) -> list[str]:
    """The names that end in the same word; else the closest name, for a bare word by the last words alone."""
    last = {candidate: candidate.rpartition(".")[2] for candidate in valid}
    name = name.replace("-", "_")
    word = name.rpartition(".")[2]
    words = difflib.get_close_matches(word, set(last.values()), n=1)
    if word in words or "." not in name:
        return [candidate for candidate in valid if last[candidate] in words]
    return difflib.get_close_matches(name, valid, n=1)


def _reworded(message: str, where: str) -> str:
    """One sentence of ours for the parser's message, which spans lines and speaks of Python classes."""
    if wrong := re.match(r'Parser key "([\w.]+)":.*Got value: (.*)', message, re.DOTALL):
        return str(_wrong_value(wrong[1], wrong[2], where))
    if empty := re.match(r"argument --([\w.]+): expected .*argument", message):
        return f"--{empty[1]} needs a value" + (f": {_expected(empty[1])}" if empty[1] in _SETTINGS else "")
    if stray := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
        return f"nothing takes the argument {stray[1]}; settings are given as --SETTING VALUE"
    if missing := re.match(r"the following arguments are required: (.*)", message):
        return f"missing {', '.join(f'--{name}' for name in missing[1].split(', '))}; see --help"
    return " ".join(message.split())


def _wrong_value(name: str, value: str, where: str) -> UserError:
    got = "nothing" if value == "None" else value
    return UserError(f"{where.format(name)}: expected {_expected(name)}, got {got}")


_ITEMS: dict[type, tuple[str, list[str]]] = {
    str: ("names", ["cat", "dog"]),
    int: ("whole numbers", ["480", "600"]),
    float: ("numbers", ["0.5", "1.0", "1.5", "2.0"]),
}
"""What a list of such items holds, and an example."""


def _expected(name: str) -> str:
    kind = _SETTINGS.get(name, str)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(arguments)}"
    if typing.get_origin(kind) is tuple:
        count, size = ("", 2) if Ellipsis in arguments else (f"{len(arguments)} ", len(arguments))
        items, example = _ITEMS[arguments[0]]
        return f"a list of {count}{items}, as [{','.join(example[:size])}]"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
