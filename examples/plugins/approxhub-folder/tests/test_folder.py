"""A folder of tables is a source like any other, and what is wrong with it is said."""

import json
from pathlib import Path

import pytest
from approxhub_folder import folder

import approxhub as ah
from approxhub.errors import ApproxHubError, InputError
from approxhub.plugins import MultiplierSource, host
from approxhub.testing import SourceConformance
from approxhub.testing.contract import lopsided

SIGNED = lopsided("4s", "4s")
MIXED = lopsided("5u", "3s")


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tables, one of them written the other way round."""
    ah.write_table(SIGNED, tmp_path / "signed.npy")
    ah.write_table(MIXED, tmp_path / "mixed.txt", index_order="offset", operand_order="ba")
    listed = {
        "signed": {"file": "signed.npy", "operands": "4s", "index_order": "pattern"},
        "mixed": {
            "file": "mixed.txt", "operands": "5ux3s", "index_order": "offset",
            "operand_order": "ba", "summary": "weights count the rows", "power_mw": 0.25,
        },
    }  # fmt: skip
    (tmp_path / "tables.json").write_text(json.dumps(listed))
    monkeypatch.setenv("APPROXHUB_FOLDER", str(tmp_path))
    monkeypatch.setenv("APPROXHUB_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.usefixtures("tables")
class TestFolder(SourceConformance):
    """Every clause, as ApproxHub states it."""

    def make_source(self) -> MultiplierSource:
        """Return the source as it is installed."""
        return host().get("approxhub_multiplier_sources", MultiplierSource, "folder")


@pytest.mark.usefixtures("tables")
def test_tables_by_id() -> None:
    """Tables are loaded by id, in whatever order their files stand, with what is said of them."""
    assert ah.load("folder:signed") == SIGNED
    mixed = ah.load("folder:mixed")
    assert mixed == MIXED
    assert mixed.hardware.power_mw == 0.25
    assert ah.load("mixed").id == "folder:mixed"


def test_a_changed_file_is_read_anew(tables: Path) -> None:
    """The cache does not hide a file that has changed."""
    ah.load("folder:signed")
    other = lopsided("4s", "4s", seed=1)
    ah.write_table(other, tables / "signed.npy", overwrite=True)
    (result,) = ah.registry.fetch("folder:signed")
    assert result.state == "fetched"
    assert result.multiplier == other


@pytest.mark.usefixtures("tables")
def test_the_cache_outlives_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that was loaded once is found by its content without the folder."""
    identity = ah.load("folder:signed").identity
    monkeypatch.delenv("APPROXHUB_FOLDER")
    found = ah.registry.find_by_identity(identity)
    assert found is not None
    assert found == SIGNED


def test_no_folder_is_no_multiplier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable the source is empty, and says why it has nothing."""
    monkeypatch.delenv("APPROXHUB_FOLDER", raising=False)
    assert folder.entries() == []
    with pytest.raises(ApproxHubError, match="APPROXHUB_FOLDER names no folder"):
        ah.load("folder:signed")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "cannot be read"),
        ("[]", "an object of names"),
        ('{"x": {"file": "signed.npy"}}', "needs at least 'file' and 'operands'"),
        ('{"x": {"file": "gone.npy", "operands": "4s"}}', "no file 'gone.npy'"),
        ('{"x": {"file": "../etc/passwd", "operands": "4s"}}', "no file '../etc/passwd'"),
        ('{"x": {"file": "signed.npy", "operands": "4s", "sign": 1}}', "unknown sign"),
        ('{"x": {"file": "signed.npy", "operands": "fours"}}', "fours"),
        ('{"x y": {"file": "signed.npy", "operands": "4s"}}', "x y"),
    ],
)
def test_a_wrong_list(text: str, cause: str, tables: Path) -> None:
    """A list that is wrong is refused with the place, and other sources are listed."""
    (tables / "tables.json").write_text(text)
    with pytest.raises(InputError, match=cause):
        folder.entries()
    with pytest.warns(UserWarning, match=cause), pytest.raises(ApproxHubError, match=cause):
        ah.load("folder:nothing")
    with pytest.warns(UserWarning, match=cause):
        assert any(e.source == "drum" for e in ah.registry.entries())
