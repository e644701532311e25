"""Files appear whole or not at all."""

import os
import socket

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


def special(folder, what):
    """Make something that is no regular file."""
    path = folder / "special"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":  # only its link is made, and only that can be hurt
        path.symlink_to("/dev/null")
    elif what == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path))  # the whole path may be too long for one
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("what", ["a pipe", "a device", "a socket", "a folder"])
def test_what_is_no_file_is_not_replaced(what, tmp_path):
    """It is refused before anything is written, and is what it was."""
    path = special(tmp_path, what)
    before = path.lstat().st_mode, path.lstat().st_ino
    with pytest.raises(OSError, match=f"it is {what}; name a regular file"), replacing(path):
        raise AssertionError("nothing may be written")
    assert (path.lstat().st_mode, path.lstat().st_ino) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [True, False])
def test_of_a_link_the_target_is_replaced(there, tmp_path):
    """Through two links, a relative one among them, and where the target is not there yet."""
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "file.txt"
    if there:
        target.write_text("old")
    (tmp_path / "far" / "link").symlink_to("file.txt")
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "far" / "link")
    with replacing(path) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("new")
    assert path.is_symlink()
    assert path.read_text() == "new"
    assert not target.is_symlink()
    assert target.read_text() == "new"
    assert sorted(p.name for p in target.parent.iterdir()) == ["file.txt", "link"]


def test_links_in_a_circle(tmp_path):
    """A link that leads nowhere else than to itself is an error of the system's."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"), replacing(tmp_path / "a"):
        pass
    assert (tmp_path / "a").is_symlink()
