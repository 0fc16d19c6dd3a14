"""Decoding of files in COCO's format: where categories stand, and what is said of files that are broken."""

import itertools
import json
import time
from pathlib import Path

import pytest

from detection.data.coco_file import Categories, File, category_table, decode
from detection.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "all.json"


@pytest.mark.parametrize("order", list(itertools.permutations(("images", "annotations", "categories"))))
def test_categories_are_found_wherever_they_stand(order: tuple[str, ...], file: Path) -> None:
    """Without reading the annotations where possible; the words may come as text and in inner objects too."""
    inner = {"id": 18, "name": "dog", "categories": [{"id": 1, "name": "no"}], 'a \\"categories": [1]': "categories"}
    content = {"images": [], "annotations": [], "categories": [inner, {"id": 17, "name": "cat"}]}
    other = {"categories": [{"id": 3, "name": "inner"}], "annotations": "annotations"}
    for more in ({}, {"info": other}, {'\\"categories': [1], '\\"annotations': 1}, {"x": "annotations"}):
        ordered = {key: content[key] for key in order}
        for entries in ({**ordered, **more}, {**more, **ordered}):
            file.write_text(json.dumps(entries))
            assert category_table(decode(file, Categories), file) == {"dog": 18, "cat": 17}


def test_names_are_found_without_the_annotations(file: Path) -> None:
    """Which a broken set of annotations shows: it is told by whoever reads it."""
    broken = '"annotations": nothing'
    for text in ('{%s, "categories": [{"id": 2, "name": "a"}]}', '{"categories": [{"id": 2, "name": "a"}] ,\n %s}'):
        file.write_text(text % broken)
        assert category_table(decode(file, Categories), file) == {"a": 2}
        with pytest.raises(UserError, match="is not JSON"):
            decode(file, File)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ('{"images": [], "annotations": [{"id"', r"ends in the middle, after 36 bytes; copy or download"),
        ('{"images": [], "annotations": nul}', r"is not JSON: .*byte 3\d.*in .*nul"),
        ('{"images": [],, "annotations": []}', r"is not JSON: .*byte 14"),
        ("[]", "Expected `object`, got `array`; a COCO file has images"),
        ('{"annotations": [], "categories": []}', "missing required field `images`"),
        ('{"images": [{"id": 1}]}', r"missing required field `file_name` - at `\$\.images\[0\]`"),
        ('{"images": [], "annotations": [3]}', r"`\$\.annotations\[0\]`; a COCO file has"),
        ('{"images": [], "annotations": [{"category_id": [1]}]}', r"`\$\.annotations\[0\]\.category_id`; a COCO"),
        ('{"images": [], "annotations": [{"area": 1e400}]}', r"out of range - at `\$\.annotations\[0\]\.area`; a COCO"),
        ('{"images": [], "x": Inf}', r"is not JSON: invalid character near byte 20, in .*Inf.*; mend it there"),
        ('\ufeff{"images": []}', "is not JSON: .* byte 0, in .*; name a file of JSON in UTF-8"),
        ('{"images": [], "x": -Inf}', r"near byte 21, in .*-Inf"),
        ('{"images": [], "x": [NaN, Infinit]}', r"is not JSON: .*Infinit"),
        (r'{"images": [], "x": "\ud83d"}', r"\\ud83d at byte 21 is half of a character; write the other half"),
        (r'{"images": [], "x": "\\ud83d \ud83d\ude00 ', r"ends in the middle, after 42 bytes; copy or download"),
        (r'{"images": [], "x": "\udc00"}', r"invalid utf-16 surrogate pair near byte 2\d, in .*; mend it there"),
        ('{"images": [], "x": ' + "[" * 5000, "brackets within brackets without end; a COCO file has"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "2 categories .* id 1"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "have the name 'a'"),
    ],
)  # fmt: skip
def test_what_is_no_coco_file_is_told_with_its_place(text: str, reason: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match=reason) as error:
        category_table(decode(file, File), file)
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)


def test_text_that_is_not_utf8_is_told(file: Path) -> None:
    file.write_bytes(b'{"images": [], "categories": [{"id": 1, "name": "B\xe4r"}]}')
    with pytest.raises(UserError, match="cannot be decoded.*save it as JSON in UTF-8"):
        decode(file, File)


def test_a_bad_literal_is_looked_for_once(file: Path) -> None:
    """NaN is mended and the file decoded again, but never a third time: 3 MB would else take minutes."""
    file.write_text('{"images": [], "x": [NaN, "' + "x" * 3_000_000 + '", Inf]}')
    start = time.perf_counter()
    with pytest.raises(UserError, match="is not JSON: .*Inf"):
        decode(file, File)
    assert time.perf_counter() - start < 5
