"""What sets in COCO's format are called."""

from pathlib import Path

import pytest

from detection.data.coco_sets import name_set, split_union
from detection.errors import UserError


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        ("train2014+valminusminival2014", ["train2014", "valminusminival2014"]),
        ("a=b.json+c=d.json + train", ["a=b.json", "c=d.json", "train"]),
        ("train+/a+b=/c+d/e+f.json+val", ["train", "/a+b=/c+d/e+f.json", "val"]),
        ("./a+b=c.json", ["./a+b=c.json"]),
        ("a+b=c.json", ["a", "b=c.json"]),  # a set called "a": no telling
    ],
)
def test_a_plus_within_a_path_joins_nothing(sets: str, parts: list[str]) -> None:
    assert split_union(sets) == parts


def test_a_file_is_named_so_that_it_is_found() -> None:
    assert name_set(Path("/a+b/c"), Path("/d+e/f.json")) == "/a+b/c=/d+e/f.json"
    for folder, file in (("/a", "/b=c.json"), ("/a", "/b.json+c.json"), ("a+b", "/c.json")):
        with pytest.raises(UserError, match="would be taken for other paths because of a = or \\+ in it; rename"):
            name_set(Path(folder), Path(file))
