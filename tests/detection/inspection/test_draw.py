"""Pictures are checked by their pixels: where frames and labels are, and what colour they have."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.dataset import Annotations, Sample
from detection.errors import UserError
from detection.evaluation.detections import Detections
from detection.inspection.draw import (
    PALETTE,
    draw_boxes,
    draw_outlines,
    prediction_sheet,
    save_picture,
    training_sheet,
)

NAMES = ("cat", "dog", "автобус")
GREY = np.full((200, 300, 3), 128, np.uint8)


def _draw(boxes: list, labels: list, scores: list | None = None, image: np.ndarray = GREY, names=NAMES) -> np.ndarray:
    scores = None if scores is None else np.array(scores, np.float32)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return draw_boxes(image, boxes, np.array(labels, np.int64), scores, class_names=names)


def _where(image: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """First column, first row, last column and last row that have the colour."""
    rows, columns = np.nonzero((image == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_frame_fills_the_outermost_pixels_of_its_box():
    """The box from 40 to 140 covers pixels 40 to 139; lines of an image this small are two pixels wide."""
    drawn = _draw([(40, 60, 140, 160)], [2])
    for row, column in [(159, 40), (159, 139), (100, 40), (100, 41), (100, 138), (100, 139), (158, 90), (60, 139)]:
        assert tuple(drawn[row, column]) == PALETTE[1], (row, column)
    for row, column in [(100, 39), (100, 42), (100, 137), (100, 140), (160, 90), (157, 90)]:
        assert tuple(drawn[row, column]) == (128, 128, 128), (row, column)
    assert (GREY == 128).all()


def test_label_stands_on_its_box():
    drawn = _draw([(40, 60, 140, 160)], [1], [0.93])
    left, top, right, bottom = _where(drawn, PALETTE[0])
    assert (left, right, bottom) == (40, 139, 159) and 40 <= top < 50
    label = drawn[top:60, 40:80]
    assert (label == PALETTE[0]).all(axis=2).mean() > 0.5 and label.min() < 60  # filled, with dark letters on it
    wider = _draw([(40, 60, 140, 160)], [1])
    assert (drawn[top:60] == PALETTE[0]).all(axis=2).sum() > (wider[top:60] == PALETTE[0]).all(axis=2).sum()  # no score


@pytest.mark.parametrize("box", [(0, 0, 300, 200), (280, 0, 300, 30), (-50, -50, 20, 20), (250, 150, 900, 900)])
def test_label_and_frame_stay_inside(box):
    """A label that was cut off would have letters touching the border; here there is filling all around them."""
    drawn = _draw([box], [1], [0.5])
    filled = (drawn == PALETTE[0]).all(axis=2)
    letters = drawn.max(axis=2) < 40
    rows, columns = np.nonzero(letters)
    assert len(rows) > 20
    assert rows.min() > 0 and columns.min() > 0 and rows.max() < 199 and columns.max() < 299
    assert filled[rows.min() - 1, columns.min() - 1] and filled[rows.max() + 1, columns.max() + 1]


def test_boxes_that_cannot_be_seen_leave_no_trace():
    outside = [(-20, 10, 0, 30), (300, 10, 320, 30), (10, -9, 30, -1), (10, 200, 30, 210)]
    np.testing.assert_array_equal(_draw(outside, [1, 1, 1, 1], [0.9] * 4), GREY)
    np.testing.assert_array_equal(_draw([], [], []), GREY)
    np.testing.assert_array_equal(_draw([], []), GREY)


def test_thin_boxes_are_seen():
    drawn = _draw([(100.2, 50, 100.3, 150)], [3])
    assert tuple(drawn[149, 100]) == PALETTE[2] and tuple(drawn[149, 101]) == (128, 128, 128)


def test_best_frame_is_on_top_and_labels_avoid_each_other():
    """The two boxes are the same: the better one hides the other's frame but not its label."""
    drawn = _draw([(100, 80, 200, 180)] * 2, [1, 2], [0.9, 0.6])
    assert tuple(drawn[150, 100]) == PALETTE[0]
    first, second = ((drawn == PALETTE[label]).all(axis=2).sum() for label in (0, 1))
    alone = (_draw([(100, 80, 200, 180)], [2], [0.6]) == PALETTE[1]).all(axis=2).sum() - 2 * 2 * 98 - 4
    assert first > 300 and second > 0.6 * alone > 100


def test_letters_beyond_latin_differ():
    """Letters that a font lacks all look the same: an empty box."""
    drawn = [_draw([(40, 60, 240, 160)], [1], names=(name,)) for name in ("ааа", "жжж", "ααα", "βββ")]
    assert len({image.tobytes() for image in drawn}) == 4


def test_long_names_are_cut():
    drawn = _draw([(0, 60, 300, 160)], [1], names=("x" * 500,))
    assert drawn.shape == GREY.shape
    assert (drawn[:, -1] == PALETTE[0]).all(axis=1).sum() > 90


def test_outlines_alternate_black_and_white():
    drawn = draw_outlines(
        GREY, np.array([[20, 20, 120, 120], [150, 20, 250, 120]], np.float32), np.array([False, True])
    )
    assert set(np.unique(drawn)) == {0, 128, 255}
    dashes, dots = (drawn[20, start : start + 100, 0] for start in (20, 150))
    np.testing.assert_array_equal(dashes[:14], [255] * 7 + [0] * 5 + [255] * 2)
    np.testing.assert_array_equal(dots[:8], [255, 255, 0, 0, 0, 0, 255, 255])
    assert (drawn[22:118, 22:118] == 128).all()  # one pixel wide, plus strokes that lie on it


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Annotations, Detections]:
    """Twenty black images of 100 x 50 pixels; the first has two objects, one difficult, and three detections."""
    for number in range(20):
        Image.new("RGB", (100, 50)).save(tmp_path / f"{number}.png")
    boxes = np.array([[10, 10, 30, 40], [60, 10, 80, 40]], np.float32)
    annotations = Annotations(
        class_names=NAMES,
        image_ids=np.array([f"{number:06d}" for number in range(20)]),
        image_paths=np.array([str(tmp_path / f"{number}.png") for number in range(20)]),
        sizes=np.full((20, 2), (50, 100), np.int32),
        offsets=np.array([0] + [2] * 20),
        boxes=boxes,
        labels=np.array([1, 2]),
        ignore=np.array([False, True]),
        areas=np.array([600, 600], np.float32),
    )
    found = np.array([[40, 20, 55, 45], [60, 30, 70, 45], [0, 0, 9, 9]], np.float32)
    return annotations, Detections(np.array([0, 0, 7]), np.array([1, 3, 2]), np.array([0.5, 0.49, 0.9]), found)


def test_prediction_sheet(scene):
    """Images of 100 x 50 grow by the whole factor 3; cells are 10 apart, with captions of 24 rows."""
    annotations, detections = scene
    sheet = prediction_sheet(annotations, detections, [0, 1, 2, 3, 4])
    assert sheet.shape == (2 * (150 + 24 + 10) + 10 + 24, 4 * (300 + 10) + 10, 3)
    first = sheet[10:160, 10:310]
    assert tuple(first[100, 120]) == PALETTE[0] and tuple(first[134, 164]) == PALETTE[0]  # 3 x (40, 20, 55, 45)
    assert not (first == PALETTE[2]).all(axis=2).any()  # scored 0.49
    np.testing.assert_array_equal(first[30:42, 30, 0], [255] * 7 + [0] * 5)  # annotated
    np.testing.assert_array_equal(first[30:36, 180, 0], [255] * 2 + [0] * 4)  # difficult
    assert (sheet[10:160, 320:620] == 0).all()  # the second image has nothing on it
    assert sheet[160:184, 10:310].max() > 200  # its name
    assert (sheet[194:, 320:620] == sheet[0, 0]).all(axis=2).mean() > 0.95  # no sixth image; the legend at most


def test_sheet_ends_with_the_sixteenth_image(scene):
    annotations, detections = scene
    sheet = prediction_sheet(annotations, detections, range(20), score_threshold=0.4)
    assert sheet.shape[:2] == (4 * 184 + 34, 4 * 310 + 10)
    assert (sheet[10:160, 10:310] == PALETTE[2]).all(axis=2).any()
    assert prediction_sheet(annotations, detections, []).ndim == 3


def test_large_images_shrink(scene):
    annotations, detections = scene
    Image.new("RGB", (1000, 500)).save(annotations.image_paths[0])
    detections.boxes *= 10
    sheet = prediction_sheet(annotations, detections, [0, 1, 2, 3])
    assert sheet.shape[:2] == (192 + 24 + 10 + 34, 4 * (384 + 10) + 10)
    assert tuple(sheet[10 + round(450 * 0.384) - 1, 10 + 180]) == PALETTE[0]


def test_tiles_have_the_shape_of_most_images(scene):
    """Three images are twice as wide as high; the tall one is made as high as they are, 192 rows."""
    annotations, detections = scene
    for index, size in enumerate([(100, 1000), (800, 400), (800, 400), (800, 400)]):
        Image.new("RGB", size, (255, 0, 0)).save(annotations.image_paths[index])
        annotations.sizes[index] = size[::-1]
    sheet = prediction_sheet(annotations, Detections.empty(), [0, 1, 2, 3])
    red = (sheet[:, :404] == (255, 0, 0)).all(axis=2)
    assert sheet.shape[:2] == (192 + 24 + 10 + 34, 4 * 394 + 10)
    assert (red.any(axis=1).sum(), red[:5].sum()) == (192, 0)


def test_training_sheet():
    image = np.zeros((90, 120, 3), np.uint8)
    boxes = np.array([[10, 30, 50, 80], [60, 30, 100, 80]], np.float32)
    sample = Sample(image, (90, 120), boxes, np.array([2, 1]), np.array([False, True]), position=0, index=0)
    sheet = training_sheet([sample] * 18, NAMES)
    assert sheet.shape[:2] == (4 * (270 + 34) + 34, 4 * 370 + 10)
    first = sheet[10:280, 10:370]
    assert _where(first, PALETTE[1])[0] == 30 and _where(first, PALETTE[1])[2:] == (149, 239)
    assert not (first == PALETTE[0]).all(axis=2).any()
    np.testing.assert_array_equal(first[90:96, 180, 0], [255] * 2 + [0] * 4)


@pytest.mark.parametrize("name", ["a.png", "b.JPG", "new/c.jpeg"])
def test_saved_pictures_open(tmp_path, name):
    drawn = _draw([(40, 60, 140, 160)], [1])
    save_picture(tmp_path / name, drawn)
    with Image.open(tmp_path / name) as picture:
        error = np.abs(np.asarray(picture).astype(int) - drawn)
        assert picture.format == ("PNG" if name.endswith("png") else "JPEG")
    assert error.max() == 0 if name.endswith("png") else error.mean() < 2


def test_pictures_that_cannot_be_saved(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="a.bmp: pictures are written as .png, .jpg, .jpeg"):
        save_picture(tmp_path / "a.bmp", GREY)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="a.png: cannot be written"):
        save_picture(tmp_path / "a.png", GREY)
    assert not list(tmp_path.iterdir())


def test_torch_stays_out():
    program = "import sys, detection.inspection.draw; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False).returncode == 0
