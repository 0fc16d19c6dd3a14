"""A trained detector on loose images and on data sets: the same pixels give the same detections."""

import dataclasses
import re
import shutil
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detection import checkpoint
from detection.config import from_dict, overlay, to_dict
from detection.data import jpeg, read_annotations
from detection.errors import UserError
from detection.evaluation.detections import Detections
from detection.finalize import finalize
from detection.inference.devices import place
from detection.inference.ensemble import Member
from detection.inference.predictor import Prediction, Predictor, as_array, gather, load_detector
from detection.model.build import build_detector

CLASSES = ("circle", "cross", "square", "triangle")


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return load_detector(tiny_run / "best.pt", "cpu")


@pytest.fixture
def picture(tiny_data):
    """A file of the validation set: 160 rows, 128 columns."""
    path = tiny_data / "JPEGImages" / "000008.jpg"
    assert Image.open(path).size == (128, 160)
    return path


def same(first, second):
    assert len(first) == len(second) > 0
    for name in ("boxes", "labels", "scores"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


# Loose images


def test_a_path_a_picture_an_array_and_a_tensor_are_the_same(predictor, picture):
    array = np.asarray(Image.open(picture))
    expected = predictor(picture)
    given = str(picture), Image.open(picture), array, torch.from_numpy(array.copy()).permute(2, 0, 1)
    for image in (*given, array[:, ::-1][:, ::-1]):
        same(predictor(image), expected)


@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_a_loaded_detector_is_folded_and_finds_the_same(tiny_config, tmp_path, picture, head):
    """To the last bit."""
    anchors = {"rpn": {"anchor_sizes": [16, 32, 64]}} if head == "c4" else {}
    changes = {"model": {"norm": "batch", "head": head, **anchors}, "test": {"score_threshold": 0.0}}
    config, _ = finalize(from_dict(overlay(tiny_config, changes)))
    torch.manual_seed(0)
    detector, _ = build_detector(config, 4)
    for layer in detector.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.weight, layer.running_var):
                torch.nn.init.uniform_(values, 0.5, 1.5)
            for values in (layer.bias, layer.running_mean):
                torch.nn.init.normal_(values, std=0.1)
    identity = {"kind": "detector", "config": to_dict(config), "class_names": list(CLASSES)}
    checkpoint.save(tmp_path / "last.pt", {**identity, "model": detector.state_dict()})
    loaded = load_detector(tmp_path / "last.pt", "cpu")
    layers = [type(layer) for member in loaded.members for layer in member.detector.modules()]
    assert torch.nn.BatchNorm2d not in layers and layers.count(torch.nn.Identity) == 20
    detector = place(detector, torch.device("cpu"), config.train.channels_last)
    same(loaded(picture), Predictor([Member(detector, config)], CLASSES, torch.device("cpu"))(picture))


def test_a_prediction_holds_sorted_boxes_inside_the_image(predictor, picture):
    found = predictor(picture)
    assert isinstance(found, Prediction)
    assert (found.boxes.dtype, found.labels.dtype, found.scores.dtype) == (np.float32, np.int64, np.float32)
    assert found.boxes.shape == (len(found), 4)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores > 0.05).all() and (found.scores <= 1).all()
    assert len(found) <= 10
    x1, y1, x2, y2 = found.boxes.T
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 128.001).all() and (y2 <= 160.001).all()
    assert (x2 > x1).all() and (y2 > y1).all()


def test_names_belong_to_labels():
    found = Prediction(np.zeros((3, 4), np.float32), np.array([2, 1, 4]), np.ones(3, np.float32), CLASSES)
    assert found.names == ["cross", "circle", "triangle"]
    assert len(found) == 3


def test_boxes_are_in_pixels_of_the_image_as_it_was_given(predictor, picture):
    """An image four times as large is resized to the same pixels, so its boxes are four times as large."""
    small = as_array(picture)
    rows, columns = small.shape[:2]
    large = cv2.resize(small, (4 * columns, 4 * rows), interpolation=cv2.INTER_NEAREST)
    first, second = predictor(small), predictor(large)
    size = predictor.config.data
    assert (size.test_min_size, size.test_max_size) == (64, 96)
    assert second.boxes.max() > 2 * first.boxes.max()
    assert second.boxes[:, 2].max() <= 4 * columns + 0.01
    assert second.boxes[:, 3].max() <= 4 * rows + 0.01


def test_a_file_obeys_its_orientation(predictor, picture, tmp_path):
    """Orientation 6: the stored picture is to be turned by 90 degrees clockwise for display."""
    upright = as_array(picture)
    stored = Image.fromarray(np.rot90(upright))  # counter-clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    assert Image.open(path).size == (160, 128)
    assert np.array_equal(as_array(path), upright)
    assert np.array_equal(as_array(Image.open(path)), upright)
    same(predictor(path), predictor(upright))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA", "YCbCr"])
def test_other_kinds_of_files_become_rgb(predictor, picture, tmp_path, mode):
    suffix = ".jpg" if mode in ("CMYK", "YCbCr") else ".png"
    path = tmp_path / f"{mode}{suffix}"
    Image.open(picture).convert(mode).save(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(as_array(path), expected)
    assert expected.shape == (160, 128, 3)
    same(predictor(path), predictor(expected))
    if mode in ("L", "1", "LA"):
        assert (expected == expected[:, :, :1]).all()


def test_a_picture_of_one_pixel_is_no_obstacle(predictor):
    found = predictor(np.zeros((1, 1, 3), np.uint8))
    assert len(found) == len(found.names)
    assert (found.boxes >= 0).all() and (found.boxes <= 1.001).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        torch.zeros(3, 4, 4),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
    ],
)
def test_arrays_of_another_form_are_refused(image):
    with pytest.raises(UserError, match="^an image is uint8 with three channels"):
        as_array(image)


def refusal(path):
    with pytest.raises(UserError) as caught:
        as_array(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_decode_are_named(picture, tmp_path):
    refusal(tmp_path / "missing.jpg")
    refusal(tmp_path)
    for name, content in (
        ("empty.jpg", b""),
        ("text.png", b"no picture"),
        ("cut.jpg", picture.read_bytes()[:-2000]),
        ("header.jpg", picture.read_bytes()[:30]),
    ):
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)


def damaged_png(kind, body):
    """A PNG of 64 x 64 whose only data chunk is `kind`, with a wrong check sum."""

    def chunk(name, content, crc=None):
        crc = zlib.crc32(name + content) if crc is None else crc
        return len(content).to_bytes(4, "big") + name + content + crc.to_bytes(4, "big")

    header = (64).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(kind, body, crc=7) + chunk(b"IEND", b"")


def test_a_png_with_a_flipped_bit_is_named(tmp_path):
    """Pillow raises a SyntaxError for a broken check sum, when the file is opened or when it is decoded."""
    pixels = zlib.compress(b"\0" * 64 * (1 + 3 * 64))
    (tmp_path / "chunk.png").write_bytes(damaged_png(b"gAMA", (1).to_bytes(4, "big")))
    (tmp_path / "pixels.png").write_bytes(damaged_png(b"IDAT", pixels[: len(pixels) // 2]))
    refusal(tmp_path / "chunk.png")
    refusal(tmp_path / "pixels.png")
    path = tmp_path / "later.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"IDAT", content.index(b"IDAT") + 4)  # the second chunk of pixels
    content[place : place + 4] = b"\x01\x02\x03\x04"
    path.write_bytes(content)
    refusal(path)


def test_a_decompression_bomb_is_named(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    refusal(picture)


def test_more_than_8_bits_are_refused_as_in_data_sets(tmp_path):
    """Converted to RGB they would be cut off at 255: a white picture, and nobody told."""
    path = tmp_path / "deep.png"
    Image.fromarray(np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)).save(path)
    refusal(path)


# Data sets


def test_a_data_set_gives_what_its_images_give(predictor, tiny_config):
    data = read_annotations(from_dict(tiny_config).data, "val")
    shares = []
    found = predictor.predict(data, shares.append)
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert (np.diff(found.image_indices) >= 0).all()
    for index, path in enumerate(data.image_paths):
        alone, here = predictor(str(path)), found.select(found.image_indices == index)
        assert np.array_equal(here.labels, alone.labels)
        assert here.scores == pytest.approx(alone.scores, rel=1e-5)
        assert here.boxes == pytest.approx(alone.boxes, abs=1e-3)


def test_the_batch_size_makes_no_difference(predictor, tiny_config, tiny_run):
    data = read_annotations(from_dict(tiny_config).data, "train")
    expected = predictor.predict(data, lambda share: None)
    four = load_detector(tiny_run / "best.pt", "cpu", {"test": {"batch_size": 4}})
    shares = []
    found = four.predict(data, shares.append)
    assert len(shares) < len(data)
    assert np.array_equal(found.image_indices, expected.image_indices)
    assert np.array_equal(found.labels, expected.labels)
    assert found.boxes == pytest.approx(expected.boxes, abs=1e-4)
    assert found.scores == pytest.approx(expected.scores, abs=1e-6)


def test_large_files_of_a_set_are_decoded_reduced_when_asked(tiny_run, tiny_config, monkeypatch):
    """Pictures of 128 and more pixels, looked at with 64."""
    factors, decode = [], jpeg.decode_jpeg
    monkeypatch.setattr(jpeg, "decode_jpeg", lambda content, factor: factors.append(factor) or decode(content, factor))
    data = read_annotations(from_dict(tiny_config).data, "val")
    plain, reduced = (
        load_detector(tiny_run / "best.pt", "cpu", {"data": {"reduced_decoding": asked, "workers": 0}})
        for asked in (False, True)
    )
    expected = plain.predict(data, lambda share: None)
    assert factors == [1] * len(data)
    found = reduced.predict(data, lambda share: None)
    assert 2 in factors[len(data) :]
    assert abs(len(found) - len(expected)) <= 0.2 * len(expected)


def test_a_detector_in_training_mode_predicts_all_the_same(predictor, picture):
    expected = predictor(picture)
    predictor.members[0].detector.train()
    same(predictor(picture), expected)
    assert not any(module.training for module in predictor.members[0].detector.modules())


def some(*images):
    count = len(images)
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    return Detections(np.array(images, np.int64), np.ones(count, np.int64), np.linspace(1, 0.5, count), boxes)


def test_gathered_detections_are_in_the_order_of_the_images():
    merged = gather([some(2, 2), some(0), some(), some(1)], [2, 0, 3, 1], 4)
    assert merged.image_indices.tolist() == [0, 1, 2, 2]
    assert merged.scores.tolist() == [1.0, 1.0, 1.0, 0.5]  # within an image as they were


@pytest.mark.parametrize("seen", [[0, 1], [0, 1, 1], [0, 1, 2, 2], []])
def test_an_image_that_is_missing_or_computed_twice_is_a_fault(seen):
    with pytest.raises(RuntimeError, match="exactly once"):
        gather([some(0)], seen, 3)


# Checkpoints


def test_a_detector_is_loaded_with_its_names_settings_and_average(tiny_run, predictor):
    assert predictor.class_names == CLASSES
    assert predictor.config.model.pyramid_channels == 16
    assert not predictor.members[0].detector.training
    last = load_detector(tiny_run, "cpu")
    average = checkpoint.load(tiny_run)["ema"]
    fc6 = "roi_heads.box_head.fc6.weight"  # sorted as a region's values lie in memory
    average = {**average, fc6: average[fc6].unflatten(1, (16, 7, 7)).permute(0, 2, 3, 1)}
    for loaded in (predictor, last):
        assert all(
            torch.equal(tensor, average[name]) for name, tensor in loaded.members[0].detector.state_dict().items()
        )


def test_settings_are_laid_over_those_of_the_run(tiny_run, picture):
    few = load_detector(tiny_run, "cpu", {"test": {"detections": 3}})
    assert len(few(picture)) == 3
    assert few.config.test == dataclasses.replace(load_detector(tiny_run, "cpu").config.test, detections=3)
    none = load_detector(tiny_run, "cpu", {"test": {"score_threshold": 1.0}})(picture)
    assert len(none) == 0
    assert none.boxes.shape == (0, 4)
    assert none.names == []


def test_settings_are_checked(tiny_run):
    for name, value in (("batch_size", 0), ("nms_iou", 7.0), ("detections", -1)):
        with pytest.raises(UserError, match=f"test.{name}"):
            load_detector(tiny_run, "cpu", {"test": {name: value}})


def test_checkpoints_that_are_missing_damaged_or_do_not_fit_are_named(tiny_run, tmp_path):
    with pytest.raises(UserError, match="nowhere.pt: no such checkpoint"):
        load_detector("nowhere.pt", "cpu")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((tiny_run / "best.pt").read_bytes()[:100_000])
    with pytest.raises(UserError, match="damaged.pt: the checkpoint is damaged"):
        load_detector(damaged, "cpu")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "resnet34"}, 'backbone "resnet18", which cannot become "resnet34"'),
        ({"model": {"image_mean": [0.5, 0.5, 0.5]}}, "model.image_mean [0.485, 0.456, 0.406], which cannot become"),
        ({"model": {"roi": {"pooling": "max"}}}, 'model.roi.pooling "align", which cannot become "max"'),
        (
            {"model": {"rpn": {"anchor_sizes": [8, 16, 32, 48, 96]}}},
            "cannot become [8.0, 16.0, 32.0, 48.0, 96.0]",
        ),
    ],
)
def test_what_a_detector_was_trained_with_cannot_be_changed(tiny_run, settings, words):
    """Some of it would fit the weights and change the results in silence."""
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        load_detector(tiny_run / "best.pt", "cpu", settings)
    assert str(caught.value).startswith(f"{tiny_run / 'best.pt'}: it was trained with ")
    asked = {"model": {"rpn": {"post_nms_test": 5, "anchor_sizes": [8, 16, 32, 48, 64]}}}
    assert load_detector(tiny_run / "best.pt", "cpu", asked).config.model.rpn.post_nms_test == 5


def test_a_checkpoint_without_class_names_or_of_another_version_is_refused(tiny_run, tmp_path):
    state = checkpoint.load(tiny_run / "best.pt")
    checkpoint.save(tmp_path / "nameless.pt", {**state, "class_names": []})
    with pytest.raises(UserError, match="nameless.pt: the checkpoint names no classes"):
        load_detector(tmp_path / "nameless.pt", "cpu")
    checkpoint.save(tmp_path / "other.pt", {**state, "config": {**state["config"], "mixup": 0.2}})
    with pytest.raises(UserError, match="no setting mixup"):
        load_detector(tmp_path / "other.pt", "cpu")
    shutil.rmtree(tmp_path)


def test_it_is_at_hand_from_the_package(tiny_run, picture, predictor):
    from detection import load_detector as from_package

    same(from_package(str(tiny_run / "best.pt"), "cpu")(picture), predictor(picture))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"test": {"refin": True}}, "unknown setting settings: test.refin: did you mean settings: test.refine?"),
        ({"test": {"scales": 128}}, "settings: test.scales: expected a list of whole numbers, as [480,600], got 128"),
        ({"test": {"scales": "big"}}, "settings: test.scales: expected a list of whole numbers, as [480,600], got big"),
        ("refine.yaml", """settings 'refine.yaml': give a dictionary, as {"test": {"refine": True}}"""),
    ],
)
def test_wrong_settings_from_python_get_the_command_lines_sentence(tiny_run, settings, sentence):
    with pytest.raises(UserError) as caught:
        load_detector(tiny_run / "best.pt", "cpu", settings)
    assert str(caught.value) == sentence


def test_dotted_settings_are_taken_too(tiny_run):
    assert load_detector(tiny_run / "best.pt", "cpu", {"test.refine": True}).config.test.refine


def test_no_checkpoint_is_a_mistake():
    with pytest.raises(UserError, match="no checkpoint was given"):
        load_detector([])
