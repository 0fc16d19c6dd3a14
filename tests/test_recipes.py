"""Every recipe is read, agrees with itself, builds the detector it promises, and holds the papers' values."""

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from backbones import names
from detection.command_line import LOC_QUICKSTART, LOCALIZATION, explicit_settings, parse
from detection.config import to_dict
from detection.finalize import finalize
from detection.localization.build import build_localizer
from detection.model.build import build_detector

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "loc_" not in path.stem)
LOC_RECIPES = sorted(path.stem for path in CONFIGS.glob("*loc_*.yaml"))
TEST_FILES = sorted(path.stem for path in (CONFIGS / "test").glob("*.yaml"))
PUBLISHED = (
    "voc07_resnet101_c4", "voc0712_resnet101_c4", "voc07_vgg16_fc", "voc0712_vgg16_fc",
    "coco14_resnet101_c4", "coco14_vgg16_fc", "coco14_resnet101_c4_context", "voc0712_resnet101_c4_plus",
)  # fmt: skip
"""Recipes of the papers' own systems: a single feature map, anchors of three sizes on VOC, of four on and from COCO."""
MODERN = ("coco_resnet101_c4", "coco_resnet101_fpn", "coco_resnet50_fpn")
"""Recipes after detectron2's 3x models."""


@cache
def recipe(name, *words):
    return parse("train_det.py", "", ["--config", str(CONFIGS / f"{name}.yaml"), *words])


def with_files(name, *files):
    """A recipe under files of test settings."""
    return recipe(name, *(word for file in files for word in ("--config", str(CONFIGS / "test" / f"{file}.yaml"))))


def build(config, classes=20):
    """The names and shapes of the detector's tensors, without memory for them."""
    with torch.device("meta"):
        detector, _ = build_detector(config, classes, load_weights=False)
    return {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}


def test_all_recipes_are_there():
    assert set(RECIPES) == {
        *PUBLISHED, *MODERN, "voc0712_resnet101_fpn", "quickstart", "custom_voc_resnet18_fpn"
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_and_agrees_with_itself(name):
    config, sentences = finalize(recipe(name))
    assert len(sentences) == 2
    assert config.train.reference_batch == config.train.batch_size
    assert finalize(config)[0] == config
    assert not config.data.reduced_decoding


@pytest.mark.parametrize("name", [*RECIPES, *(f"test/{name}" for name in TEST_FILES)])
def test_a_recipe_says_nothing_twice_and_fits_on_a_page(name):
    """YAML takes the last of two equal keys in silence; a page is 90 lines."""

    class Strict(yaml.SafeLoader):
        pass

    def once(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, once)
    text = (CONFIGS / f"{name}.yaml").read_text()
    yaml.load(text, Strict)  # noqa: S506
    assert len(text.splitlines()) <= 90
    assert max(map(len, text.splitlines())) <= 140


SHAPES = {
    "c4": {
        "roi_heads.box_predictor.cls_score.weight": (21, 2048),
        "roi_heads.box_predictor.bbox_pred.weight": (84, 2048),
        "rpn.head.conv.0.0.weight": (1024, 1024, 3, 3),
        "rpn.head.cls_logits.weight": (9, 1024, 1, 1),
        "rpn.head.bbox_pred.weight": (36, 1024, 1, 1),
        "backbone.body.layer3.22.conv3.weight": (1024, 256, 1, 1),
        "roi_heads.box_head.tail.layer4.0.conv2.weight": (512, 512, 3, 3),
    },
    "fc": {
        "roi_heads.box_predictor.cls_score.weight": (21, 4096),
        "roi_heads.box_predictor.bbox_pred.weight": (84, 4096),
        "rpn.head.conv.0.0.weight": (512, 512, 3, 3),
        "rpn.head.cls_logits.weight": (9, 512, 1, 1),
        "backbone.body.28.weight": (512, 512, 3, 3),
        "roi_heads.box_head.fc6.weight": (4096, 512 * 49),
        "roi_heads.box_head.fc7.weight": (4096, 4096),
    },
    "fpn": {
        "roi_heads.box_predictor.cls_score.weight": (21, 1024),
        "roi_heads.box_predictor.bbox_pred.weight": (84, 1024),
        "roi_heads.box_head.fc6.weight": (1024, 256 * 49),
        "rpn.head.conv.0.0.weight": (256, 256, 3, 3),
        "rpn.head.cls_logits.weight": (3, 256, 1, 1),
        "backbone.fpn.inner_blocks.3.0.weight": (256, 2048, 1, 1),
        "backbone.fpn.layer_blocks.0.0.weight": (256, 256, 3, 3),
        "backbone.body.layer4.2.conv3.weight": (2048, 512, 1, 1),
    },
}


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith("voc") and n != "voc0712_resnet101_c4_plus"])
def test_a_voc_recipe_builds_its_detector(name):
    config, _ = finalize(recipe(name))
    shapes = build(config)
    assert {key: shapes.get(key) for key in SHAPES[config.model.head]} == SHAPES[config.model.head]
    assert ("backbone.body.layer4.0.conv1.weight" in shapes) == (config.model.head == "fpn")


@pytest.mark.parametrize(
    ("name", "anchors"),
    [
        ("coco14_resnet101_c4", 12), ("coco14_vgg16_fc", 12), ("coco14_resnet101_c4_context", 12),
        ("coco_resnet101_c4", 15), ("coco_resnet101_fpn", 3), ("coco_resnet50_fpn", 3),
    ],
)  # fmt: skip
def test_a_coco_recipe_builds_its_detector(name, anchors):
    """80 classes and the background; the rest as on VOC, but for the number of anchors at a place."""
    config, _ = finalize(recipe(name))
    shapes, expected = build(config, classes=80), dict(SHAPES[config.model.head])
    if config.backbone == "resnet50":
        expected = {key: shape for key, shape in expected.items() if ".layer3.22." not in key}
        assert "backbone.body.layer3.6.conv1.weight" not in shapes
    rows = {"cls_score": 81, "predictor.bbox_pred": 4 * 81, "cls_logits": anchors, "head.bbox_pred": 4 * anchors}
    for key, shape in expected.items():
        changed = [count for part, count in rows.items() if f"{part}.weight" in key]
        expected[key] = (*(changed or shape[:1]), *shape[1:])
    if name.endswith("context"):
        expected |= {SIBLINGS[0]: (81, 2 * 2048), SIBLINGS[1]: (324, 2 * 2048)}
    assert {key: shapes.get(key) for key in expected} == expected


SIBLINGS = ("roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.weight")
"""The layers that read a region's vector with the whole image's behind it."""


def test_the_plus_recipe_continues_the_coco_detector():
    """All but the rows of the classes has equal shapes, so that `init_from` can take it over."""
    before = build(finalize(recipe("coco14_resnet101_c4_context"))[0], classes=80)
    plus = build(finalize(recipe("voc0712_resnet101_c4_plus"))[0], classes=20)
    changed = {name for name in before.keys() | plus.keys() if before.get(name) != plus.get(name)}
    assert changed == {*SIBLINGS, *(name.replace("weight", "bias") for name in SIBLINGS)}
    assert [plus[name] for name in SIBLINGS] == [(21, 2 * 2048), (84, 2 * 2048)]
    assert plus["rpn.head.cls_logits.weight"] == before["rpn.head.cls_logits.weight"] == (12, 1024, 1, 1)
    assert plus["rpn.head.bbox_pred.weight"] == before["rpn.head.bbox_pred.weight"] == (48, 1024, 1, 1)


def test_a_pyramid_from_coco_fits_the_pyramid_for_voc():
    """The README's example of `--init_from` on another recipe."""
    before = build(finalize(recipe("coco_resnet101_fpn"))[0], classes=80)
    after = build(finalize(recipe("voc0712_resnet101_fpn"))[0])
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {
        *SIBLINGS, *(name.replace("weight", "bias") for name in SIBLINGS)
    }  # fmt: skip


def test_the_plus_recipes_differ_from_the_plain_ones_where_appendix_b_does():
    def differing(name, other):
        plain, changed = flat(recipe(other)), flat(recipe(name))
        return {setting: value for setting, value in changed.items() if value != plain[setting]}

    assert differing("coco14_resnet101_c4_context", "coco14_resnet101_c4") == {"model.global_context": True}
    assert differing("voc0712_resnet101_c4_plus", "voc0712_resnet101_c4") == {
        "init_from": "runs/coco14_context/best.pt",
        "model.global_context": True,
        "model.rpn.anchor_sizes": [64.0, 128.0, 256.0, 512.0],
        "train.iterations": 55000,
        "train.steps": [40000],
        "train.eval_every": 0,
        "test.refine": True,
        "test.vote_iou": 0.8,
        "test.scales": [200, 400, 600, 800, 1000],
    }


REFINE = {"test.refine": True, "test.vote_iou": 0.8, "test.nms_iou": 0.3}
MULTISCALE = {"test.scales": [200, 400, 600, 800, 1000]}
TEST_SETTINGS = {
    "refine": REFINE,
    "multiscale": MULTISCALE,
    "flip": {"test.flip": True},
    "plus": {**REFINE, **MULTISCALE},
}
"""ResNet paper, appendix B; IoU of the vote from Detectron."""


def flat(config):
    """Dotted names and values of all settings, lists for tuples."""

    def walk(values, prefix=""):
        for name, value in values.items():
            yield from walk(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]

    return dict(walk(to_dict(config)))


def test_all_test_settings_are_there():
    assert set(TEST_FILES) == set(TEST_SETTINGS)


@pytest.mark.parametrize("name", TEST_FILES)
def test_a_file_of_test_settings_says_those_and_no_others(name):
    (group, values), *others = explicit_settings(["--config", str(CONFIGS / "test" / f"{name}.yaml")]).items()
    assert (group, others) == ("test", [])
    assert {f"test.{key}": value for key, value in values.items()} == TEST_SETTINGS[name]


@pytest.mark.parametrize("name", RECIPES)
def test_test_settings_stack_over_every_recipe(name):
    stacked = with_files(name, *TEST_FILES)
    assert flat(stacked) == {**flat(recipe(name)), **REFINE, **MULTISCALE, "test.flip": True}
    assert finalize(stacked)[0].test == stacked.test


@pytest.mark.parametrize("file", TEST_FILES)
def test_each_file_of_test_settings_alone_leaves_the_rest_as_it_is(file):
    """Over a recipe whose own NMS is at 0.5."""
    assert flat(with_files("coco_resnet50_fpn", file)) == {**flat(recipe("coco_resnet50_fpn")), **TEST_SETTINGS[file]}


def test_plus_is_refinement_over_five_scales_and_adds_nothing_to_the_plus_recipe():
    name = "voc0712_resnet101_c4"
    assert with_files(name, "plus") == with_files(name, "refine", "multiscale")
    assert with_files(f"{name}_plus", "plus") == recipe(f"{name}_plus")


def test_the_five_scales_cost_what_their_file_says():
    """Pixels of all scales over those of the paper's 600."""
    pixels = sum(scale**2 for scale in MULTISCALE["test.scales"]) / 600**2
    assert f"220/36 = {pixels:.1f} times" in (CONFIGS / "test" / "multiscale.yaml").read_text()


@pytest.mark.parametrize("backbone", names())
def test_the_quick_start_takes_every_backbone(backbone):
    config = parse("train_det.py", "", ["--backbone", backbone])
    assert config.backbone == backbone
    assert (config.data.format, config.weights) == ("shapes", "none")  # neither data nor weights from the network
    shapes = build(finalize(config)[0], classes=4)
    assert shapes["roi_heads.box_predictor.cls_score.weight"] == (5, 256)
    assert shapes["rpn.head.conv.0.0.weight"] == (64, 64, 3, 3)


def test_the_custom_recipe_takes_pretrained_weights_as_its_comment_says():
    words = "--weights imagenet1k_v1 --model.norm frozen --model.freeze_at 2 --model.pyramid_channels 256"
    assert words in (CONFIGS / "custom_voc_resnet18_fpn.yaml").read_text()
    shapes = build(finalize(recipe("custom_voc_resnet18_fpn", *words.split()))[0], classes=3)
    assert shapes["backbone.fpn.layer_blocks.0.0.weight"] == (256, 256, 3, 3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_values_are_in_the_recipe(name):
    """Faster R-CNN, sections 3.1 and 3.3 and its code; ResNet paper, appendix A."""
    config = recipe(name)
    data, rpn, roi, test = config.data, config.model.rpn, config.model.roi, config.test
    assert (data.min_size, data.max_size, data.test_min_size, data.test_max_size) == ((600,), 1000, 600, 1000)
    is_coco = name.startswith("coco")
    smallest = (64.0,) if is_coco or name.endswith("plus") else ()
    assert (rpn.anchor_sizes, rpn.anchor_ratios) == ((*smallest, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0))
    assert (rpn.samples, rpn.fg_fraction, rpn.fg_iou, rpn.bg_iou) == (256, 0.5, 0.7, 0.3)
    assert (rpn.pre_nms_train, rpn.pre_nms_test, rpn.post_nms_train, rpn.post_nms_test) == (12000, 6000, 2000, 300)
    assert (rpn.nms_iou, rpn.min_size, rpn.ignore_border) == (0.7, 16.0, True)
    assert (roi.samples, roi.fg_fraction, roi.fg_iou) == (128, 0.25, 0.5)
    assert (roi.bg_iou_low, roi.bg_iou_high) == (0.0 if is_coco else 0.1, 0.5)
    assert (roi.beta, rpn.beta) == (1.0, pytest.approx(1 / 9, abs=1e-15))
    assert (test.nms_iou, test.score_threshold, test.detections) == (0.3, 0.05, 100)
    augment = to_dict(data.augment)
    assert augment.pop("hflip") == 0.5
    assert augment == {"crop": 0.0, "vflip": 0.0, "colour": 0.0, "scale_jitter": [1.0, 1.0]}
    train = config.train
    assert (train.optimizer, train.momentum, train.gamma) == ("sgd", 0.9, 0.1)
    # On COCO, 8 GPUs with an image each: 0.003 in Faster R-CNN (v3), of the two published rates the one chosen.
    assert (train.lr, train.batch_size, train.reference_batch) == ((0.003, 8, 8) if is_coco else (0.001, 1, 1))
    # py-faster-rcnn with VGG-16; jwyang's and tf-faster-rcnn's with ResNet-101.
    decay, factor = (0.0005, 2.0) if config.backbone == "vgg16" else (0.0001, 1.0)
    assert (train.weight_decay, train.bias_lr_factor, train.bias_weight_decay) == (decay, factor, False)
    assert (config.weights, config.model.freeze_at, data.difficult) == ("imagenet1k_v1", 2, "ignore")


@pytest.mark.parametrize(
    ("name", "sets", "iterations", "steps"),
    [
        ("voc07_resnet101_c4", "2007/trainval", 70000, (50000,)),
        ("voc07_vgg16_fc", "2007/trainval", 70000, (50000,)),
        ("voc0712_resnet101_c4", "2007/trainval+2012/trainval", 110000, (80000,)),
        ("voc0712_vgg16_fc", "2007/trainval+2012/trainval", 110000, (80000,)),
        ("voc0712_resnet101_fpn", "2007/trainval+2012/trainval", 18000, (12000, 16000)),
        ("coco14_resnet101_c4", "train2014", 320000, (240000,)),
        ("coco14_resnet101_c4_context", "train2014", 320000, (240000,)),
        ("coco14_vgg16_fc", "train2014", 320000, (240000,)),
        *((name, "train2017", 270000, (210000, 250000)) for name in MODERN),
    ],
)
def test_schedules_of_the_published_systems(name, sets, iterations, steps):
    config = recipe(name)
    scored = {"train2014": "val2014", "train2017": "val2017"}.get(sets, "2007/test")
    assert (config.data.train, config.data.val) == (sets, scored)
    assert (config.train.iterations, config.train.steps, config.train.schedule) == (iterations, steps, "multistep")


def test_pooling_and_normalization_of_each_head():
    chosen = {name: recipe(name).model for name in PUBLISHED}
    for name, model in chosen.items():
        expected = ("c4", "frozen", "align") if "c4" in name else ("fc", "none", "max")
        assert (model.head, model.norm, model.roi.pooling) == expected


def test_the_pyramids_values():
    """Feature Pyramid Networks (arXiv 1612.03144), and detectron2's schedule on VOC at batch 16."""
    config = recipe("voc0712_resnet101_fpn")
    assert config.model.rpn.anchor_sizes == (32.0, 64.0, 128.0, 256.0, 512.0)
    assert (config.model.pyramid_channels, config.model.roi.samples, config.model.roi.hidden) == (256, 512, 1024)
    assert (config.train.batch_size, config.train.reference_batch, config.train.lr) == (16, 16, 0.02)
    assert finalize(recipe("voc0712_resnet101_fpn", "--train.batch_size", "8"))[0].train.lr == pytest.approx(0.01)


@pytest.mark.parametrize("name", MODERN)
def test_the_modern_recipes_hold_detectron2s_values(name):
    """Its Base-RCNN-C4 and Base-RCNN-FPN with the 3x schedule: 16 images of 640 to 800 pixels a step."""
    config = recipe(name)
    data, rpn, roi, train, test = config.data, config.model.rpn, config.model.roi, config.train, config.test
    assert (data.min_size, data.max_size) == ((640, 672, 704, 736, 768, 800), 1333)
    assert (data.test_min_size, data.test_max_size, data.augment.hflip) == (800, 1333, 0.5)
    assert (train.batch_size, train.reference_batch, train.lr, train.weight_decay) == (16, 16, 0.02, 0.0001)
    assert (train.warmup_iterations, train.warmup_factor, train.gamma) == (1000, 0.001, 0.1)
    assert rpn.anchor_sizes == (32.0, 64.0, 128.0, 256.0, 512.0)
    assert (rpn.beta, roi.beta, roi.samples, roi.fg_fraction, rpn.samples) == (0.0, 0.0, 512, 0.25, 256)
    assert (rpn.ignore_border, rpn.min_size, roi.bg_iou_low) == (False, 0.0, 0.0)
    assert (test.nms_iou, test.score_threshold, test.detections) == (0.5, 0.05, 100)
    proposals = (rpn.pre_nms_train, rpn.pre_nms_test, rpn.post_nms_train, rpn.post_nms_test)
    assert proposals == ((12000, 6000, 2000, 1000) if "c4" in name else (2000, 1000, 1000, 1000))
    assert (config.weights, config.model.norm, config.model.freeze_at) == ("imagenet1k_v1", "frozen", 2)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("coco")])
def test_coco_recipes_leave_out_what_cannot_be_learned_from(name):
    """train2017 has two boxes without height, and images without any box."""
    data = recipe(name).data
    assert (data.format, data.root, data.on_error) == ("coco", "data/coco", "drop")
    assert (data.empty, data.difficult, data.classes) == ("drop", "ignore", ())


def test_every_recipe_has_its_place_in_the_documentation():
    text = (CONFIGS.parent / "docs" / "recipes.md").read_text()
    assert [name for name in (*RECIPES, *LOC_RECIPES) if f"`{name}`" not in text] == []


# Localization


def loc_recipe(name):
    path = CONFIGS / f"{name}.yaml"
    return parse("train_loc.py", "", ["--config", str(path)], LOCALIZATION, LOC_QUICKSTART)


LOC_SHAPES = {
    "loc_quickstart": {"layers.scores.weight": (8, 9, 1024), "layers.offsets.weight": (8, 36, 1024)},
    "imagenet_loc_resnet101_rpn": {"layers.scores.weight": (1000, 9, 2048), "layers.offsets.weight": (1000, 36, 2048)},
    "imagenet_loc_resnet101_rcnn": {"layers.scores.weight": (1000, 1, 2048), "layers.offsets.weight": (1000, 4, 2048)},
    "imagenet_loc_vgg16_pcr": {"layers.offsets.weight": (1000, 4, 4096), "tail.fc6.weight": (4096, 25088)},
}
"""Nine anchors a place; 1,000 classes; VGG's fc6 reads 512 x 7 x 7."""


def test_all_localization_recipes_are_there():
    assert set(LOC_RECIPES) == set(LOC_SHAPES)


@pytest.mark.parametrize("name", LOC_RECIPES)
def test_a_localization_recipe_builds_what_it_promises(name):
    config, _ = finalize(loc_recipe(name))
    with torch.device("meta"):
        localizer, _ = build_localizer(config, 8 if name == "loc_quickstart" else 1000, load_weights=False)
    found = {key: tuple(tensor.shape) for key, tensor in localizer.state_dict().items()}
    assert found.items() >= LOC_SHAPES[name].items()
    assert ("layers.scores.weight" in found) == (config.loc.method != "pcr")


def test_localization_recipes_hold_the_papers_values():
    """Appendix C: mini-batches of 256, 8 anchors at 1:1, crops of 224 out of 256 to 480, 200 proposals."""
    for name in LOC_RECIPES[:-1]:
        config = loc_recipe(name)
        assert (config.train.batch_size, config.loc.crop, config.data.augment.hflip) == (256, 224, 0.5)
    rpn, rcnn = loc_recipe("imagenet_loc_resnet101_rpn").loc, loc_recipe("imagenet_loc_resnet101_rcnn").loc
    assert (rpn.samples, rpn.fg_fraction, rpn.scales) == (8, 0.5, (256, 480))
    assert rpn.anchor_sizes == (64.0, 128.0, 224.0) and rcnn.proposals == 200
