"""Settings that go together: contradictions get a sentence that names the setting, derived values are closed forms."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detection.config import Config, from_dict, to_dict
from detection.errors import UserError
from detection.finalize import anchors, finalize


def changed(settings, base=None):
    """The default settings with values under dotted names laid over them."""
    nested = to_dict(base or Config())
    for name, value in settings.items():
        *groups, last = name.split(".")
        inside = nested
        for group in groups:
            inside = inside[group]
        assert last in inside, name
        inside[last] = value
    return from_dict(nested)


def refusal(settings, world_size=1):
    with pytest.raises(UserError) as caught:
        finalize(changed(settings), world_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_default_settings_agree():
    config, sentences = finalize(Config())
    assert config == Config()
    assert len(sentences) == 2


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("model.rpn.fg_fraction", 1.5),
        ("model.roi.fg_fraction", -0.1),
        ("model.rpn.nms_iou", 1.1),
        ("model.roi.fg_iou", 1.1),
        ("model.roi.dropout", 2.0),
        ("test.nms_iou", -0.3),
        ("test.score_threshold", 1.01),
        ("test.refine_rounds", 0),
        ("test.refine_rounds", -2),
        ("test.vote_iou", -0.1),
        ("test.vote_iou", 1.5),
        ("test.vote_iou", float("nan")),
        ("train.ema_decay", 1.0),
        ("data.workers", -1),
        ("data.augment.crop", 1.2),
        ("data.augment.hflip", -0.5),
        ("data.augment.vflip", 2.0),
        ("data.augment.colour", 7.0),
        ("train.eval_every", -1),
        ("train.checkpoint_every", -5),
        ("train.stop_at", -1),
        ("train.iterations", 0),
        ("train.batch_size", 0),
        ("train.reference_batch", 0),
        ("train.accumulate", 0),
        ("train.log_every", 0),
        ("train.lr", 0.0),
        ("train.lr", float("nan")),
        ("test.batch_size", 0),
        ("test.detections", 0),
        ("model.rpn.samples", 0),
        ("model.roi.samples", -128),
        ("data.max_size", 0),
        ("model.rpn.anchor_sizes", [128.0, 0.0]),
        ("model.rpn.anchor_sizes", []),
        ("model.rpn.anchor_ratios", [-1.0]),
        ("model.rpn.anchor_ratios", []),
        ("model.image_std", [0.2, 0.0, 0.2]),
        ("data.min_size", []),
        ("data.min_size", [600, 0]),
        ("model.pyramid_channels", 0),
        ("data.augment.scale_jitter", [0.0, 1.0]),
    ],
)
def test_a_value_out_of_its_range_is_named(name, bad):
    assert refusal({name: bad}).startswith(name)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("seed", -1),  # numpy refuses it in the middle of a run
        ("train.clip_norm", -1.0),  # would turn every gradient around
        ("train.momentum", -0.5),
        ("train.weight_decay", -0.1),
        ("train.bias_lr_factor", -2.0),
        ("train.gamma", -0.1),
        ("train.warmup_factor", -0.1),
        ("model.rpn.beta", -1.0),
        ("model.roi.beta", -1.0),
        ("model.rpn.post_nms_train", 0),
        ("model.rpn.pre_nms_test", -1),
        ("model.rpn.channels", -3),
        ("model.roi.hidden", 0),
        ("model.roi.pool_size", -7),
        ("data.test_min_size", 0),
    ],
)
def test_a_value_that_could_only_crash_or_harm_is_named(name, bad):
    assert name in refusal({name: bad})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model.rpn.bg_iou": 0.8}, ("model.rpn.bg_iou 0.8", "model.rpn.fg_iou 0.7")),
        ({"model.roi.bg_iou_high": 0.6}, ("model.roi", "bg_iou_high 0.6", "fg_iou 0.5")),
        ({"model.roi.bg_iou_low": 0.5}, ("model.roi", "bg_iou_low 0.5")),
        ({"model.head": "fpn"}, ("model.rpn.anchor_sizes has 3 sizes", "takes 5")),
        ({"train.batch_size": 6, "train.accumulate": 4}, ("train.batch_size 6", "train.accumulate 4", "multiple of 4")),
        ({"train.steps": [5, 3]}, ("train.steps [5, 3]",)),
        ({"train.steps": [5, 5]}, ("train.steps [5, 5]",)),
        ({"resume": "a", "init_from": "b"}, ("resume", "init_from")),
        ({"data.augment.scale_jitter": [1.5, 0.5]}, ("data.augment.scale_jitter [1.5, 0.5]",)),
        ({"data.test_max_size": 500}, ("data.test_max_size", "data.test_min_size")),
        ({"data.min_size": [480, 1200]}, ("data.max_size", "data.min_size")),
        ({"train.precision": "fp16", "device": "cpu"}, ("train.precision fp16", "bf16 or fp32")),
    ],
)
def test_a_contradiction_names_both_settings(settings, named):
    sentence = refusal(settings)
    assert all(words in sentence for words in named), sentence


@pytest.mark.parametrize(
    ("scales", "shown", "reason"),
    [
        ([600, 400], "[600,400]", "increasing sizes from 32 to 8192 pixels, as [200,400,600,800,1000]"),
        ([200, 600, 400], "[200,600,400]", "increasing"),
        ([400, 400], "[400,400]", "increasing"),
        ([31, 400], "[31,400]", "from 32 to 8192"),
        ([200, 8193], "[200,8193]", "from 32 to 8192"),
        ([-200, 400], "[-200,400]", "from 32 to 8192"),
        ([600], "[600]", "two adjacent scales; give two or more, or one by data.test_min_size"),
        ([0], "[0]", "two or more"),
    ],
)
def test_scales_that_are_no_pyramid_are_shown_with_the_reason(scales, shown, reason):
    sentence = refusal({"test.scales": scales})
    assert sentence.startswith(f"test.scales {shown}: ") and reason in sentence


def test_rounds_without_refinement_are_refused():
    sentence = "test.refine_rounds 3: give test.refine true too, or no rounds"
    assert refusal({"test.refine_rounds": 3}) == sentence


@pytest.mark.parametrize(
    "settings",
    [
        {"test.scales": []},
        {"test.scales": [200, 400, 600, 800, 1000]},
        {"test.scales": [32, 8192]},
        {"test.refine_rounds": 1},
        {"test.refine_rounds": 3, "test.refine": True},
        {"test.vote_iou": 1.0},
        {"test.vote_iou": 0.5, "test.flip": True},  # a vote needs no refinement
    ],
)
def test_test_settings_at_their_limits_are_taken_as_they_are(settings):
    given = changed(settings)
    assert finalize(given)[0] == given


def test_a_batch_must_be_shared_equally_by_all_processes():
    settings = {"train.batch_size": 12, "train.accumulate": 2}
    assert "12 cannot be shared by 4 processes with train.accumulate 2: give a multiple of 8" in refusal(settings, 4)
    sentences = finalize(changed(settings), 3)[1]
    assert "batch 12 = 3 processes x 2 accumulated x 2 images" in sentences


def test_learning_rate_is_scaled_by_the_batch():
    settings = {"train.lr": 0.02, "train.reference_batch": 16, "train.batch_size": 8}
    config, sentences = finalize(changed(settings))
    assert config.train.lr == pytest.approx(0.01, rel=1e-15)
    assert config.train.reference_batch == 8
    assert sentences[0] == "learning rate 0.01 = 0.02 x batch 8 / reference batch 16"


@given(
    lr=st.floats(1e-6, 1.0),
    batch=st.integers(1, 256),
    reference=st.integers(1, 256),
)
@example(lr=0.013809522119432344, batch=13, reference=1)
def test_finalizing_again_changes_nothing(lr, batch, reference):
    """Bit for bit: a resumed run finalizes the settings in its checkpoint once more."""
    scaled = {"train.lr": lr, "train.batch_size": batch, "train.reference_batch": reference}
    once, _ = finalize(changed(scaled))
    assert once.train.lr == pytest.approx(lr * batch / reference, rel=1e-12)
    assert finalize(once)[0] == once


def test_number_of_anchors_is_said():
    assert anchors(Config()) == "9 anchors at each place (sizes 128, 256, 512; 3 shapes)"
    pyramid = {"model.head": "fpn", "model.rpn.anchor_sizes": [32.0, 64.0, 128.0, 256.0, 512.0]}
    assert anchors(changed(pyramid)) == "3 anchors at each place of each level (sizes 32, 64, 128, 256, 512; 3 shapes)"
