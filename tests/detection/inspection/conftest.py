"""A small data set with pictures on the disk, what two made-up detectors say about it, and a browser for reports."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.config import Config
from detection.data.dataset import Annotations
from detection.evaluation.detections import Detections
from detection.inspection.report import Reported, write_report
from detection.inspection.results import Judged

CLASSES = ("<script>alert(1)</script>", "a \"quoted\" & 'b'", "汽车 סוס\u2028", "never seen")
IDS = ("<img src=x onerror=alert(1)>", 'a"b&amp;c', "日本", "</script>", *(f"image {number}" for number in range(8)))
SIZES = ((120, 160), (160, 120), (100, 300))
VIEWPORT = {"width": 1366, "height": 1000}
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Scene:
    annotations: Annotations
    first: Reported
    versus: Reported


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the plots of a report, which take seconds."""
    monkeypatch.setattr("detection.inspection.report.write_plots", lambda *args, **kwargs: [])


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """12 pictures with 0 to 5 objects of 3 of 4 classes, some ignored; two detectors, whose boxes are off at random."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    sizes = np.array([SIZES[number % 3] for number in range(12)], np.int32)
    for number, (rows, columns) in enumerate(sizes):
        noise = rng.integers(0, 256, (rows // 10, columns // 10, 3), np.uint8)
        Image.fromarray(noise).resize((columns, rows)).save(folder / f"{number}.jpg")
    counts = np.array([0, 5, 2, 3, 1, 4, 2, 0, 5, 3, 2, 4])
    images = np.repeat(np.arange(12), counts)
    boxes = _random_boxes(rng, sizes[images])
    annotations = Annotations(
        class_names=CLASSES,
        image_ids=np.array(IDS),
        image_paths=np.array([str(folder / f"{number}.jpg") for number in range(12)]),
        sizes=sizes,
        offsets=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        boxes=boxes,
        labels=rng.integers(1, 4, len(boxes)),
        ignore=rng.random(len(boxes)) < 0.15,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )
    detectors = (reported(name, annotations, _guesses(rng, annotations)) for name in ("</script>&", "B"))
    return Scene(annotations, *detectors)


def reported(name: str, annotations: Annotations, detections: Detections) -> Reported:
    return Reported(name, Judged.of(detections, annotations, Config()), None)


def _random_boxes(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    limits = sizes[:, ::-1].astype(np.float64)
    extents = rng.uniform(15, 0.9 * limits)
    corners = rng.uniform(0, limits - extents)
    return np.concatenate([corners, corners + extents], axis=1)


def _guesses(rng: np.random.Generator, annotations: Annotations) -> Detections:
    """Two boxes around each object, nearly or roughly right, and four at random in each picture."""
    objects = np.repeat(np.arange(len(annotations.boxes)), 2)
    extents = np.tile(annotations.boxes[objects, 2:] - annotations.boxes[objects, :2], 2)
    spread = rng.choice([0.03, 0.2], (len(objects), 1))
    near = annotations.boxes[objects] + spread * extents * rng.uniform(-1, 1, extents.shape)
    elsewhere = np.repeat(np.arange(len(annotations)), 4)
    far = _random_boxes(rng, annotations.sizes[elsewhere])
    labels = np.where(rng.random(len(objects)) < 0.8, annotations.labels[objects], 1)
    return Detections(
        image_indices=np.concatenate([annotations.image_of_object[objects], elsewhere]),
        labels=np.concatenate([labels, rng.integers(1, 4, len(elsewhere))]),
        scores=np.concatenate([rng.uniform(0.2, 1, len(objects)), rng.uniform(0, 0.7, len(elsewhere))]).round(2),
        boxes=np.concatenate([near, far]).astype(np.float32),
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
        yield browser
        browser.close()


class Visitor:
    """A window in which reports are opened; it remembers every complaint and every file that was asked for."""

    def __init__(self, browser: Any) -> None:
        self.page = browser.new_page(viewport=VIEWPORT)
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
        self.settle()

    def settle(self) -> None:
        """Waits until everything is drawn and the address is written."""
        self.until("app.settling === 0")

    def until(self, expression: str) -> None:
        """Waits for an expression to become true. (Playwright's own way is to eval, which the page forbids.)"""
        for _ in range(200):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(30)
        raise AssertionError(f"never true: {expression}")

    def counts(self) -> dict[str, list[int]]:
        """What the legend says, by kind, for each detector."""
        chips = self.page.locator(".chip").all()
        texts = {chip.get_attribute("data-kind"): chip.locator(".count").inner_text() for chip in chips}
        return {kind: [int(number) for number in text.split(" / ")] for kind, text in texts.items()}

    def order(self) -> list[int]:
        return self.page.evaluate("app.order")


@pytest.fixture(scope="session")
def window(browser) -> Visitor:
    return Visitor(browser)


@pytest.fixture
def visitor(window) -> Iterator[Visitor]:
    """One window for all tests, since opening another takes a third of a second."""
    window.complaints.clear()
    window.page.goto("about:blank")
    window.page.set_viewport_size(VIEWPORT)
    window.page.mouse.move(0, 0)
    window.requests.clear()
    yield window
    assert window.complaints == []
    inside = (window.folder.as_uri() + "/", "about:blank", "data:,")
    assert [url for url in window.requests if not url.startswith(inside)] == []


@pytest.fixture(scope="session")
def single(scene, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detection.inspection.report.write_plots", _one_plot)
        return write_report(tmp_path_factory.mktemp("a folder with #, % and ü"), scene.annotations, scene.first)


@pytest.fixture(scope="session")
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


@pytest.fixture
def report_of_one(no_plots) -> Callable[..., Path]:
    """Writes a report of one picture with one object, or none, and no detections unless some are given."""

    def write(
        folder: Path,
        picture: Path,
        size: tuple[int, int],
        objects: int = 1,
        name: str = "thing",
        ignore: bool = False,
        found: Detections | None = None,
    ) -> Path:
        annotations = Annotations(
            class_names=(name,),
            image_ids=np.array(["one"]),
            image_paths=np.array([str(picture)]),
            sizes=np.array([size], np.int32),
            offsets=np.array([0, objects]),
            boxes=np.array([[5, 10, 45, 50]], np.float64)[:objects],
            labels=np.ones(objects, np.int64),
            ignore=np.full(objects, ignore),
            areas=np.full(objects, 1600.0),
        )
        first = reported("none", annotations, Detections.empty() if found is None else found)
        return write_report(folder / "report", annotations, first)

    return write
