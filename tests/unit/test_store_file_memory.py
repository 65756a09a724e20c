"""A start of the file store goes by the nodes that an earlier run went by, as if that still ran."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from store_world import _logged, folder, text

from ovsnet.model import Node
from ovsnet.store import Snapshot
from ovsnet.store.file import FileStore, Memory, read_folder
from ovsnet.store.taken import NO_LIMITS

__all__ = ["_logged", "folder"]
OLD = "metadata:\n  creationTimestamp: '2000-01-01T00:00:00Z'"


def node(name: str, number: int) -> Node:
    """As rows remember it."""
    return Node(
        name=name,
        pod_cidrs=(ip_network(f"10.0.{number}.0/24"),),
        addresses=(ip_address(f"192.168.0.{number}"),),
        source=f"port vxlan-{number}",
    )


def remembering(*nodes: Node) -> Memory:
    async def memory() -> Mapping[str, Node]:
        return {each.name: each for each in nodes}

    return memory


async def look(folder: Path, *nodes: Node) -> Snapshot:
    return await read_folder(folder, NO_LIMITS, remembering(*nodes))


def rogue(name: str, number: int) -> str:
    """Another node with that range, older than everybody."""
    return text(name, number, "192.168.0.99").replace("metadata:", OLD)


@pytest.mark.parametrize("name", ["a", "z"])
async def test_an_older_node_with_a_living_peers_range_cuts_nobody_off(folder: Path, name: str) -> None:
    (folder / "b.yaml").write_text(text("b", 2))
    (folder / f"{name}.yaml").write_text(rogue(name, 2))
    found = await look(folder, node("b", 2))
    assert set(found.nodes) == {"b"}
    assert found.problems.keys() == {str(folder / f"{name}.yaml")}
    assert set((await look(folder)).nodes) == {name}, "without a memory dates decide"


@pytest.mark.parametrize("broken", ["[", "kind: Node\nmetadata: {name: b}\n"])
async def test_who_may_stand_in_a_broken_file_keeps_what_it_had(folder: Path, broken: str) -> None:
    (folder / "a.yaml").write_text(rogue("a", 2))
    (folder / "b.yaml").write_text(broken)
    found = await look(folder, node("b", 2))
    assert (found.nodes, found.unread_nodes) == ({}, None)
    assert "10.0.2.0/24 overlaps a range of node b (port vxlan-2)" in found.problems[str(folder / "a.yaml")]


async def test_a_range_whose_node_is_gone_is_anybodys(folder: Path) -> None:
    (folder / "a.yaml").write_text(text("a", 2))
    found = await look(folder, node("b", 2))
    assert (set(found.nodes), found.problems) == ({"a"}, {})


async def test_a_node_made_again_has_its_new_range(folder: Path) -> None:
    (folder / "b.yaml").write_text(text("b", 3))
    found = await look(folder, node("b", 2))
    assert (found.nodes["b"].pod_cidrs, found.problems) == ((ip_network("10.0.3.0/24"),), {})


async def test_the_memory_is_for_the_start_alone(folder: Path) -> None:
    """Who has gone since begins anew."""
    (folder / "b.yaml").write_text("[")
    store = FileStore(folder, memory=remembering(node("b", 2)))
    await store.look()
    (folder / "a.yaml").write_text(rogue("a", 2))
    await store.look()
    assert (now := store.snapshot()) is not None
    assert now.nodes == {}
    (folder / "b.yaml").write_text(text("b", 2))
    await store.look()
    assert (now := store.snapshot()) is not None
    assert set(now.nodes) == {"b"}
    (folder / "b.yaml").unlink()
    await store.look()
    assert (now := store.snapshot()) is not None
    assert (set(now.nodes), now.problems) == ({"a"}, {})
    (folder / "b.yaml").write_text(text("b", 2))
    await store.look()
    assert (now := store.snapshot()) is not None
    assert set(now.nodes) == {"a"}


async def test_nothing_is_published_before_memory_has_answered(folder: Path) -> None:
    """OVSDB may come later than the folder."""
    (folder / "a.yaml").write_text(rogue("a", 2))
    (folder / "b.yaml").write_text(text("b", 2))
    there = asyncio.Event()

    async def memory() -> Mapping[str, Node]:
        await there.wait()
        return {"b": node("b", 2)}

    store = FileStore(folder, memory=memory)
    published: list[Snapshot | None] = []
    store.subscribe(lambda: published.append(store.snapshot()))
    looking = asyncio.create_task(store.look())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(looking), 0.1)
    assert store.snapshot() is None
    there.set()
    await looking
    assert [each and set(each.nodes) for each in published] == [{"b"}]
