"""COCO's numbers against published vectors, cases worked out by hand, and one engine against the other."""

import json
import math

import numpy as np
import pytest

from detection.data.dataset import Annotations
from detection.errors import UserError
from detection.evaluation.coco import SUMMARY, coco_scores
from detection.evaluation.detections import Detections

ENGINES = ("hotcoco", "pycocotools")
SQUARE = (0, 0, 10, 10)

PUBLISHED = {
    "COCO AP": 0.503647,
    "COCO AP50": 0.696973,
    "COCO AP75": 0.571667,
    "COCO APs": 0.593252,
    "COCO APm": 0.557991,
    "COCO APl": 0.489363,
    "COCO AR1": 0.386813,
    "COCO AR10": 0.593680,
    "COCO AR100": 0.595353,
    "COCO ARs": 0.654764,
    "COCO ARm": 0.603130,
    "COCO ARl": 0.553744,
}


def _read_instances(path) -> Annotations:
    """COCO's annotation file by the obvious loops, images by id: ties of scores are broken in this order."""
    content = json.loads(path.read_text())
    content["images"].sort(key=lambda image: image["id"])
    images = {image["id"]: index for index, image in enumerate(content["images"])}
    labels = {category["id"]: label for label, category in enumerate(content["categories"], 1)}
    objects = sorted(content["annotations"], key=lambda item: images[item["image_id"]])
    boxes = np.array([item["bbox"] for item in objects])
    places = [images[item["image_id"]] for item in objects]
    return Annotations(
        class_names=tuple(category["name"] for category in content["categories"]),
        image_ids=np.array([str(image_id) for image_id in images]),
        image_paths=np.array([image["file_name"] for image in content["images"]]),
        sizes=np.array([[image["height"], image["width"]] for image in content["images"]], np.int32),
        offsets=np.searchsorted(places, np.arange(len(images) + 1)),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        labels=np.array([labels[item["category_id"]] for item in objects]),
        ignore=np.array([bool(item["iscrowd"]) for item in objects]),
        areas=np.array([item["area"] for item in objects]),
        category_ids=tuple(labels),
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_published_vectors(shared_data, engine):
    folder = shared_data / "eval_vectors" / "coco_val2014_100"
    annotations = _read_instances(folder / "instances.json")
    detections = Detections.read_coco(folder / "detections.json", annotations)
    assert (len(annotations), len(annotations.boxes), len(detections)) == (100, 830, 734)
    scores = coco_scores(detections, annotations, engine)
    assert list(scores.summary) == list(PUBLISHED) == list(SUMMARY)
    assert scores.summary == pytest.approx(PUBLISHED, abs=1e-6)
    assert np.nanmean(scores.ap) == pytest.approx(PUBLISHED["COCO AP"], abs=1e-6)
    assert np.nanmean(scores.ap50) == pytest.approx(PUBLISHED["COCO AP50"], abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_by_hand(make_annotations, make_detections, engine):
    """One object found at IoU 0.8 (7 of 10 thresholds: 0.5 to 0.8) after a false detection; a second one not found."""
    annotations = make_annotations([(0, 1, SQUARE, False), (1, 1, SQUARE, False), (1, 2, SQUARE, False)], 2, 3)
    found = [(0, 1, 0.8, (0, 0, 10, 8)), (1, 1, 0.9, (50, 50, 60, 60)), (0, 3, 0.9, SQUARE)]
    scores = coco_scores(make_detections(found), annotations, engine)
    one = 0.5 * 51 / 101  # precision 1/2 at the recalls 0, .01 ... .50
    np.testing.assert_allclose(scores.ap, [0.7 * one, 0, math.nan], rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.ap50, [one, 0, math.nan], rtol=0, atol=1e-12)
    wanted = {"COCO AP": 0.7 * one / 2, "COCO AP50": one / 2, "COCO AP75": one / 2, "COCO AR1": 0.7 * 0.5 / 2}
    assert {name: scores.summary[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert math.isnan(scores.summary["COCO APm"]) and math.isnan(scores.summary["COCO ARl"])
    assert scores.engine == engine


@pytest.mark.parametrize("engine", ENGINES)
def test_ignored_objects_are_crowds(make_annotations, make_detections, engine):
    """Many detections lie in the crowd and cost nothing, though each overlaps it by IoU 1/4 only."""
    annotations = make_annotations([(0, 1, (0, 0, 20, 20), True), (0, 1, (50, 50, 60, 60), False)], 1, 1)
    corners = [(x, y, x + 10, y + 10) for x in (0, 10) for y in (0, 10)]
    found = [(0, 1, 0.9, box) for box in corners] + [(0, 1, 0.8, (50, 50, 60, 60))]
    assert coco_scores(make_detections(found), annotations, engine).summary["COCO AP"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("objects", [[], [(0, 2, SQUARE, False)]])
@pytest.mark.parametrize("found", [[], [(0, 1, 0.5, SQUARE)]])
@pytest.mark.parametrize("images", [1, 3])
def test_next_to_nothing(capfd, make_annotations, make_detections, engine, objects, found, images):
    scores = coco_scores(make_detections(found), make_annotations(objects, images, 2), engine)
    value = 0.0 if objects else math.nan
    np.testing.assert_array_equal(scores.summary["COCO AP"], value)
    np.testing.assert_array_equal(scores.ap, [math.nan, value])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_of_images_do_not_matter(make_annotations, make_detections, engine):
    """Sets may be read without looking at the pictures."""
    annotations = make_annotations([(0, 1, SQUARE, False)], 2, 1)
    annotations.sizes[:] = 0
    scores = coco_scores(make_detections([(0, 1, 0.5, SQUARE)]), annotations, engine)
    assert scores.summary["COCO AP"] == pytest.approx(1, abs=1e-12)


def test_no_images_at_all(make_annotations, make_detections):
    for engine in ENGINES:
        scores = coco_scores(make_detections([]), make_annotations([], 0, 2), engine)
        assert all(math.isnan(value) for value in scores.summary.values()) and np.isnan(scores.ap).all()


def test_unannotated_set_is_refused(make_annotations, make_detections):
    annotations = make_annotations([], 1, 1)
    annotations.annotated = False
    with pytest.raises(UserError, match="no annotations"):
        coco_scores(make_detections([]), annotations)


@pytest.mark.parametrize("seed", range(12))
def test_engines_agree(make_annotations, make_detections, seed):
    """Crowds, empty images, classes without objects, ties, more than 100 detections of an image and class."""
    rng = np.random.default_rng(seed)
    objects = [(*_place(rng), _box(rng), bool(rng.random() < 0.2)) for _ in range(120)]
    found = [(2, 1, rng.integers(1, 20) / 20, _box(rng)) for _ in range(130)]
    for _ in range(600):
        image, label, box, _ = objects[rng.integers(len(objects))]
        found.append((image, label, rng.integers(1, 8) / 8, tuple(np.add(box, rng.integers(-6, 7, 4)))))
        found.append((*_place(rng), rng.integers(1, 8) / 8, _box(rng)))
    annotations, detections = (
        make_annotations(objects, 9, 7),
        make_detections([found[i] for i in rng.permutation(1330)]),
    )
    if seed % 2:  # areas of segments, as COCO has them
        annotations.areas = annotations.areas * rng.uniform(0.3, 1, len(annotations.areas))
    detections.boxes = np.concatenate([detections.boxes[:, :2], detections.boxes[:, :2] + 1], 1).clip(detections.boxes)
    fast, reference = (coco_scores(detections, annotations, engine) for engine in ENGINES)
    assert fast.summary["COCO AP"] > 0.01 and not math.isnan(fast.summary["COCO APl"])
    assert np.isnan(fast.ap[[0, 1, 2, 3, 4, 5]]).sum() == 0 and np.isnan(fast.ap[6])
    assert fast.summary == pytest.approx(reference.summary, abs=1e-12, nan_ok=True)
    np.testing.assert_allclose(fast.ap, reference.ap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast.ap50, reference.ap50, rtol=0, atol=1e-12)


def _place(rng: np.random.Generator) -> tuple[int, int]:
    """Image 0..6 of 9 and label 1..6 of 7: some images and one class stay empty."""
    return int(rng.integers(7)), int(rng.integers(1, 7))


def _box(rng: np.random.Generator) -> tuple[float, ...]:
    """Sides from 8 to 160: small, medium and large; whole pixels, so that overlaps are often the same."""
    x, y = rng.integers(0, 200, 2)
    w, h = np.exp(rng.uniform(np.log(8), np.log(160), 2)).round()
    return x, y, x + w, y + h
