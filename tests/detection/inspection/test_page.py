"""The page in a real Chromium, from the disk: counts against loops in Python, filters, captions, names, pictures.

Keys, addresses and the pointer are in `test_page_use.py`.
"""

import io
import re
from urllib.parse import quote_plus

import numpy as np
import pytest
from PIL import Image

from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.errors import KINDS, find_errors
from detection.inspection.report import write_report

FALSE = KINDS[1:6]
SHOWN = "document.querySelector('dialog[open]') !== null"


def _expected(annotations: Annotations, detections: Detections, least: float, label: int = 0) -> dict[str, int]:
    """Boxes of each kind, counted one by one."""
    errors = find_errors(detections, annotations)
    counts = dict.fromkeys((*KINDS, "missed", "ignored object"), 0)
    for row in range(len(detections)):
        if detections.scores[row] >= least and label in (0, detections.labels[row]):
            counts[KINDS[errors.kinds[row]]] += 1
    for row in range(len(annotations.boxes)):
        by = errors.found_by[row]
        if label not in (0, annotations.labels[row]):
            continue
        if annotations.ignore[row]:
            counts["ignored object"] += 1
        elif by < 0 or detections.scores[by] < least:
            counts["missed"] += 1
    return counts


def _errors_of(annotations: Annotations, detections: Detections, image: int, least: float) -> int:
    here = slice(annotations.offsets[image], annotations.offsets[image + 1])
    errors = find_errors(detections, annotations)
    shown = (detections.image_indices == image) & (detections.scores >= least)
    wrong = sum(KINDS[kind] in FALSE for kind in errors.kinds[shown])
    found = sum(by >= 0 and detections.scores[by] >= least for by in errors.found_by[here])
    return wrong + int(np.sum(~annotations.ignore[here])) - found


def test_the_slider_counts_as_python_does(scene, single, visitor):
    visitor.open(single)
    for least in (0.0, 0.35, 0.7, 1.0):
        visitor.slide(least)
        expected = _expected(scene.annotations, scene.first.judged.detections, least)
        assert visitor.counts() == {kind: [count] for kind, count in expected.items()}
        assert visitor.page.evaluate("app.order.map(i => app.counts[0].errors[i])") == sorted(
            (_errors_of(scene.annotations, scene.first.judged.detections, image, least) for image in range(12)),
            reverse=True,
        )
        paths = "[...document.querySelectorAll('.tile .line')].map(e => (e.getAttribute('d').match(/M/g) ?? []).length)"
        assert sum(visitor.page.evaluate(paths)) == sum(expected.values())  # all 12 pictures are near the window


def test_filters_by_class_kind_and_size(scene, single, visitor):
    page = visitor.open(single, "#score=0.3")
    page.select_option("#label", "2")
    visitor.settle()
    expected = _expected(scene.annotations, scene.first.judged.detections, 0.3, label=2)
    assert visitor.counts() == {kind: [count] for kind, count in expected.items()}
    page.click("[data-kind=background]")
    visitor.settle()
    assert page.get_attribute("[data-kind=background]", "aria-pressed") == "false"
    assert visitor.counts()["background"] == [expected["background"]]  # still told, no longer drawn
    assert page.evaluate("[...document.querySelectorAll('.tile .line.background')].every(e => !e.getAttribute('d'))")
    assert f"class={quote_plus(scene.annotations.class_names[1])}" in page.url and "background" not in page.url
    page.click("#show-all")
    page.select_option("#label", "0")
    page.select_option("#size", "0")
    visitor.settle()
    objects = scene.annotations
    small = objects.areas <= 32**2
    assert visitor.counts()["ignored object"] == [int(np.sum(objects.ignore & small))]
    counts = visitor.counts()
    assert counts["true"][0] + counts["missed"][0] == int(np.sum(~objects.ignore & small))


def test_sorting_by_score_and_name(scene, single, visitor):
    page = visitor.open(single, "#score=0.2&sort=score")
    detections, errors = scene.first.judged.detections, find_errors(scene.first.judged.detections, scene.annotations)
    false = np.array([KINDS[kind] in FALSE for kind in errors.kinds]) & (detections.scores >= 0.2)
    worst = [detections.scores[false & (detections.image_indices == image)].max(initial=-1) for image in range(12)]
    assert visitor.order() == sorted(range(12), key=lambda image: (-worst[image], image))
    page.select_option("#sort", "name")
    visitor.settle()
    names = page.eval_on_selector_all(".tile .name", "all => all.map(e => e.textContent)")
    assert names == [f"{number}.jpg {scene.annotations.image_ids[number]}" for number in range(12)]
    assert page.url.endswith("sort=name")


def test_the_table_tells_what_boxes_were_matched_to(scene, single, visitor):
    annotations, detections = scene.annotations, scene.first.judged.detections
    page = visitor.open(single, f"#score=0&picture={quote_plus(annotations.image_ids[1])}")
    visitor.until(SHOWN)
    errors = find_errors(detections, annotations)
    here = np.flatnonzero(detections.image_indices == 1)
    best = here[np.argsort(-detections.scores[here], kind="stable")][0]
    cells = page.locator(".boxes tbody tr").first.locator("td").all_inner_texts()
    partner = errors.objects[best]
    told = f"{partner - annotations.offsets[1] + 1} {annotations.class_names[annotations.labels[partner] - 1]}"
    overlap = f"{errors.overlaps[best]:.2f}" if partner >= 0 else ""
    assert cells[1:] == [
        annotations.class_names[detections.labels[best] - 1],
        f"{detections.scores[best]:.3f}",
        overlap,
        told if partner >= 0 else "none",
    ]
    page.locator(".boxes tbody tr").first.hover()
    page.wait_for_selector(".stage .strong.line")
    sides = [float(page.get_attribute(".stage .strong.line", name)) for name in ("x", "y", "width")]
    at = page.evaluate("app.viewer.stages[0].at")
    drawn = [(sides[0] - at["left"]) / at["scale"], (sides[1] - at["top"]) / at["scale"], sides[2] / at["scale"]]
    x1, y1, x2, _ = detections.boxes[best].tolist()
    assert drawn == pytest.approx([x1, y1, x2 - x1], abs=1e-3)
    box = page.locator(".stage .strong.line").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".boxes tr.marked")


def test_two_detectors_side_by_side(scene, pair, visitor):
    page = visitor.open(pair, "#score=0.3&score2=0.6")
    annotations = scene.annotations
    sides = [(scene.first.judged.detections, 0.3), (scene.versus.judged.detections, 0.6)]
    expected = [_expected(annotations, detections, least) for detections, least in sides]
    assert visitor.counts() == {kind: [side[kind] for side in expected] for kind in expected[0]}
    everything = [find_errors(detections, annotations) for detections, _ in sides]
    disagreement = []
    for image in range(12):
        found, wrong = [], []
        for (detections, least), errors in zip(sides, everything, strict=True):
            by = errors.found_by[annotations.objects(image)]
            found.append((by >= 0) & (np.append(detections.scores, -1)[by] >= least))
            shown = (detections.image_indices == image) & (detections.scores >= least)
            wrong.append(sum(KINDS[kind] in FALSE for kind in errors.kinds[shown]))
        differ = (found[0] != found[1]) & ~annotations.ignore[annotations.objects(image)]
        disagreement.append(int(differ.sum()) + abs(wrong[0] - wrong[1]))
    assert visitor.order() == sorted(range(12), key=lambda image: (-disagreement[image], image))
    assert page.locator(".tile").first.locator("svg").count() == 2
    page.locator(".tile").first.click()
    visitor.until(SHOWN)
    page.wait_for_timeout(100)
    assert page.locator(".stage .strong").count() == 0  # the pointer rests where the tile was: it points at nothing
    assert page.locator(".stage").count() == 2 and page.locator(".boxes:visible").count() == 1
    page.click(".tabs button >> nth=1")
    assert page.locator(".boxes").nth(1).is_visible() and not page.locator(".boxes").first.is_visible()
    assert page.locator("#viewer-sliders input:visible").count() == 2
    page.keyboard.press("Escape")
    page.click("#show-plots")
    visitor.until("[...document.querySelectorAll('#plots img')].every(e => e.complete && e.naturalWidth > 0)")
    captions = page.eval_on_selector_all("figcaption", "all => all.map(e => e.textContent)")
    assert captions == ["recall by size: </script>&", "recall by size: B"]  # the costs are bars of the page itself


def test_names_are_shown_literally(scene, single, visitor):
    page = visitor.open(single)
    names = page.eval_on_selector_all(".tile .name", "all => all.map(e => e.textContent)")
    assert sorted(names) == sorted(f"{number}.jpg {name}" for number, name in enumerate(scene.annotations.image_ids))
    options = page.eval_on_selector_all("#label option", "all => all.map(e => e.textContent)")
    assert options == ["all", *scene.annotations.class_names]
    assert page.inner_text("h1") == scene.first.name and page.locator("main b, main script").count() == 0


def test_the_class_table_sorts_and_filters(scene, single, visitor):
    page = visitor.open(single)
    page.click("#show-classes")
    values = scene.first.judged.scores.coco.ap50
    falling = [scene.annotations.class_names[k] for k in np.argsort(-values, kind="stable")]  # NaN comes last
    page.click("#classes thead button:text-is('COCO AP50')")
    assert page.eval_on_selector_all("#classes tbody th", "all => all.map(e => e.textContent)") == falling
    page.locator("#classes tbody button").first.click()
    visitor.until(f"app.state.label === {int(np.nanargmax(values)) + 1}")


def test_a_picture_with_an_orientation_lies_under_its_boxes(report_of_one, tmp_path, visitor):
    stored = np.zeros((60, 100, 3), np.uint8)
    stored[10:50, 5:45, 0] = 255  # a red square, annotated in stored pixels
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    page = visitor.open(report_of_one(tmp_path, tmp_path / "turned.jpg", (60, 100)), "#picture=one")
    visitor.until(f"{SHOWN} && document.querySelector('.stage img').naturalWidth === 100")
    page.keyboard.press("l")
    page.wait_for_timeout(100)
    box = page.locator(".stage .line.missed").bounding_box()
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), int)
    x1, y1, x2, y2 = (round(box[name]) for name in ("x", "y", "width", "height"))
    inside, outside = shot[y1 + y2 // 2, x1 + x2 // 2], shot[y1 + y2 // 2, x1 + x2 + 40]
    assert inside[0] > 200 and inside[1:].max() < 60 and outside.max() < 60


def test_a_missing_picture_is_said(report_of_one, tmp_path, visitor):
    page = visitor.open(report_of_one(tmp_path, tmp_path / "gone.jpg", (60, 100)))
    assert page.inner_text(".tile .reason") == "cannot be shown: no such file"
    page.click(".tile")
    page.wait_for_selector(".cannot")
    assert page.inner_text(".cannot") == "The picture cannot be shown: no such file"
    assert page.locator(".stage .line.missed").count() == 1


def test_one_picture_without_objects_and_detections(report_of_one, tmp_path, visitor):
    page = visitor.open(report_of_one(tmp_path, tmp_path / "gone.jpg", (60, 100), objects=0))
    assert page.locator(".tile").count() == 1
    assert all(count == [0] for count in visitor.counts().values())
    assert re.search("precision -, recall -", page.inner_text("#summary"))
    assert page.locator(".card strong").all_inner_texts() == ["-"] * 5
    page.click("[data-kind=missed]")
    page.wait_for_selector("#nothing:not([hidden])")


def test_the_table_cell_of_a_missed_object_says_at_which_score_it_was_found(scene, single, visitor):
    annotations, detections = scene.annotations, scene.first.judged.detections
    page = visitor.open(single, f"#score=0.95&picture={quote_plus(annotations.image_ids[1])}")
    visitor.until(SHOWN)
    errors, here = find_errors(detections, annotations), annotations.objects(1)
    expected = []
    for place, row in enumerate(range(here.start, here.stop), start=1):
        by = errors.found_by[row]
        if not annotations.ignore[row] and (by < 0 or detections.scores[by] < 0.95):
            expected.append(f"{place}" if by < 0 else f"{place}, found at {detections.scores[by]:.3f}")
    assert any("found at" in text for text in expected)
    rows = page.locator(".boxes tbody tr:has(.line.missed)").all()
    assert [row.locator("td").last.inner_text() for row in rows] == expected


def test_captions_do_not_depend_on_the_kinds_that_are_shown(single, visitor):
    page = visitor.open(single, "#score=0.3")
    facts = page.locator(".tile .facts").all_inner_texts()
    assert any(not text.startswith("0 true") for text in facts)
    page.click("#show-errors")
    visitor.settle()
    assert set(page.locator(".tile .facts").all_inner_texts()) <= set(facts)


def test_the_worst_pictures_give_no_precision(scene, no_plots, tmp_path, visitor):
    page = visitor.open(write_report(tmp_path, scene.annotations, scene.first, images=5))
    text = page.inner_text("#summary")
    assert "%" not in text and "5 of the 5 worst pictures" in text and "not of the whole set of 12" in text


def test_a_detection_in_a_crowd_says_which_share_of_it_lies_inside(report_of_one, tmp_path, visitor):
    """The detection of 40 x 40 pixels lies in the crowd by a half; in a table of IoUs that would be read as one."""
    found = Detections(np.zeros(1, np.int64), np.ones(1, np.int64), np.array([0.9]), np.array([[25.0, 10, 65, 50]]))
    report = report_of_one(tmp_path, tmp_path / "gone.jpg", (60, 100), ignore=True, found=found)
    page = visitor.open(report, "#score=0.5&picture=one")
    visitor.until(SHOWN)
    cells = page.locator(".boxes tbody tr").first.locator("td").all_inner_texts()
    assert cells[0].strip() == "not counted" and cells[3].split("\n") == ["0.50", "share inside"]


def test_objects_show_the_numbers_of_the_table(scene, single, visitor):
    page = visitor.open(single, f"#score=0.3&picture={quote_plus(scene.annotations.image_ids[1])}")
    visitor.until(SHOWN)
    page.keyboard.press("o")
    page.wait_for_selector(".stage .object-name")
    texts = page.eval_on_selector_all(".stage .object-name", "all => all.map(e => e.firstChild.textContent)")
    assert [text.split(" ")[0] for text in texts] == ["1", "2", "3", "4", "5"]


def test_the_first_row_of_pictures_is_on_the_first_screen(pair, visitor):
    page = visitor.open(pair)
    page.set_viewport_size({"width": 1366, "height": 768})
    page.wait_for_timeout(100)
    assert page.locator(".tile").first.bounding_box()["y"] < 768 - 100
    page.set_viewport_size({"width": 1366, "height": 100})
    page.reload()  # the gallery begins far below the window, and has pictures all the same
    assert page.locator(".tile").count() > 0


@pytest.mark.parametrize("name", ["thing", "x" * 300])
def test_nothing_is_wider_than_a_telephone(report_of_one, pair, tmp_path, visitor, name):
    report = pair if name == "thing" else report_of_one(tmp_path, tmp_path / "gone.jpg", (60, 100), name=name)
    page = visitor.open(report)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for box in page.locator(".row select, .row input").all():
        sides = box.bounding_box()
        assert sides["x"] >= 0 and sides["x"] + sides["width"] <= 390
    page.locator(".tile").first.click()
    visitor.until(SHOWN)
    assert page.evaluate("(panel => panel.scrollWidth <= panel.clientWidth)(document.getElementById('panel'))")
