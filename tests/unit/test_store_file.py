"""The file store over real folders in a real loop: changes, mistakes, absence, links, many files at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from store_world import _logged, folder, has_range, put_in_place, running, text

from ovsnet.errors import StoreError
from ovsnet.store.file import read_folder
from ovsnet.store.folder import MAX_SIZE

__all__ = ["_logged", "folder"]


async def test_nodes_come_change_and_go(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    (folder / "notes.txt").write_text("none of ours")
    (folder / ".hidden.yaml").write_text("[")
    async with running(folder) as cluster:
        first = await cluster.until_names("a")
        (folder / "b.yml").write_text(text("b", 2))
        second = await cluster.until_names("a", "b")
        assert second.nodes["a"] is first.nodes["a"]
        assert second.version > first.version
        cluster.write("b.yml", text("b", 3))
        third = await cluster.until(has_range("b", "10.0.3.0/24"))
        (folder / "b.yml").unlink()
        await cluster.until_names("a")
        assert third.problems == {}


async def test_nothing_is_published_when_nothing_changed(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    async with running(folder) as cluster:
        before = await cluster.until_names("a")
        os.utime(folder / "a.yaml")
        cluster.write("a.yaml", text("a", 1))
        (folder / "a.yaml").chmod(0o600)
        await asyncio.sleep(0.3)
        assert cluster.published == [before]


async def test_two_versions_of_one_size_in_one_tick_of_the_clock(folder: Path) -> None:
    path = folder / "a.yaml"
    path.write_text(text("a", 1))
    async with running(folder) as cluster:
        await cluster.until_names("a")
        for number in (2, 3, 4):
            status = path.stat()
            path.write_text(text("a", number))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            await cluster.until(has_range("a", f"10.0.{number}.0/24"))


async def test_a_file_that_is_being_written_is_left_alone(folder: Path) -> None:
    path = folder / "a.yaml"
    path.write_text(text("a", 1) + "---\n" + text("b", 2))
    async with running(folder) as cluster:
        before = await cluster.until_names("a", "b")
        with path.open("w") as file:
            await asyncio.sleep(0.2)
            file.write(text("a", 1))
            file.flush()
            await asyncio.sleep(0.3)
            assert cluster.now is before
            file.write("---\n" + text("c", 3))
        after = await cluster.until_names("a", "c")
        assert after.problems == {}
        assert len(cluster.published) == 2


async def test_a_file_that_is_never_closed_is_read_in_the_end(folder: Path) -> None:
    async with running(folder) as cluster:
        await cluster.until_names()
        with (folder / "a.yaml").open("w") as file:
            file.write(text("a", 1))
            file.flush()
            await cluster.until_names("a")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("", "is empty"),
        ("# soon\n", "is empty"),
        (text("a", 1) + "  x: [\n", "not YAML"),
        (text("a", 1).replace("/24", "/33"), "10.0.1.0/33"),
        ("no manifest at all", "must be a mapping"),
    ],
)
async def test_a_mistake_keeps_what_was_good(
    folder: Path, broken: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    (folder / "b.yaml").write_text(text("b", 2))
    async with running(folder) as cluster:
        before = await cluster.until_names("a", "b")
        cluster.write("a.yaml", broken)
        now = await cluster.until(lambda now: bool(now.problems))
        assert now.nodes == before.nodes
        assert words in now.problems[str(folder / "a.yaml")]
        assert (now.unread_nodes, now.unread_policies) == (frozenset(), frozenset())
        cluster.write("a.yaml", broken)
        cluster.write("b.yaml", text("b", 3))
        await cluster.until(lambda now: now.nodes["b"] != before.nodes["b"])
        cluster.write("a.yaml", text("a", 1))
        after = await cluster.until(lambda now: not now.problems)
        assert after.nodes["a"] is before.nodes["a"]
    lines = [record.message for record in caplog.records if "a.yaml" in record.message]
    assert len(lines) == 2
    assert lines[1].endswith("in order again")


async def test_the_good_nodes_of_a_file_with_a_mistake_are_taken(folder: Path) -> None:
    (folder / "all.yaml").write_text("---\n".join(text(name, number) for number, name in enumerate("abc", 1)))
    async with running(folder) as cluster:
        before = await cluster.until_names("a", "b", "c")
        cluster.write(
            "all.yaml", "---\n".join([text("a", 9), text("b", 2).replace("podCIDRs", "cidrs"), text("d", 4)])
        )
        now = await cluster.until_names("a", "b", "c", "d")
        assert str(now.nodes["a"].pod_cidrs[0]) == "10.0.9.0/24"
        assert now.nodes["b"] is before.nodes["b"]
        assert (
            "document 2 (line 13), Node b: spec.podCIDRs: is missing"
            in now.problems[str(folder / "all.yaml")]
        )


async def test_a_mistake_at_the_start_says_that_nodes_may_be_missing(folder: Path) -> None:
    (folder / "a.yaml").write_text("[")
    async with running(folder) as cluster:
        first = await cluster.until_names()
        assert first.unread_nodes is None
        assert first.unread_policies == {str(folder / "a.yaml")}
        cluster.write("a.yaml", text("a", 1))
        now = await cluster.until_names("a")
        assert (now.unread_nodes, now.unread_policies) == (frozenset(), frozenset())


async def test_overlap_names_both_and_goes_when_it_is_resolved(folder: Path) -> None:
    (folder / "b.yaml").write_text(text("b", 1))
    async with running(folder) as cluster:
        await cluster.until_names("b")
        cluster.write("a.yaml", text("a", 1, "192.0.2.1"))
        now = await cluster.until(lambda now: bool(now.problems))
        assert set(now.nodes) == {"b"}
        problem = now.problems[str(folder / "a.yaml")]
        assert "Node a: 10.0.1.0/24 overlaps a range of node b" in problem
        assert str(folder / "b.yaml") in problem
        (folder / "b.yaml").unlink()
        assert (await cluster.until_names("a")).problems == {}


@pytest.mark.parametrize("pause", [0.0, 0.3])
async def test_two_nodes_swap_addresses(folder: Path, pause: float) -> None:
    one, two = "192.0.2.1", "192.0.2.2"
    (folder / "a.yaml").write_text(text("a", 1, one))
    (folder / "b.yaml").write_text(text("b", 2, two))
    async with running(folder) as cluster:
        await cluster.until_names("a", "b")
        cluster.write("a.yaml", text("a", 1, two))
        await asyncio.sleep(pause)
        cluster.write("b.yaml", text("b", 2, one))
        now = await cluster.until(
            lambda now: now.nodes["b"].addresses == (ip_address(one),) and not now.problems
        )
        assert now.nodes["a"].addresses == (ip_address(two),)
        assert all(set(snapshot.nodes) == {"a", "b"} for snapshot in cluster.published)


async def test_a_burst_of_a_thousand_files_is_one_change(folder: Path) -> None:
    async with running(folder) as cluster:
        await cluster.until_names()
        for number in range(1000):
            (folder / f"node-{number}.yaml").write_text(text(f"node-{number}", number))
        longest = 0.0
        # Of the processor, which others may keep busy: 0.3 s, and other tasks wait 15 ms at most.
        started = last = time.process_time()
        while len(cluster.now.nodes) < 1000:
            await asyncio.sleep(0)
            longest, last = max(longest, time.process_time() - last), time.process_time()
        assert len(cluster.published) == 2
        assert time.process_time() - started < 1.5
        assert longest < 0.2
        before = cluster.now
        (folder / "node-7.yaml").unlink()
        after = await cluster.until(lambda now: "node-7" not in now.nodes)
        assert all(after.nodes[name] is node for name, node in before.nodes.items() if name != "node-7")


async def test_a_folder_that_is_missing_at_the_start_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "late" / "cluster"
    async with running(folder) as cluster:
        await asyncio.sleep(0.2)
        assert cluster.store.snapshot() is None
        assert cluster.store.figures()["store_away"] == 1
        folder.mkdir(parents=True)
        (folder / "a.yaml").write_text(text("a", 1))
        await cluster.until_names("a")
        assert cluster.store.figures()["store_away"] == 0
    assert [
        record.message.partition(":")[0] for record in caplog.records if record.levelname == "WARNING"
    ] == [f"store {folder}"]


async def test_a_folder_that_goes_takes_nothing_along(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    (folder / "b.yaml").write_text(text("b", 2))
    async with running(folder) as cluster:
        before = await cluster.until_names("a", "b")
        shutil.rmtree(folder)
        away = await cluster.until(lambda now: str(folder) in now.problems)
        assert away.nodes == before.nodes
        assert cluster.store.figures()["store_away"] == 1
        assert "restore the folder" in away.problems[str(folder)]
        os.mkdir(folder)
        await cluster.until(lambda now: "empty" in now.problems.get(str(folder), ""))
        assert cluster.now.nodes == before.nodes
        (folder / "a.yaml").write_text(text("a", 1))
        back = await cluster.until_names("a")
        assert back.problems == {}
        assert back.nodes["a"] is before.nodes["a"]
        (folder / "c.yaml").write_text(text("c", 3))
        await cluster.until_names("a", "c")


async def test_a_folder_that_is_made_anew_at_once_takes_nothing_along(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    async with running(folder) as cluster:
        before = await cluster.until_names("a")
        shutil.rmtree(folder)
        os.mkdir(folder)
        await cluster.until(lambda now: "empty" in now.problems.get(str(folder), ""))
        assert cluster.now.nodes == before.nodes
        (folder / "b.yaml").write_text(text("b", 2))
        await cluster.until_names("b")


async def test_removing_the_files_one_by_one_is_meant(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    async with running(folder) as cluster:
        await cluster.until_names("a")
        (folder / "a.yaml").unlink()
        await cluster.until_names()


async def test_a_folder_that_is_renamed_away_and_replaced(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    other = folder.parent / "other"
    other.mkdir()
    (other / "b.yaml").write_text(text("b", 2))
    async with running(folder) as cluster:
        await cluster.until_names("a")
        put_in_place(folder, other)
        await cluster.until_names("b")
        (folder / "c.yaml").write_text(text("c", 3))
        await cluster.until_names("b", "c")


async def test_a_link_to_a_folder_that_is_swapped(tmp_path: Path) -> None:
    for version, name in (("v1", "a"), ("v2", "b")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "node.yaml").write_text(text(name, 1))
    link = tmp_path / "cluster"
    link.symlink_to("v1")
    async with running(link) as cluster:
        await cluster.until_names("a")
        (tmp_path / "next").symlink_to("v2")
        (tmp_path / "next").rename(link)
        await cluster.until_names("b")


async def test_a_config_map_mount_is_swapped_as_kubelet_does(folder: Path) -> None:
    def mount(version: str, names: str) -> None:
        data = folder / version
        data.mkdir()
        for number, name in enumerate(names):
            (data / f"{name}.yaml").write_text(text(name, 10 * len(version) + number))
        (folder / "..data_tmp").symlink_to(version)
        (folder / "..data_tmp").rename(folder / "..data")
        for name in names:
            with contextlib.suppress(FileExistsError):
                (folder / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")

    mount("..1", "ab")
    async with running(folder) as cluster:
        before = await cluster.until_names("a", "b")
        mount("..2222", "ac")
        (folder / "b.yaml").unlink()
        shutil.rmtree(folder / "..1")
        after = await cluster.until_names("a", "c")
        assert after.nodes["a"] != before.nodes["a"]
        assert after.problems == {}


async def test_what_can_not_be_read_is_a_problem_and_stops_nothing(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    async with running(folder) as cluster:
        before = await cluster.until_names("a")
        (folder / "dangling.yaml").symlink_to("nowhere")
        os.mkfifo(folder / "pipe.yaml")
        (folder / "sub.yaml").mkdir()
        (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
        with (folder / "large.yaml").open("wb") as file:
            file.truncate(MAX_SIZE + 1)
        (folder / "a.yaml").unlink()
        (folder / "a.yaml").symlink_to("a.yaml")
        now = await cluster.until(lambda now: len(now.problems) == 6)
        words = {Path(path).name: text for path, text in now.problems.items()}
        assert now.nodes == before.nodes
        assert "points to nothing" in words["dangling.yaml"]
        assert "not a file" in words["pipe.yaml"]
        assert words["sub.yaml"] == "is a folder, and no manifest; remove or rename it"
        assert "not UTF-8" in words["binary.yaml"]
        assert "split it" in words["large.yaml"]
        assert "can't be read" in words["a.yaml"]
        (folder / "a.yaml").unlink()
        (folder / "a.yaml").mkdir()
        now = await cluster.until(lambda now: "is a folder" in now.problems[str(folder / "a.yaml")])
        assert now.nodes == before.nodes
        assert (
            "until then what the file of this name had stays in force" in now.problems[str(folder / "a.yaml")]
        )
        (folder / "a.yaml").rmdir()
        (folder / "a.yaml").write_text(text("a", 2))
        await cluster.until(has_range("a", "10.0.2.0/24"))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    mine = os.geteuid()
    os.seteuid(mine or 65534)
    try:
        yield
    finally:
        os.seteuid(mine)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may use, as a test's own is not."""
    with tempfile.TemporaryDirectory(prefix="ovsnet-") as path:
        Path(path).chmod(0o777)  # for the length of a test
        yield Path(path)


async def test_a_file_without_permission(public: Path) -> None:
    (public / "a.yaml").write_text(text("a", 1))
    async with running(public) as cluster:
        await cluster.until_names("a")
        with unprivileged():
            (public / "b.yaml").write_text(text("b", 2))
            (public / "b.yaml").chmod(0)
            await cluster.until(
                lambda now: "Permission denied" in now.problems.get(str(public / "b.yaml"), "")
            )
            (public / "b.yaml").chmod(0o600)
            await cluster.until_names("a", "b")


async def test_one_look(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 1))
    assert set((await read_folder(folder)).nodes) == {"a"}
    with pytest.raises(StoreError, match="No such file"):
        await read_folder(folder / "none")
