"""Sets in COCO's format on disk: what they are called, and where their files and images are.

In the official layout ``annotations/instances_train2017.json`` lies beside the folder ``train2017``, and the set is
called "train2017"; sets without annotations have an ``image_info_test-dev2017.json`` instead. Any other file is called
"IMAGES_DIR=FILE.json", both relative to the root. A union is joined by "+".
"""

import os
from pathlib import Path
from typing import NamedTuple

from detection.errors import UserError

SOURCE = (
    "COCO comes as archives from images.cocodataset.org (zips/train2017.zip, zips/val2017.zip and "
    "annotations/annotations_trainval2017.zip; the same with 2014), unpacked into one folder"
)

IMAGE_FOLDERS = {
    "minival2014": "val2014",
    "valminusminival2014": "val2014",
    "test-dev2015": "test2015",
    "test-dev2017": "test2017",
}
"""Where the images of a set are when they are not in a folder of its own name."""

_KINDS = ("instances", "image_info")
"""How the official files' names begin: of sets with annotations, and of those without; the first that is there."""


class Place(NamedTuple):
    """One set on disk."""

    file: Path
    folder: Path
    """Where its images are."""


def split_union(sets: str) -> list[str]:
    """The parts of a union. "/a+b=/c+d/e.json+train2017" has two: a folder goes on until "=", a file until ".json".

    So a "+" within a path does not end it, where it can be told that this is a path: behind a "/" or a "=".
    """
    parts: list[str] = []
    for piece in sets.split("+"):
        if parts and _goes_on(parts[-1]):
            parts[-1] += f"+{piece}"
        else:
            parts.append(piece)
    return [part.strip() for part in parts]


def place_of(root: Path, spec: str) -> Place:
    """Where a set is, or would be if it existed."""
    folder, is_pair, file = (part.strip() for part in spec.rpartition("="))
    if is_pair:
        return Place(root / file, root / folder)
    files = [root / "annotations" / f"{kind}_{spec}.json" for kind in _KINDS]
    return Place(next(filter(Path.is_file, files), files[0]), root / IMAGE_FOLDERS.get(spec, spec))


def open_set(root: Path, spec: str, pictures: bool = True) -> Place:
    """Where a set is.

    Raises:
        UserError: its file is missing, or (with `pictures`) the folder of its images.
    """
    place = place_of(root, spec)
    if not place.file.is_file():
        raise UserError(_what_is_missing(root, spec, place.file))
    if pictures and not place.folder.is_dir():
        hint = f"put the images of {place.file} there; {SOURCE}"
        raise UserError(f"--data.root {root}: no folder {place.folder} for the set {spec}; {hint}")
    return place


def name_set(folder: Path, file: Path) -> str:
    """What a file is called as a set: "FOLDER=FILE".

    Raises:
        UserError: the paths hold "=" or "+" where the name would be read in another way.
    """
    spec = f"{folder}={file}"
    if split_union(spec) != [spec] or place_of(Path(), spec) != Place(file, folder):
        raise UserError(
            f"{file}: {spec!r} would be taken for other paths because of a = or + in it; rename what holds it"
        )
    return spec


class Listing:
    """Which files are below a folder: each folder is listed once, instead of a look at every file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, frozenset[str] | str] = {}

    def why_absent(self, path: str) -> str:
        """Why there is no such file, in words; empty when there is."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = self._list(folder)
        found = self._folders[folder]
        return found if isinstance(found, str) else "" if name in found else "no such image"

    def _list(self, folder: str) -> frozenset[str] | str:
        """The names in a folder, or why they are not known."""
        try:
            return frozenset(os.listdir(self._root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()
        except (OSError, ValueError) as error:  # ValueError: a character that no path may have
            return f"its folder cannot be listed ({getattr(error, 'strerror', None) or error})"


def _goes_on(part: str) -> bool:
    return not part.rstrip().endswith(".json") if "=" in part else "/" in part


def _what_is_missing(root: Path, spec: str, file: Path) -> str:
    if not root.is_dir():
        return f"--data.root {root}: no such folder (looked for {file}); name yours. {SOURCE}"
    if (root / "ImageSets").is_dir() or any(root.glob("VOC*/ImageSets")):
        return f"--data.root {root}: holds VOC data, not COCO files (no {file}); read it by --data.format voc"
    files = [(kind, path.stem) for kind in _KINDS for path in (root / "annotations").glob(f"{kind}_*.json")]
    available = sorted({stem.removeprefix(f"{kind}_") for kind, stem in files})
    there = f"the sets there are {', '.join(available)}" if available else f"no set is there at all; {SOURCE}"
    return (
        f"--data.root {root}: no set {spec} (looked for {file}); {there}; --data.train and --data.val name the sets, "
        "any other file as IMAGES_DIR=FILE.json"
    )
