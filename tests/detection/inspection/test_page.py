"""The page in a real Chromium, from the disk: counts against loops in Python, filters, keys, addresses, names."""

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.config import MetricSettings
from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.evaluation.errors import KINDS, find_errors
from detection.evaluation.scores import score
from detection.inspection.report import Reported, write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")

OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FALSE = KINDS[1:6]
SHOWN = "document.querySelector('dialog[open]') !== null"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


class Visitor:
    """A window in which reports are opened; it remembers every complaint and every file that was asked for."""

    def __init__(self, browser: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1366, "height": 2400})
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append("a name was executed"))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, index: Path, fragment: str = "") -> Any:
        self.page.goto("about:blank")
        self.page.goto(index.as_uri() + fragment)
        self.folder = index.parent
        return self.page

    def slide(self, value: float, number: int = 0) -> None:
        """Moves a slider as a hand does, and waits until everything has settled."""
        slider = self.page.locator("#sliders input").nth(number)
        slider.evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')) }", str(value)
        )
        self.page.wait_for_timeout(350)

    def until(self, expression: str) -> None:
        """Waits for an expression to become true. (Playwright's own way is to eval, which the page forbids.)"""
        for _ in range(100):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {expression}")

    def counts(self) -> dict[str, list[int]]:
        """What the legend says, by kind, for each detector."""
        chips = self.page.locator(".chip").all()
        texts = {chip.get_attribute("data-kind"): chip.locator(".count").inner_text() for chip in chips}
        return {kind: [int(number) for number in text.split(" / ")] for kind, text in texts.items()}

    def order(self) -> list[int]:
        return self.page.evaluate("app.order")


@pytest.fixture
def visitor(browser) -> Iterator[Visitor]:
    visitor = Visitor(browser)
    yield visitor
    visitor.page.close()
    assert visitor.complaints == []
    outside = [url for url in visitor.requests if not url.startswith(visitor.folder.as_uri()) and url != "about:blank"]
    assert [url for url in outside if not url.startswith("data:,")] == []


@pytest.fixture(scope="module")
def single(scene, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detection.inspection.report.write_plots", _one_plot)
        return write_report(tmp_path_factory.mktemp("a folder with #, % and ü"), scene.annotations, scene.first)


@pytest.fixture(scope="module")
def pair(scene, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detection.inspection.report.write_plots", _one_plot)
        return write_report(tmp_path_factory.mktemp("pair"), scene.annotations, scene.first, scene.versus)


def _one_plot(folder: Path, *args: Any, **kwargs: Any) -> list[str]:
    """In place of the true plots, which take seconds."""
    folder.mkdir()
    square = '<rect width="9" height="9" style="fill: red"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{square}</svg>'
    (folder / "recall_by_size.svg").write_text(svg)
    return ["error_costs", "recall_by_size"]


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
        expected = _expected(scene.annotations, scene.first.detections, least)
        assert visitor.counts() == {kind: [count] for kind, count in expected.items()}
        assert visitor.page.evaluate("app.order.map(i => app.counts[0].errors[i])") == sorted(
            (_errors_of(scene.annotations, scene.first.detections, image, least) for image in range(12)), reverse=True
        )
        paths = "[...document.querySelectorAll('.tile .line')].map(e => (e.getAttribute('d').match(/M/g) ?? []).length)"
        assert sum(visitor.page.evaluate(paths)) == sum(expected.values())  # all 12 pictures are near the window


def test_filters_by_class_kind_and_size(scene, single, visitor):
    page = visitor.open(single, "#score=0.3")
    page.select_option("#label", "2")
    page.wait_for_timeout(350)
    expected = _expected(scene.annotations, scene.first.detections, 0.3, label=2)
    assert visitor.counts() == {kind: [count] for kind, count in expected.items()}
    page.click("[data-kind=background]")
    page.wait_for_timeout(350)
    assert page.get_attribute("[data-kind=background]", "aria-pressed") == "false"
    assert visitor.counts()["background"] == [expected["background"]]  # still told, no longer drawn
    assert page.evaluate("[...document.querySelectorAll('.tile .line.background')].every(e => !e.getAttribute('d'))")
    assert "class=2" in page.url and "background" not in page.url
    page.click("#show-all")
    page.select_option("#label", "0")
    page.select_option("#size", "0")
    page.wait_for_timeout(350)
    objects = scene.annotations
    small = objects.areas <= 32**2
    assert visitor.counts()["ignored object"] == [int(np.sum(objects.ignore & small))]
    counts = visitor.counts()
    assert counts["true"][0] + counts["missed"][0] == int(np.sum(~objects.ignore & small))


def test_sorting_by_score_and_name(scene, single, visitor):
    page = visitor.open(single, "#score=0.2&sort=score")
    detections, errors = scene.first.detections, find_errors(scene.first.detections, scene.annotations)
    false = np.array([KINDS[kind] in FALSE for kind in errors.kinds]) & (detections.scores >= 0.2)
    worst = [detections.scores[false & (detections.image_indices == image)].max(initial=-1) for image in range(12)]
    assert visitor.order() == sorted(range(12), key=lambda image: (-worst[image], image))
    page.select_option("#sort", "name")
    page.wait_for_timeout(350)
    names = page.eval_on_selector_all(".tile .name", "all => all.map(e => e.textContent)")
    assert [name for name in names if name.startswith("image")] == [f"image {number}" for number in range(8)]
    assert page.url.endswith("sort=name")


def test_keys_and_the_address(single, visitor):
    page = visitor.open(single, "#score=0.5")
    order = visitor.order()
    page.locator(".tile").nth(1).click()
    visitor.until(SHOWN)
    assert page.url.endswith(f"#score=0.5&picture={order[1]}")
    for key, place in (("ArrowRight", 2), ("j", 3), ("k", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        visitor.until(f"app.viewer.picture === {order[place]}")
    for key, zoom in (("+", 1.5), ("+", 2.25), ("-", 1.5), ("0", 1)):
        page.keyboard.press(key)
        visitor.until(f"app.viewer.view.zoom === {zoom}")
    page.wait_for_timeout(350)
    assert page.url.endswith(f"&picture={order[0]}")
    page.go_back()  # past the open picture, however many were looked at
    visitor.until(f"!({SHOWN})")
    assert page.url.endswith("#score=0.5")
    page.go_forward()
    visitor.until(SHOWN)
    page.keyboard.press("Escape")
    visitor.until(f"!({SHOWN}) && document.activeElement.matches('.tile')")
    page.wait_for_timeout(350)
    assert page.url.endswith("#score=0.5")


def test_a_link_restores_the_view(scene, single, visitor):
    page = visitor.open(single, "#score=0.4&class=1&kinds=true%2Cmissed&size=large&sort=name&picture=3")
    visitor.until(SHOWN)
    state = page.evaluate("app.state")
    kinds = [*KINDS, "missed", "ignored object"]
    assert state["scores"] == [0.4] and (state["label"], state["size"], state["sort"]) == (1, 2, "name")
    assert [kind for kind, on in zip(kinds, state["kinds"], strict=True) if on] == ["true", "missed"]
    assert page.inner_text("#viewer-title") == scene.annotations.image_ids[3]
    page = visitor.open(single, "#score=x&class=99&size=huge&sort=bad&picture=1e9")
    assert page.evaluate("writeState(app.model, app.state)") == ""  # nonsense is as if it were not there


def test_the_table_tells_what_boxes_were_matched_to(scene, single, visitor):
    annotations, detections = scene.annotations, scene.first.detections
    page = visitor.open(single, "#score=0&picture=1")
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
    sides = [(scene.first.detections, 0.3), (scene.versus.detections, 0.6)]
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
    assert page.locator(".stage").count() == 2 and page.locator(".boxes").count() == 2
    page.keyboard.press("Escape")
    page.click("#plots-section summary")
    visitor.until("[...document.querySelectorAll('#plots img')].every(e => e.complete && e.naturalWidth > 0)")
    captions = page.eval_on_selector_all("figcaption", "all => all.map(e => e.textContent)")
    assert captions == ["recall by size: </script>&", "recall by size: B"]  # the costs are bars of the page itself


def test_names_are_shown_literally(scene, single, visitor):
    page = visitor.open(single)
    names = page.eval_on_selector_all(".tile .name", "all => all.map(e => e.textContent)")
    assert sorted(names) == sorted(scene.annotations.image_ids.tolist())
    options = page.eval_on_selector_all("#label option", "all => all.map(e => e.textContent)")
    assert options == ["all", *scene.annotations.class_names]
    assert page.inner_text("h1") == scene.first.name and page.locator("main b, main script").count() == 0


def test_the_class_table_sorts_and_filters(scene, single, visitor):
    page = visitor.open(single)
    page.click("#classes-section summary")
    values = scene.first.scores.coco.ap50
    falling = [scene.annotations.class_names[k] for k in np.argsort(-values, kind="stable")]  # NaN comes last
    page.click("#classes thead button:text-is('COCO AP50')")
    assert page.eval_on_selector_all("#classes tbody th", "all => all.map(e => e.textContent)") == falling
    page.locator("#classes tbody button").first.click()
    visitor.until(f"app.state.label === {int(np.nanargmax(values)) + 1}")


def test_a_picture_with_an_orientation_lies_under_its_boxes(scene, no_plots, tmp_path, visitor):
    stored = np.zeros((60, 100, 3), np.uint8)
    stored[10:50, 5:45, 0] = 255  # a red square, annotated in stored pixels
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    page = visitor.open(_report_of_one(tmp_path, tmp_path / "turned.jpg", (60, 100)), "#picture=0")
    visitor.until(f"{SHOWN} && document.querySelector('.stage img').naturalWidth === 100")
    page.keyboard.press("l")
    page.wait_for_timeout(100)
    box = page.locator(".stage .line.missed").bounding_box()
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), int)
    x1, y1, x2, y2 = (round(box[name]) for name in ("x", "y", "width", "height"))
    inside, outside = shot[y1 + y2 // 2, x1 + x2 // 2], shot[y1 + y2 // 2, x1 + x2 + 40]
    assert inside[0] > 200 and inside[1:].max() < 60 and outside.max() < 60


def test_a_missing_picture_is_said(no_plots, tmp_path, visitor):
    page = visitor.open(_report_of_one(tmp_path, tmp_path / "gone.jpg", (60, 100)))
    assert page.inner_text(".tile .reason") == "picture missing"
    page.click(".tile")
    page.wait_for_selector(".absent")
    assert "no such file" in page.inner_text(".absent") and page.locator(".stage .line.missed").count() == 1


def _report_of_one(folder: Path, picture: Path, size: tuple[int, int], objects: int = 1) -> Path:
    """One picture with one missed object, or none, and no detections."""
    box = np.array([[5, 10, 45, 50]], np.float64)[:objects]
    offsets, areas = np.array([0, objects]), np.full(objects, 1600.0)
    labels, ignore = np.ones(objects, np.int64), np.zeros(objects, bool)
    paths, sizes = np.array([str(picture)]), np.array([size], np.int32)
    annotations = Annotations(("thing",), np.array(["one"]), paths, sizes, offsets, box, labels, ignore, areas)
    nothing = Detections.empty()
    first = Reported("none", nothing, score(nothing, annotations, MetricSettings()), None)
    return write_report(folder / "report", annotations, first)


def test_one_picture_without_objects_and_detections(no_plots, tmp_path, visitor):
    page = visitor.open(_report_of_one(tmp_path, tmp_path / "gone.jpg", (60, 100), objects=0))
    assert page.locator(".tile").count() == 1
    assert all(count == [0] for count in visitor.counts().values())
    assert re.search("precision -, recall -", page.inner_text("#summary"))
    assert page.locator(".card strong").all_inner_texts() == ["-"] * 5
    page.click("[data-kind=missed]")
    page.wait_for_selector("#nothing:not([hidden])")


def test_nothing_is_wider_than_a_telephone(pair, visitor):
    page = visitor.open(pair)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
