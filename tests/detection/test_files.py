"""Files that are whole or as before, and new folders."""

import errno
import os

import pytest

from detection.errors import UserError
from detection.files import replacing, unused


def test_what_was_written_takes_the_name(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "first"
    with replacing(str(path)) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_a_failure_leaves_the_former_file_and_passes_through(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_said_in_a_sentence(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(UserError) as caught, replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value).startswith(f"{path}: cannot be written (No space left on device);")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_is_a_file_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.txt"
    with pytest.raises(UserError) as caught, replacing(path) as temporary:
        temporary.write_text("never")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unused_counts_up_from_2(tmp_path):
    folder = tmp_path / "eval"
    assert unused(folder) == folder
    folder.mkdir()
    assert unused(folder) == tmp_path / "eval-2"
    (tmp_path / "eval-2").write_text("a file counts too")
    assert unused(folder) == tmp_path / "eval-3"
    (tmp_path / "eval-4").mkdir()
    assert unused(folder) == tmp_path / "eval-3"
