"""Files that are renamed while a folder is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ovsnet.store import folder as looking
from ovsnet.store.folder import Entry, ManifestFolder
from ovsnet.store.manifest import KINDS

TEXT = """apiVersion: v1
kind: Namespace
metadata: {name: NAME}
"""


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.yaml").write_text(TEXT.replace("NAME", name))


def keys(folder: ManifestFolder) -> list[str]:
    return sorted(
        key for entry in folder.entries.values() for kind in KINDS for key in entry.objects.get(kind, {})
    )


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens, one by one, before a file is looked at."""
    happens: list[Callable[[], object]] = []
    look_at = looking._look_at

    def look(path: str, known: Entry) -> Entry | None:
        if happens:
            happens.pop(0)()
        return look_at(path, known)

    monkeypatch.setattr(looking, "_look_at", look)
    return happens


async def test_a_file_that_is_renamed_meanwhile_is_not_gone(
    tmp_path: Path, before: list[Callable[[], object]]
) -> None:
    write(tmp_path, "a", "b")
    folder = ManifestFolder(tmp_path)
    assert await folder.look()
    before.append(lambda: (tmp_path / "b.yaml").rename(tmp_path / "c.yaml"))
    assert await folder.look()
    assert keys(folder) == ["a", "b"]
    assert {Path(path).name for path in folder.entries} == {"a.yaml", "c.yaml"}


async def test_a_file_that_is_away_for_a_moment_is_not_gone(
    tmp_path: Path, before: list[Callable[[], object]]
) -> None:
    write(tmp_path, "a", "b")
    folder = ManifestFolder(tmp_path)
    await folder.look()
    away, there = tmp_path / ".b.yaml", tmp_path / "b.yaml"
    before += [lambda: there.rename(away), lambda: None, lambda: away.rename(there)]
    await folder.look()
    assert keys(folder) == ["a", "b"]


async def test_in_a_folder_that_changes_all_the_time_nothing_is_taken_for_gone(
    tmp_path: Path, before: list[Callable[[], object]]
) -> None:
    write(tmp_path, "a", "b")
    folder = ManifestFolder(tmp_path)
    await folder.look()

    def turn() -> None:
        found = next(each for each in tmp_path.iterdir() if each.name[0] in "bc")
        found.rename(tmp_path / ("c.yaml" if found.name == "b.yaml" else "b.yaml"))

    before += [turn, lambda: None] * 10
    await folder.look()
    assert {"a", "b"} <= set(keys(folder))
    before.clear()
    await folder.look()
    assert keys(folder) == ["a", "b"]


async def test_a_file_that_is_removed_takes_its_objects_with_it(
    tmp_path: Path, before: list[Callable[[], object]]
) -> None:
    write(tmp_path, "a", "b")
    folder = ManifestFolder(tmp_path)
    await folder.look()
    before.append((tmp_path / "b.yaml").unlink)
    await folder.look()
    assert keys(folder) == ["a"]


async def test_what_is_being_written_at_the_first_look_may_have_anything(tmp_path: Path) -> None:
    """Who begins must not take for gone what was there; later, what is new comes when it is whole."""
    write(tmp_path, "a", "b")
    folder = ManifestFolder(tmp_path)
    assert await folder.look({"b.yaml"})
    entry = folder.entries[str(tmp_path / "b.yaml")]
    assert (entry.unread, entry.problems) == (KINDS, ("is being written",))
    assert keys(folder) == ["a"]
    assert await folder.look()
    assert keys(folder) == ["a", "b"]
    assert not folder.entries[str(tmp_path / "b.yaml")].unread
    write(tmp_path, "c")
    assert not await folder.look({"b.yaml", "c.yaml"})
    assert keys(folder) == ["a", "b"]
