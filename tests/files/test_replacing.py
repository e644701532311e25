"""Files appear whole or not at all."""

import pytest

from approxhub.files import replacing


def test_new_content_takes_the_place_of_the_old(tmp_path):
    """What was written is there afterwards, and nothing else is."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    """An error while writing keeps the old file, and leaves nothing beside it."""
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_written_is_an_error(tmp_path):
    """Who writes nothing has not written the file."""
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file.txt"):
        pass
    assert not list(tmp_path.iterdir())
