"""Templates, and what they compile to, which is kept for the next process."""

from __future__ import annotations

import sys
from pathlib import Path

import jinja2
import pytest

from ovsnet import templating


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this run itself was told to do with compiled modules."""
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def rendered(folder: Path) -> str:
    return templating.environment(folder).get_template("a.j2").render(name="pod")


def kept(folder: Path) -> list[Path]:
    return list((folder / "__pycache__").glob("*"))


def test_what_was_compiled_is_used_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.j2").write_text("to {{ name }}")
    assert rendered(tmp_path) == "to pod"
    assert len(kept(tmp_path)) == 1
    monkeypatch.delattr(jinja2.Environment, "_generate")
    assert rendered(tmp_path) == "to pod"


def test_another_text_is_compiled_anew(tmp_path: Path) -> None:
    for text, wanted in (("to {{ name }}", "to pod"), ("from {{ name }}", "from pod")):
        (tmp_path / "a.j2").write_text(text)
        assert rendered(tmp_path) == wanted


def test_a_file_that_was_spoilt_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.j2").write_text("to {{ name }}")
    rendered(tmp_path)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    for content in (b"garbage", *(whole[:length] for length in range(len(whole)))):
        path.write_bytes(content)
        assert rendered(tmp_path) == "to pod"
        assert kept(tmp_path) == [path]


def test_a_folder_is_compiled_in_one_place_and_used_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "built").mkdir()
    (tmp_path / "built/a.j2").write_text("to {{ name }}")
    rendered(tmp_path / "built")
    (tmp_path / "built").rename(tmp_path / "used")
    monkeypatch.delattr(jinja2.Environment, "_generate")
    assert rendered(tmp_path / "used") == "to pod"


def test_where_nothing_can_be_written_it_works_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.j2").write_text("to {{ name }}")
    (tmp_path / "__pycache__").write_text("a file, where a folder is wanted")
    assert rendered(tmp_path) == "to pod"


def test_nothing_is_written_where_python_is_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "a.j2").write_text("to {{ name }}")
    assert rendered(tmp_path) == "to pod"
    assert kept(tmp_path) == []


def test_what_nobody_gave_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.j2").write_text("to {{ nobody }}")
    with pytest.raises(jinja2.UndefinedError):
        rendered(tmp_path)
