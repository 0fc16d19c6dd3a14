"""Files that are written whole or not at all, and folders that are new."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detection.errors import UserError
from detection.plain import plain


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; what was written there takes the name `path` when the block ends.

    Missing folders are made. When the block fails, the former file stays as it was and nothing else is left behind.

    Raises:
        UserError: the folder or the file cannot be written (no permission, no space left).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room, or name a place that can be written to"
        ) from error
    finally:
        _remove(temporary)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record for people and programs; NaN, which JSON does not have, becomes null."""
    with replacing(path) as file:
        file.write_text(json.dumps(plain(record), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_writable(folder: Path) -> Path:
    """The folder itself; a place that cannot be written to is told before anything is computed. Makes nothing.

    Raises:
        UserError: the folder, or the nearest one above it that exists, is a file or may not be written to.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{folder}: {existing} is no folder that can be written to; choose another place")
    return folder


def unused(folder: Path) -> Path:
    """The folder itself if it does not exist yet, otherwise with the first number that makes it new."""
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # its folder could not be made or entered: the error above already says so
