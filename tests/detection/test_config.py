"""Settings as nested dictionaries and back."""

import dataclasses
import typing

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.config import Config, from_dict, overlay, to_dict
from detection.errors import UserError


def test_padding_is_the_coarsest_stride_of_each_head():
    heads = {head: from_dict({"model": {"head": head}}).model.padding for head in ("c4", "fc", "fpn")}
    assert heads == {"c4": 32, "fc": 32, "fpn": 64}


# Dictionaries


def values_of(kind):
    """A strategy for each kind of field."""
    if dataclasses.is_dataclass(kind):
        return st.builds(kind, **{name: values_of(inner) for name, inner in typing.get_type_hints(kind).items()})
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if Ellipsis in inner:
            return st.lists(values_of(inner[0]), max_size=4).map(tuple)
        return st.tuples(*map(values_of, inner))
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    return {str: st.text(max_size=8), int: st.integers(-(2**60), 2**60), float: numbers, bool: st.booleans()}[kind]


@settings(max_examples=25, deadline=None)
@given(values_of(Config))
def test_dictionaries_hold_everything_and_only_plain_values(config):
    plain = to_dict(config)
    assert from_dict(plain) == config
    assert from_dict(yaml.safe_load(yaml.safe_dump(plain))) == config


def test_missing_keys_take_their_defaults():
    assert from_dict({}) == Config()
    train = dataclasses.replace(Config().train, lr=5.0)
    assert from_dict({"train": {"lr": 5.0}}) == dataclasses.replace(Config(), train=train)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"backbnoe": "vgg16"}, "Config has no setting backbnoe: another version of ResiDet wrote it"),
        ({"model": {"rpn": {"b": 1, "a": 2}}}, "ProposalSettings has no setting a, b: another version"),
    ],
)
def test_an_unknown_key_is_named(values, sentence):
    with pytest.raises(UserError) as caught:
        from_dict(values)
    assert str(caught.value).startswith(sentence)


def test_overlay_goes_group_by_group():
    base, over = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 4}, "e": {"f": 5}}
    assert overlay(base, over) == {"a": 1, "b": {"c": 2, "d": 4}, "e": {"f": 5}}
    assert base == {"a": 1, "b": {"c": 2, "d": 3}}


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.lr = 1.0
