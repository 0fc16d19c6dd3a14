"""Archives for the benchmark servers, opened with the standard library; files told apart from folders."""

import json
import tarfile
import zipfile

import numpy as np
import pytest

from detection.config import VOC_CLASSES, DataSettings
from detection.errors import UserError
from detection.evaluation import result_files
from detection.evaluation.detections import Detections
from detection.evaluation.result_files import read_detections, write_server_archive

ROWS = [(1, 2, 0.75, (10, 20, 40, 60)), (0, 1, 0.5, (0, 0.5, 2, 3)), (0, 2, 0.7500001, (1, 1, 4, 4))]


def test_a_folder_is_voc_and_a_file_coco(tmp_path, make_annotations, make_detections):
    annotations, detections = make_annotations([], 2, 2), make_detections(ROWS)
    detections.write_voc(tmp_path / "voc", annotations, "val")
    detections.write_coco(tmp_path / "a.json", annotations)
    assert read_detections(tmp_path / "voc", annotations).labels.tolist() == [1, 2, 2]
    assert read_detections(str(tmp_path / "a.json"), annotations).labels.tolist() == [2, 1, 2]


def test_voc_archive(tmp_path, make_annotations, make_detections):
    annotations = make_annotations([], 2, 20)
    annotations.class_names, annotations.annotated = VOC_CLASSES, False
    data = DataSettings(format="voc", val="2012/test")
    path = write_server_archive(tmp_path / "out", make_detections(ROWS), annotations, data)
    assert path == tmp_path / "out" / "results_VOC2012_comp4_test.tar.gz"
    assert list(path.parent.iterdir()) == [path]
    with tarfile.open(path, "r:gz") as archive:
        files = {item.name: archive.extractfile(item).read().decode() for item in archive if item.isfile()}
    assert set(files) == {f"results/VOC2012/Main/comp4_det_test_{name}.txt" for name in VOC_CLASSES}
    lines = files["results/VOC2012/Main/comp4_det_test_bicycle.txt"].splitlines()
    assert lines[0] == "000001 0.75 11.000 21.000 40.000 60.000"
    assert float(lines[1].split()[1]) > 0.75  # scores that differ in the seventh digit keep their order
    assert files["results/VOC2012/Main/comp4_det_test_cat.txt"] == ""


@pytest.mark.parametrize("val", ["test-dev2017", "val2017+images=annotations/image_info_test-dev2017.json"])
def test_coco_archive(tmp_path, make_annotations, make_detections, val):
    annotations = make_annotations([], 2, 2)
    annotations.image_ids, annotations.category_ids = np.array(["9", "391895"]), (18, 90)
    path = write_server_archive(tmp_path, make_detections(ROWS), annotations, DataSettings(format="coco", val=val))
    name = "test-dev2017" if val == "test-dev2017" else "image_info_test-dev2017"
    assert path.name == f"detections_{name}_residet_results.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"detections_{name}_residet_results.json"]
        rows = json.loads(archive.read(archive.namelist()[0]))
    assert rows[0] == {"image_id": 391895, "category_id": 90, "bbox": [10, 20, 30, 40], "score": 0.75}


def test_a_set_outside_any_challenge(tmp_path, make_annotations, make_detections):
    data = DataSettings(format="voc", val="unlabelled")
    path = write_server_archive(tmp_path, make_detections(ROWS), make_annotations([], 2, 2), data)
    assert path.name == "results_comp4_unlabelled.tar.gz"
    with tarfile.open(path) as archive:
        assert "results/Main/comp4_det_unlabelled_class1.txt" in archive.getnames()


@pytest.mark.parametrize("data", [DataSettings(val="2012/test"), DataSettings(format="coco", val="test-dev2017")])
@pytest.mark.parametrize("field", ["image_indices", "scores", "boxes"])
def test_what_is_read_back_must_be_what_was_written(
    tmp_path, monkeypatch, make_annotations, make_detections, data, field
):
    read = {"read_voc": Detections.read_voc, "read_coco": Detections.read_coco}

    def corrupted(name: str):
        def reader(*arguments: object) -> Detections:
            detections = read[name](*arguments)
            getattr(detections, field)[-1] += 1
            return detections

        return reader

    for name in read:
        monkeypatch.setattr(result_files.Detections, name, corrupted(name))
    with pytest.raises(UserError, match="read back, it is not what was written"):
        write_server_archive(tmp_path, make_detections(ROWS), make_annotations([], 2, 2), data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence"), [("best.pt", "is a checkpoint"), ("comp4_det_val_cat.txt", "one of VOC's files")]
)
def test_other_files_of_a_run_are_no_detections(name: str, sentence: str, make_annotations) -> None:
    with pytest.raises(UserError, match=f"{name}: is .*{sentence}|{name}: {sentence}"):
        read_detections(f"runs/{name}", make_annotations([], 1, 1))
