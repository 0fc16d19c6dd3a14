"""What a run leaves behind: checkpoints that are written whole or not at all, and read without executing anything."""

import os
import pickle
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from detection.errors import UserError

FORMAT = 1
"""Version of the layout of checkpoints; a change that old code cannot read raises it."""


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`, together with ``format`` and ``versions``.

    The bytes go to a file beside it that replaces `path` only when all of them are on the disk: killed at any moment,
    `path` holds either the checkpoint before or the new one. A file left by a kill is overwritten by the next save.

    Args:
        state: tensors, plain values, and lists and dictionaries of them; nothing else can be loaded again.

    Raises:
        UserError: the disk is full, or the folder cannot be written to; the checkpoint saved before is untouched.
    """
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    try:
        _write(beside, {**state, "format": FORMAT, "versions": _versions()})
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)
        reason = _reason(error)
        if reason is None:
            raise
        raise UserError(
            f"{path}: the checkpoint could not be saved ({reason}); the one saved before is untouched, "
            "so make room or choose another --output, and go on with --resume"
        ) from error


def load(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The state that :func:`save` wrote to `path`, or to ``last.pt`` in the run folder `path`.

    Raises:
        UserError: the file is missing, damaged, of other software, or of a newer version of ResiDet.
    """
    path = resolve(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give a run folder or a .pt file that training has written")
    _require_whole(path)
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: no ResiDet checkpoint (it holds code or objects, which are never run)") from None
    except RuntimeError as error:
        raise UserError(f"{path}: no checkpoint ({str(error).splitlines()[0]}); choose another file") from error
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{path}: no ResiDet checkpoint; bare weights are given to --weights")
    if state["format"] > FORMAT:
        version = state["versions"]["residet"]
        raise UserError(f"{path}: ResiDet {version} wrote this checkpoint in a newer form; upgrade ResiDet to read it")
    return state


def weights(state: dict[str, Any]) -> dict[str, Any]:
    """The weights to run with: the moving average if the run kept one."""
    return state.get("ema") or state["model"]


def require_kind(state: dict[str, Any], kind: str, path: str | Path) -> None:
    """Raises a UserError unless a checkpoint holds a `kind` of network, "detector" or "localizer"."""
    found = state.get("kind", "detector")  # what older checkpoints hold
    if found != kind:
        tools = {
            "detector": "train_det.py, eval_det.py and predict_det.py",
            "localizer": "train_loc.py and eval_loc.py",
        }
        raise UserError(f"{path}: the checkpoint holds a {found}, for {tools[found]}; this takes a {kind}")


def resolve(path: str | Path) -> Path:
    """The checkpoint that `path` means: a run folder stands for its ``last.pt``."""
    path = Path(path)
    return path / "last.pt" if path.is_dir() else path


def _write(path: Path, state: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _reason(error: BaseException | None) -> str | None:
    """What the system said. torch's writer hides it: its RuntimeError has the OSError as context."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error and error.strerror


def _require_whole(path: Path) -> None:
    """Check the sums inside the file, which torch does not: a flipped bit would become a wrong weight."""
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError):
        whole = False
    if not whole:
        raise UserError(
            f"{path}: the checkpoint is damaged or incomplete; use another one (--init_from takes a best.pt)"
        )


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in ("residet", "torch", "torchvision")}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # ResiDet run from its folder, without installation
        return "not installed"
