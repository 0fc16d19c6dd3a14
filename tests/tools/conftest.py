"""Runs tools as a user does: from a command line to files, words and exit statuses."""

import runpy
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

TOOLS = Path(__file__).parents[2] / "tools"


class Ended(NamedTuple):
    """How a tool ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs a tool as ``python tools/NAME.py WORDS`` does, in this process (importing torch anew takes seconds)."""

    def run(name, *words):
        path = TOOLS / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        return Ended(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def refusal(tool, tmp_path, monkeypatch):
    """The one sentence with which a tool ends after a user's mistake; nothing may be left where it ran."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(name, *words):
        ended = tool(name, *words)
        assert ended.status == 2, ended
        assert ended.err.startswith(f"{name}.py: error: ")
        assert ended.err.count("\n") == 1 and ended.err.endswith("\n")
        assert "Traceback" not in ended.err
        assert list(folder.iterdir()) == []
        return ended.err

    return run


@pytest.fixture
def recipe(tiny_config, tmp_path):
    """A recipe of two iterations on the tiny data set."""
    tiny_config["train"]["iterations"] = 2
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_config))
    return path


@pytest.fixture
def output(tmp_path):
    """A folder for results, which the end of the test removes: a checkpoint has 100 MB."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
