"""Weighted scores against scores of images that are really copied; intervals against formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest

from detection.config import MetricSettings, VOCMetricSettings
from detection.evaluation.bootstrap import Interval, bootstrap
from detection.evaluation.coco import coco_scores
from detection.evaluation.curves import coco_ranking, voc_ranking
from detection.evaluation.matching import COCO_RECALLS
from detection.evaluation.means import mean_of_known
from detection.evaluation.scores import score
from detection.evaluation.voc import VOC07_RECALLS

SQUARE = (0, 0, 10, 10)


def _random(rng, make_annotations, make_detections, images=8, objects=60, found=250, ties=True):
    """Objects of three of four classes in all images but the last; equal scores if wanted."""
    rows, near = [], []
    for _ in range(objects):
        x, y, w, h = rng.integers([0, 0, 8, 8], [60, 60, 90, 90]) / 4
        place = int(rng.integers(images - 1)), int(rng.choice([1, 1, 1, 2, 2, 3]))
        rows.append((*place, (x, y, x + w, y + h), bool(rng.random() < 0.15)))
    for _ in range(found):
        image, label, box, _ = rows[rng.integers(len(rows))]
        label = int(rng.integers(1, 5)) if rng.random() < 0.2 else label
        score = rng.integers(1, 12) / 16 if ties else rng.random()
        near.append((image, label, score, tuple(np.add(box, rng.integers(-8, 9, 4) / 4 * [1, 1, 0, 0]))))
    return make_detections(near), make_annotations(rows, images, 4)


@pytest.mark.parametrize(
    "voc",
    [
        VOCMetricSettings(),
        VOCMetricSettings(ap="area", pixels="continuous", difficult="drop"),
        VOCMetricSettings(ap="11point", difficult="count", iou=0.3),
    ],
)
def test_the_values_are_the_scores(make_annotations, make_detections, voc):
    """Those of hotcoco and of voc_scores, under the same names, with ties, crowds and a class without objects."""
    rng = np.random.default_rng(5)
    settings = MetricSettings(bootstrap=0, voc=voc)
    for _ in range(5):
        detections, annotations = _random(rng, make_annotations, make_detections)
        wanted = score(detections, annotations, settings).headline()
        intervals = bootstrap(detections, annotations, settings)
        assert list(intervals.scores) == list(wanted) and intervals.versus == intervals.difference == {}
        for name, interval in intervals.scores.items():
            assert interval.value == pytest.approx(wanted[name], abs=1e-12)
            assert math.isnan(interval.low) and math.isnan(interval.high)


def _copied(detections, annotations, weights):
    """Image i as weights[i] images of their own."""
    images = np.repeat(np.arange(len(weights)), weights)
    objects = np.concatenate([np.arange(len(annotations.boxes))[annotations.objects(i)] for i in images])
    counts = np.diff(annotations.offsets)[images]
    rows = [np.flatnonzero(detections.image_indices == image) for image in images]
    copies = detections.select(np.concatenate(rows))
    copies.image_indices = np.repeat(np.arange(len(images)), [len(row) for row in rows])
    arrays = {name: getattr(annotations, name)[objects] for name in ("boxes", "labels", "ignore", "areas")}
    arrays |= {name: getattr(annotations, name)[images] for name in ("image_ids", "image_paths", "sizes")}
    return copies, replace(annotations, offsets=np.append(0, np.cumsum(counts)), **arrays)


def test_a_weight_is_so_many_copies(make_annotations, make_detections):
    """Classes whose images are not drawn leave the mean."""
    rng = np.random.default_rng(6)
    settings, dropped = MetricSettings(), 0
    for _ in range(12):
        detections, annotations = _random(rng, make_annotations, make_detections, objects=20, ties=False)
        weights = rng.multinomial(8, np.full(8, 1 / 8))
        wanted = score(*_copied(detections, annotations, weights), settings).headline()
        coco = coco_ranking(detections, annotations).weigh(weights).at(COCO_RECALLS)
        voc = voc_ranking(detections, annotations, settings.voc).weigh(weights)
        found = [coco, coco[0], coco[5], voc.area(), voc.at(VOC07_RECALLS)]
        np.testing.assert_allclose([mean_of_known(part) for part in found], list(wanted.values()), atol=1e-12)
        dropped += np.isnan(coco[0, :3, 0]).any()
    assert dropped


def test_ties_make_little_difference(make_annotations, make_detections):
    """Scores of one decimal: copies scored one by one come in turns, weighted ones do not."""
    rng = np.random.default_rng(10)
    detections, annotations = _random(rng, make_annotations, make_detections, images=60, objects=300, found=600)
    detections.scores = np.round(rng.random(600), 1)
    ranking, off = coco_ranking(detections, annotations), []
    for _ in range(6):
        weights = rng.multinomial(60, np.full(60, 1 / 60))
        wanted = coco_scores(*_copied(detections, annotations, weights)).summary["COCO AP"]
        off.append(100 * abs(mean_of_known(ranking.weigh(weights).at(COCO_RECALLS)) - wanted))
    assert 0 < np.mean(off) < 0.5


def _one_object_an_image(make_annotations, make_detections, found):
    annotations = make_annotations([(image, 1, SQUARE, False) for image in range(len(found))], len(found), 1)
    return make_detections([(image, 1, 0.5, SQUARE) for image in np.flatnonzero(found).tolist()]), annotations


def test_the_interval_of_a_share(make_annotations, make_detections):
    """Nothing is false, so the area AP is the share of the images that are found, whose standard error is known."""
    share, images = 0.6, 400
    found = np.arange(images) < share * images
    detections, annotations = _one_object_an_image(make_annotations, make_detections, found)
    interval = bootstrap(detections, annotations, MetricSettings(bootstrap=1500)).scores["VOC area mAP@0.5"]
    error = math.sqrt(share * (1 - share) / images)
    assert interval.value == pytest.approx(share, abs=1e-12)
    assert interval.low == pytest.approx(share - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(share + 1.96 * error, abs=0.1 * error)


def test_the_difference_is_paired(make_annotations, make_detections):
    """Both find the same images but for 30 and 10 of 400; the variance is that of a mean of +1, 0 and -1."""
    first, other = np.arange(400) < 300, (np.arange(400) >= 30) & (np.arange(400) < 310)
    detections, annotations = _one_object_an_image(make_annotations, make_detections, first)
    versus, _ = _one_object_an_image(make_annotations, make_detections, other)
    intervals = bootstrap(detections, annotations, MetricSettings(bootstrap=1500), seed=3, versus=versus)
    interval = intervals.difference["VOC area mAP@0.5"]
    difference, error = 20 / 400, math.sqrt((40 / 400 - (20 / 400) ** 2) / 400)
    assert interval.value == pytest.approx(difference, abs=1e-12)
    assert interval.low == pytest.approx(difference - 1.96 * error, abs=0.12 * error)
    assert interval.high == pytest.approx(difference + 1.96 * error, abs=0.12 * error)
    alone = bootstrap(versus, annotations, MetricSettings(bootstrap=1500), seed=3)
    assert intervals.versus == alone.scores  # the same resamples for both
    assert all(item == Interval(0, 0, 0) for item in _against_itself(detections, annotations).values())


def _against_itself(detections, annotations):
    return bootstrap(detections, annotations, MetricSettings(bootstrap=20), versus=detections).difference


def test_resamples_depend_on_the_seed_alone(make_annotations, make_detections):
    detections, annotations = _random(np.random.default_rng(8), make_annotations, make_detections)
    shares = []
    settings = MetricSettings(bootstrap=40)
    first = bootstrap(detections, annotations, settings, seed=1, progress=shares.append)
    assert first == bootstrap(detections, annotations, settings, seed=1)
    assert first != bootstrap(detections, annotations, settings, seed=2)
    assert shares == pytest.approx(np.arange(1, 41) / 40)


def test_an_interval_holds_its_value(make_annotations, make_detections):
    """With few objects a class the resamples score higher than the data set, all of them even: see the module."""
    detections, annotations = _random(np.random.default_rng(9), make_annotations, make_detections, images=30)
    for interval in bootstrap(detections, annotations, MetricSettings(bootstrap=100)).scores.values():
        assert 0 <= interval.low < interval.value < interval.high <= 1


def test_resamples_without_objects_are_left_out(make_annotations, make_detections):
    """One image of four has the object, which is found: every resample that has it scores 1."""
    annotations = make_annotations([(2, 1, SQUARE, False)], 4, 1)
    found = make_detections([(2, 1, 0.9, SQUARE), (3, 1, 0.8, SQUARE)])
    scores = bootstrap(found, annotations, MetricSettings(bootstrap=50)).scores
    assert all(item == Interval(1, 1, 1) for item in scores.values())


def test_nothing_at_all(make_annotations, make_detections):
    for images in (0, 2):
        scores = bootstrap(make_detections([]), make_annotations([], images, 2), MetricSettings(bootstrap=3)).scores
        assert all(math.isnan(item.value) and math.isnan(item.low) for item in scores.values())
