"""VOC's result files: their exact text, reading them back, foreign files, and every mistake in one sentence."""

import numpy as np
import pytest

from detection.errors import UserError
from detection.evaluation.detections import Detections

ROWS = [(1, 2, 0.75, (10, 20, 40, 60)), (0, 1, 0.5, (0, 0.5, 2, 3)), (0, 2, 0.1, (0, 0, 500, 375))]


def _write(folder, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"comp4_det_val_{name}.txt").write_text(text)


def test_form(tmp_path, make_annotations, make_detections):
    paths = make_detections(ROWS).write_voc(tmp_path, make_annotations([], 2, 3), "test")
    assert [path.name for path in paths] == [f"comp4_det_test_class{label}.txt" for label in (1, 2, 3)]
    assert paths[0].read_text() == "000000 0.5 1.000 1.500 2.000 3.000\n"
    lines = paths[1].read_text().splitlines()
    assert lines[0] == "000001 0.75 11.000 21.000 40.000 60.000"
    assert np.float32(lines[1].split()[1]) == np.float32(0.1)
    assert lines[1].split()[2:] == ["1.000", "1.000", "500.000", "375.000"]
    assert paths[2].read_text() == ""


def test_a_class_name_that_would_be_a_folder_is_refused(tmp_path, make_annotations, make_detections):
    annotations = make_annotations([], 2, 2)
    annotations.class_names = ("car", "truck/bus")
    with pytest.raises(UserError, match="class truck/bus: no VOC result file can be named after it; rename it"):
        make_detections(ROWS).write_voc(tmp_path, annotations, "test")
    assert list(tmp_path.iterdir()) == []


def test_reading_gives_back_what_was_written(tmp_path, make_annotations):
    """Scores exactly, even those a float32 could not tell apart; boxes to the three decimals, thin ones too."""
    rng = np.random.default_rng(1)
    starts, sides = rng.uniform(0, 400, (500, 2)), rng.choice([0, 0.0004, 0.3, 20, 80], (500, 2))
    boxes = np.concatenate([starts, starts + sides], 1)
    labels = rng.integers(1, 4, 500)
    detections = Detections(rng.integers(0, 5, 500), labels, 0.5 + rng.permutation(500) * 1e-12, boxes)
    detections.write_voc(tmp_path, make_annotations([], 5, 4), "val_small", "comp3")
    found = Detections.read_voc(tmp_path, make_annotations([], 5, 4))
    wanted = detections.select(np.argsort(labels, kind="stable"))
    for name in ("image_indices", "labels", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=0, atol=0.001)
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()


def test_foreign_files(tmp_path, make_annotations):
    """Ids with letters, blank lines, tabs, line ends of Windows, scores in other spellings; an empty class."""
    annotations = make_annotations([], 2, 3)
    annotations.image_ids = np.array(["2008_000001", "000017"])
    annotations.class_names = ("bus", "mini_bus", "tram")
    _write(
        tmp_path, bus="2008_000001 .5 1 2 3 4\n\n", mini_bus="000017\t1e-3\t5 6 5 6\r\n2008_000001 -2 1 1 9 9", tram=""
    )
    (tmp_path / "readme.txt").write_text("from elsewhere")
    found = Detections.read_voc(tmp_path, annotations)
    assert found.image_indices.tolist() == [0, 1, 0] and found.labels.tolist() == [1, 2, 2]
    assert found.scores.tolist() == [0.5, 0.001, -2]
    assert found.boxes.tolist() == [[0, 1, 3, 4], [4, 5, 5, 6], [0, 0, 9, 9]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "000000 0.5 1 2 3",
            "line 3: '000000 0.5 1 2 3' is not image_id confidence xmin ymin xmax ymax; mend the line",
        ),
        ("000000 0.5 1 2 3 4 5", "line 3: .* is not image_id"),
        ("000000 0.5 1 2 3\n000000 0.5 1 2 3 4 5", "line 3: .* is not image_id"),
        ("000000 high 1 2 3 4", "line 3: '000000 high 1 2 3 4' is not image_id"),
        ("000009 0.5 1 2 3 4", "line 3: image 000009 is not in the data set; name the set that was detected in"),
        ("000000 nan 1 2 3 4", "line 3: 000000 nan 1 2 3 4: not finite"),
        ("000000 0.5 1 2 inf 4", "line 3: 000000 0.5 1 2 inf 4: not finite"),
        ("000000 0.5 1 2 1e308 4", "line 3: 000000 0.5 1 2 1e308 4: no place in an image; mend the detector"),
        ("000000 0.5 1_0 2 30 4", "line 3: '000000 0.5 1_0 2 30 4' is not image_id"),
        ("000000 0.5 \uff11 2 3 4", "line 3: .* is not image_id"),
        ("000000 0.5 5 2 3 4", "line 3: 000000 0.5 5 2 3 4: xmax < xmin or ymax < ymin; write image_id"),
        ("000001 0.25 1 2 3 4", "lines 1 and 3 are the same; remove one of them"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, make_annotations, text, message):
    _write(tmp_path, class1="", class2=f"000001 0.25 1 2 3 4\n\n{text}\n")
    with pytest.raises(UserError, match=f"comp4_det_val_class2.txt: {message}"):
        Detections.read_voc(tmp_path, make_annotations([], 2, 2))


def test_detections_in_images_left_out_are_passed_over(tmp_path, make_annotations):
    annotations = make_annotations([], 1, 1)
    annotations.left_out = frozenset({"000007", "000008"})
    text = "000007 0.5 1 2 3 4\n000000 0.25 1 2 3 4\n000008 0.5 1 2 3 4\n"
    _write(tmp_path, class1=text)
    found = Detections.read_voc(tmp_path, annotations)
    assert (found.image_indices.tolist(), found.scores.tolist()) == ([0], [0.25])
    _write(tmp_path, class1=f"{text}000000 0.25 1 2 3 4\n")
    with pytest.raises(UserError, match="lines 2 and 4 are the same"):
        Detections.read_voc(tmp_path, annotations)


def test_wrong_folders_are_explained(tmp_path, make_annotations):
    annotations = make_annotations([], 2, 3)
    with pytest.raises(UserError, match="holds no comp4_det_<set>_<class>.txt"):
        Detections.read_voc(tmp_path, annotations)
    _write(tmp_path, class2="")
    missing = "comp4_det_val_class1.txt, comp4_det_val_class3.txt missing; a class without detections has an empty file"
    with pytest.raises(UserError, match=missing):
        Detections.read_voc(tmp_path, annotations)
    (tmp_path / "comp3_det_val_class1.txt").write_text("")
    several = r"holds the results of several sets \(comp3_det_val_<class>.txt, comp4_det_val_<class>.txt\)"
    with pytest.raises(UserError, match=several):
        Detections.read_voc(tmp_path, annotations)
    _write(tmp_path, unicorn="")
    with pytest.raises(UserError, match="unicorn.txt: ends with none of the classes class1, class2, class3; name"):
        Detections.read_voc(tmp_path, annotations)


def test_a_file_that_is_no_text(tmp_path, make_annotations):
    (tmp_path / "comp4_det_val_class1.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserError, match="class1.txt: is not text in UTF-8"):
        Detections.read_voc(tmp_path, make_annotations([], 1, 1))
