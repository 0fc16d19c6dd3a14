"""Images that two sets share."""

from pathlib import Path

import numpy as np

from detection.data.dataset import Annotations, without_objects
from detection.data.overlap import overlap_sentence, shared_images


def _set(**files: Path) -> Annotations:
    """Images by id, all of 4 x 4 pixels."""
    return without_objects(["a"], list(files), [str(path) for path in files.values()], np.full((len(files), 2), 4))


def test_sets_share_an_image_by_its_file_or_by_its_id_in_one_folder(tmp_path: Path) -> None:
    folder, other = tmp_path / "images", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (tmp_path / "link").symlink_to(folder)
    train = _set(one=folder / "1.jpg", two=folder / "2.jpg", three=folder / "3.jpg", four=folder / "4.jpg")
    val = _set(
        renamed=tmp_path / "link" / "2.jpg",  # the same file, over a link to its folder and under another id
        three=folder / "3.png",  # the same id in the same folder
        one=other / "1.jpg",  # the same id and file name, but elsewhere
    )
    assert shared_images(train, val).tolist() == [1, 2]
    assert shared_images(val, train).tolist() == [0, 1]
    assert shared_images(train, train).tolist() == [0, 1, 2, 3]


def test_a_sentence_warns_of_shared_images_and_names_three(tmp_path: Path) -> None:
    train = _set(**{f"i{number}": tmp_path / f"{number}.jpg" for number in range(5)})
    assert overlap_sentence(train, _set(new=tmp_path / "new.jpg")) == ""
    one = overlap_sentence(train, _set(i4=tmp_path / "4.jpg"))
    assert one.startswith("1 image of the training set is in the validation set too (i4):")
    assert overlap_sentence(train, train).startswith("5 images of the training set are in") and "i2, ...)" in (
        overlap_sentence(train, train)
    )
