"""Result files of any software, and what the benchmark servers take: packed as they want it, read back and compared."""

import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from detection.config import DataSettings
from detection.data.dataset import Annotations
from detection.errors import UserError
from detection.evaluation.detections import Detections
from detection.files import replacing

_TOLERANCE = 0.001
"""Pixels that a coordinate may differ by after reading back: the VOC files have three decimals."""


def read_detections(path: str | Path, annotations: Annotations) -> Detections:
    """Reads detections in the images of `annotations` that any software wrote.

    Args:
        path: a folder with VOC result files, or a file in COCO result form.
        annotations: the data set that was detected in.

    Raises:
        UserError: as :meth:`Detections.read_voc` and :meth:`Detections.read_coco` do; also for a checkpoint, and for
            one of VOC's files instead of their folder.
    """
    path = Path(path)
    if path.suffix == ".pt":
        raise UserError(f"{path}: is a checkpoint; name a file of detections (eval_det.py writes one)")
    if path.suffix == ".txt":
        raise UserError(f"{path}: is one of VOC's files; name their folder, {path.parent}")
    return (Detections.read_voc if path.is_dir() else Detections.read_coco)(path, annotations)


def write_server_archive(
    folder: str | Path, detections: Detections, annotations: Annotations, data: DataSettings
) -> Path:
    """Writes the archive that the evaluation server of a data set takes, reads it back and compares.

    Args:
        folder: where the archive goes; it is made if necessary.
        detections: what was found.
        annotations: the set `data.val`.
        data: says which server it is for: COCO's, or otherwise VOC's.

    Returns:
        The archive: ``results_VOC2012_comp4_test.tar.gz`` or ``detections_test-dev2017_residet_results.zip``.

    Raises:
        UserError: it cannot be written, or what is read back is not what was written.
    """
    spec = data.val.rpartition("+")[2].strip()
    if data.format == "coco":
        return write_coco_archive(folder, detections, annotations, Path(spec.rpartition("=")[2]).stem)
    year, _, set_name = spec.rpartition("/")
    return write_voc_archive(folder, detections, annotations, set_name, year)


def write_voc_archive(
    folder: str | Path,
    detections: Detections,
    annotations: Annotations,
    set_name: str = "test",
    year: str = "2012",
    competition: str = "comp4",
) -> Path:
    """Writes ``results_VOC2012_comp4_test.tar.gz`` for host.robots.ox.ac.uk, with ``results/VOC2012/Main/...`` inside.

    Args:
        folder: where the archive goes.
        detections: what was found.
        annotations: the set that was detected in. The server expects the 20 classes of VOC.
        set_name: the set's name without the year.
        year: of the challenge; empty for a set that belongs to none.
        competition: "comp3" if nothing but VOC images was used in training, otherwise "comp4".

    Raises:
        UserError: it cannot be written, or what is read back is not what was written.
    """
    challenge = f"VOC{year}" if year else ""
    path = Path(folder) / "_".join(filter(None, ("results", challenge, competition, f"{set_name}.tar.gz")))
    inside = Path("results", challenge, "Main")
    with replacing(path) as temporary, TemporaryDirectory() as scratch, TemporaryDirectory() as unpacked:
        detections.write_voc(scratch / inside, annotations, set_name, competition)
        with tarfile.open(temporary, "w:gz") as archive:
            archive.add(Path(scratch) / "results", "results")
        with tarfile.open(temporary) as archive:
            archive.extractall(unpacked, filter="data")
        by_class = detections.select(np.argsort(detections.labels, kind="stable"))
        _require_same(path, by_class, Detections.read_voc(unpacked / inside, annotations))
    return path


def write_coco_archive(
    folder: str | Path, detections: Detections, annotations: Annotations, set_name: str, name: str = "residet"
) -> Path:
    """Writes ``detections_<set>_<name>_results.zip`` for COCO's server, with the JSON of the same name inside.

    Args:
        folder: where the archive goes.
        detections: what was found.
        annotations: the set that was detected in.
        set_name: the set, as "test-dev2017".
        name: what the detector is called.

    Raises:
        UserError: it cannot be written, or what is read back is not what was written.
    """
    path = Path(folder) / f"detections_{set_name}_{name}_results.zip"
    inside = f"{path.stem}.json"
    with replacing(path) as temporary, TemporaryDirectory() as scratch, TemporaryDirectory() as unpacked:
        detections.write_coco(Path(scratch) / inside, annotations)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(Path(scratch) / inside, inside)
        with zipfile.ZipFile(temporary) as archive:
            archive.extractall(unpacked)
        _require_same(path, detections, Detections.read_coco(Path(unpacked) / inside, annotations))
    return path


def _require_same(path: Path, written: Detections, read: Detections) -> None:
    fields = ("image_indices", "labels", "scores")
    same = all(np.array_equal(getattr(written, field), getattr(read, field)) for field in fields)
    if not same or not np.allclose(written.boxes, read.boxes, rtol=0, atol=_TOLERANCE):
        raise UserError(f"{path}: read back, it is not what was written; look for a faulty disk and write it again")
