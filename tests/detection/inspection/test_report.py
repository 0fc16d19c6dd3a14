"""The folder of a report: its data against slow loops over the same errors, its pictures byte by byte."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.data.dataset import without_objects
from detection.errors import UserError
from detection.evaluation.bootstrap import Interval, Intervals
from detection.evaluation.detections import Detections
from detection.evaluation.errors import KINDS, find_errors
from detection.inspection.page_data import Excerpt, errors_of_images, script, shown_names, slider
from detection.inspection.pictures import copy_pictures
from detection.inspection.report import Reported, write_report


def _data(page: Path) -> dict[str, Any]:
    text = (page.parent / "data.js").read_text(encoding="ascii")
    assert text.startswith("const REPORT = ") and text.endswith(";\n")
    return json.loads(text[len("const REPORT = ") : -2])


def _array(packed: list[str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed[1]), f"<{packed[0]}")


def test_detections_of_the_page_are_those_of_the_file(scene):
    annotations, detections = scene.annotations, scene.first.judged.detections
    errors = find_errors(detections, annotations)
    chosen = np.array([1, 3, 8])
    excerpt = Excerpt(annotations, chosen)
    arrays = {name: _array(packed) for name, packed in excerpt.detections(detections, errors).items()}
    objects = {name: _array(packed) for name, packed in excerpt.objects().items()}
    rows = np.concatenate([np.arange(*annotations.offsets[image : image + 2]) for image in chosen])
    assert np.array_equal(objects["boxes"].reshape(-1, 4), annotations.boxes[rows].astype(np.float32))
    assert np.array_equal(objects["ignored"], annotations.ignore[rows])
    for place, image in enumerate(chosen):
        here = np.flatnonzero(detections.image_indices == image)
        here = here[np.argsort(-detections.scores[here], kind="stable")]
        span = slice(*arrays["offsets"][place : place + 2])
        assert np.array_equal(arrays["boxes"].reshape(-1, 4)[span], detections.boxes[here])
        assert np.array_equal(arrays["scores"][span], detections.scores[here].astype(np.float32))
        assert np.array_equal(arrays["kinds"][span], errors.kinds[here])
        expected = [rows.tolist().index(item) if item >= 0 else -1 for item in errors.objects[here].tolist()]
        assert arrays["objects"][span].tolist() == expected
    for place, row in enumerate(rows):
        by = arrays["foundBy"][place]
        assert (by >= 0) == (errors.found_by[row] >= 0)
        assert by < 0 or (arrays["objects"][by] == place and KINDS[arrays["kinds"][by]] == "true")


def test_slider_starts_at_the_largest_f1(scene):
    annotations, detections = scene.annotations, scene.first.judged.detections
    errors = find_errors(detections, annotations)
    best = (-1.0, 0.0)
    for step in range(101):
        shown = detections.scores >= step / 100
        true = sum(1 for kind in errors.kinds[shown] if KINDS[kind] == "true")
        counted = sum(1 for kind in errors.kinds[shown] if KINDS[kind] != "ignored")
        best = max(best, (2 * true / (counted + np.sum(~annotations.ignore)), step / 100))
    assert slider(detections.scores, errors, annotations).start == best[1]


def test_slider_covers_scores_beyond_one(scene):
    annotations = scene.annotations
    detections = scene.first.judged.detections.select(np.arange(3))
    detections.scores[:] = -2, 5, 3
    chosen = slider(detections.scores, find_errors(detections, annotations), annotations)
    assert (chosen.low, chosen.high) == (-2, 5) and chosen.step == pytest.approx(0.07)
    nothing = slider(np.zeros(0), find_errors(Detections.empty(), annotations), annotations)
    assert (nothing.low, nothing.high, nothing.start) == (0, 1, 0.5)


def test_worst_pictures_are_chosen(scene, no_plots, tmp_path):
    annotations, detections = scene.annotations, scene.first.judged.detections
    errors = find_errors(detections, annotations)
    start = slider(detections.scores, errors, annotations).start
    counts = []
    for image in range(len(annotations)):
        false = [
            row
            for row in np.flatnonzero(detections.image_indices == image)
            if detections.scores[row] >= start and KINDS[errors.kinds[row]] not in ("true", "ignored")
        ]
        found = {errors.objects[row] for row in np.flatnonzero((errors.kinds == 0) & (detections.scores >= start))}
        wanted = [row for row in range(*annotations.offsets[image : image + 2]) if not annotations.ignore[row]]
        counts.append(len(false) + sum(row not in found for row in wanted))
    assert errors_of_images(detections, annotations, errors, start).tolist() == counts
    report = _data(write_report(tmp_path, annotations, scene.first, images=4))
    worst = sorted(range(len(counts)), key=lambda image: (-counts[image], image))[:4]
    assert report["pictures"]["ids"] == [str(annotations.image_ids[image]) for image in sorted(worst)]
    assert "4 pictures with the most errors" in report["subtitle"]
    assert report["pictures"]["files"] == [f"{image}.jpg" for image in sorted(worst)]
    assert report["pictures"]["inSet"] == 12
    assert len(list((tmp_path / "pictures").iterdir())) == len(list((tmp_path / "thumbnails").iterdir())) == 4


def test_an_earlier_report_in_the_folder_leaves_nothing_behind(scene, no_plots, tmp_path):
    ours = ["pictures/000012.jpg", "thumbnails/000004.jpg", "plots_versus/old.png", "plots_versus/old.svg"]
    theirs = ["pictures/12.jpg", "pictures/000012.png", "thumbnails/me.jpg", "plots_versus/notes.txt", "000012.jpg"]
    for name in ours + theirs:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_report(tmp_path, scene.annotations, scene.first, images=4)
    assert not any((tmp_path / name).exists() for name in ours) and all((tmp_path / name).exists() for name in theirs)
    assert (tmp_path / "pictures/000003.jpg").exists() and (tmp_path / "thumbnails/000003.jpg").exists()


def test_names_of_files_tell_pictures_apart():
    assert shown_names(["/data/x/a.jpg", "/data/y/b.jpg"]) == ["a.jpg", "b.jpg"]
    assert shown_names(["/data/x/a.jpg", "/data/y/z/a.jpg"]) == ["x/a.jpg", "y/z/a.jpg"]
    assert shown_names([]) == []


def test_costs_are_counted_once(scene, tmp_path, monkeypatch):
    """The plots draw the costs that the page shows, instead of working them out again."""
    given = []
    monkeypatch.setattr("detection.inspection.report.write_plots", lambda *args, **kwargs: given.append(args[4]) or [])
    report = _data(write_report(tmp_path, scene.annotations, scene.first, images=1))
    shown = {cost["kind"]: (cost["count"], cost["gain"]) for cost in report["detectors"][0]["costs"]}
    assert shown == {kind: (cost.count, pytest.approx(cost.ap50)) for kind, cost in given[0].items()}


def test_scores_and_intervals_are_passed_on(scene, no_plots, tmp_path):
    names = scene.first.judged.scores.headline()
    known = Intervals({name: Interval(value, 0.1, 0.9) for name, value in names.items()}, {}, {})
    first = Reported("A", scene.first.judged, known)
    difference = {"COCO AP": Interval(0.2, -0.1, 0.3)}
    report = _data(write_report(tmp_path, scene.annotations, first, scene.versus, difference=difference))
    assert [score["name"] for score in report["headline"]] == list(names)
    ap = report["headline"][0]
    other = scene.versus.judged.scores.headline()["COCO AP"]
    assert ap["values"] == [
        {"value": names["COCO AP"], "low": 0.1, "high": 0.9},
        {"value": other, "low": None, "high": None},
    ]
    assert ap["difference"] == {"value": pytest.approx(names["COCO AP"] - other), "low": -0.1, "high": 0.3}
    for name, values in ((column["name"], column["values"]) for column in report["classScores"]):
        record = scene.first.judged.scores.record(scene.annotations.class_names)
        expected = [record[f"{name} {class_name}"] for class_name in scene.annotations.class_names]
        assert values[0] == [None if value is None else pytest.approx(value, abs=1e-6) for value in expected]
    assert report["classScores"][0]["values"][0][3] is None  # no object of the fourth class


def test_names_cannot_leave_the_script():
    names = ["</script><!--", "\u2028", "汽车"]
    text = script({"names": names, "value": float("nan")})
    assert text.isascii() and "<" not in text
    assert json.loads(text[len("const REPORT = ") : -2]) == {"names": names, "value": None}


def test_a_set_without_annotations_is_refused(scene, tmp_path):
    bare = without_objects(("a",), ["x"], ["x.jpg"], np.array([[10, 10]]))
    with pytest.raises(UserError, match="no annotations"):
        write_report(tmp_path, bare, scene.first)


def _copy(folder: Path, *paths: Path) -> dict[int, str]:
    return copy_pictures(folder, [str(path) for path in paths], lambda share: None)


def test_small_jpegs_are_copied_byte_by_byte(tmp_path):
    Image.effect_noise((900, 500), 50).convert("RGB").save(tmp_path / "a.jpg", quality=71)
    assert _copy(tmp_path / "out", tmp_path / "a.jpg") == {}
    assert (tmp_path / "out/pictures/000000.jpg").read_bytes() == (tmp_path / "a.jpg").read_bytes()
    with Image.open(tmp_path / "out/thumbnails/000000.jpg") as thumbnail:
        assert thumbnail.size == (360, 200)


def test_copies_do_not_say_where_a_picture_was_taken(tmp_path):
    """EXIF with a place, XMP and IPTC are left out; the colour profile stays, and so does every pixel."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 1
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 30.0)
    picture = Image.effect_noise((90, 50), 50).convert("RGB")
    picture.save(tmp_path / "a.jpg", exif=exif, icc_profile=b"a profile", xmp=b"<x:xmpmeta GPSLatitude/>")
    jpeg = (tmp_path / "a.jpg").read_bytes()
    iptc = b"\xff\xed\x00\x12Photoshop 3.0\x00me"
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + iptc + jpeg[2:])
    assert _copy(tmp_path / "out", tmp_path / "a.jpg") == {}
    copy = (tmp_path / "out/pictures/000000.jpg").read_bytes()
    assert b"Exif" in jpeg and not any(word in copy for word in (b"Exif", b"GPS", b"Photoshop", b"camera"))
    with Image.open(tmp_path / "a.jpg") as before, Image.open(tmp_path / "out/pictures/000000.jpg") as after:
        assert np.array_equal(before, after) and after.info["icc_profile"] == b"a profile"


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGBA"), ("a.png", "P"), ("a.jpg", "CMYK"), ("a.png", "L")])
def test_other_pictures_are_encoded_anew_and_reduced(tmp_path, name, mode):
    Image.new("RGB", (500, 2000), (200, 40, 40)).convert(mode).save(tmp_path / name)
    assert _copy(tmp_path / "out", tmp_path / name) == {}
    with Image.open(tmp_path / "out/pictures/000000.jpg") as copy:
        assert (copy.size, copy.format, copy.mode) == ((250, 1000), "JPEG", "L" if mode == "L" else "RGB")
        if mode != "L":
            assert np.abs(np.asarray(copy, int)[500, 100] - (200, 40, 40)).max() < 12


def test_an_orientation_is_left_out_and_pixels_stay_as_stored(tmp_path):
    stored = np.zeros((60, 100, 3), np.uint8)
    stored[:, :50, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif)
    assert _copy(tmp_path / "out", tmp_path / "a.jpg") == {}
    for folder in ("pictures", "thumbnails"):
        with Image.open(tmp_path / "out" / folder / "000000.jpg") as copy:
            assert copy.size == (100, 60) and not copy.getexif()
            assert np.asarray(copy)[30, 20, 0] > 240 and np.asarray(copy)[30, 80, 0] < 15


def test_broken_pictures_have_a_reason(tmp_path):
    Image.effect_noise((300, 300), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("no image")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    names = ("whole.jpg", "gone.jpg", "cut.jpg", "text.jpg", "deep.png")
    missing = _copy(tmp_path / "out", *(tmp_path / name for name in names))
    assert sorted(missing) == [1, 2, 3, 4]
    assert missing[1] == "no such file" and missing[3] == "not an image" and "8 bits" in missing[4]
    assert [path.name for path in (tmp_path / "out/pictures").iterdir()] == ["000000.jpg"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        _copy(tmp_path / "out", tmp_path / "a.jpg")
