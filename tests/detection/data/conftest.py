"""Small data sets in VOC layout, written by the tests themselves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

OBJECT = (
    "<object><name>{}</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def _write(
    folder: Path,
    images: Mapping[str, Sequence[str]],
    sets: Mapping[str, Sequence[str]] | None = None,
    size: tuple[int, int] = (40, 60),
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Path:
    """Writes images with the XML of their objects; without `sets` all images are in "train"."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (name, objects) in enumerate(images.items()):
        rows, columns = (sizes or {}).get(name, size)
        pixels = np.random.default_rng(number).integers(0, 256, (rows, columns, 3), np.uint8)
        cv2.imwrite(str(folder / "JPEGImages" / f"{name}.jpg"), pixels)
        header = f"<size><width>{columns}</width><height>{rows}</height><depth>3</depth></size>"
        xml = f"<annotation>{header}{''.join(objects)}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(xml)
    for name, ids in (sets or {"train": list(images)}).items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    return folder


@pytest.fixture(scope="session")
def write_set() -> Callable[..., Path]:
    """The function that writes a data set in VOC layout."""
    return _write


@pytest.fixture(scope="session")
def xml_object() -> Callable[..., str]:
    """The function that gives the XML of one object: name, four coordinates, difficult (None: no such element)."""

    def write(name: str, *values: object, difficult: object = None) -> str:
        return OBJECT.format(name, "" if difficult is None else f"<difficult>{difficult}</difficult>", *values)

    return write
