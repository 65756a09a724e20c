"""Opening the namespace that CNI_NETNS names, and being in it for a moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_world import World, run

from ovsnet.errors import BadEnvironment
from ovsnet.host import netns


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


def test_a_namespace_is_told_from_ours(world: World) -> None:
    fd = world.add("pod")
    assert netns.is_netns(fd)
    assert not netns.same_as_ours(fd)
    assert netns.inode(fd) == os.stat(world.path("pod")).st_ino
    with netns.entered(fd):
        assert netns.same_as_ours(fd)
        assert "lo" in run("ip -br link")
    assert not netns.same_as_ours(fd)


def test_home_again_after_an_exception(world: World) -> None:
    fd = world.add("pod")
    with pytest.raises(ZeroDivisionError), netns.entered(fd):
        raise ZeroDivisionError
    assert not netns.same_as_ours(fd)


def test_what_is_no_pods_namespace_is_refused(world: World, tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.touch()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cases = {
        str(tmp_path / "none"): "does not exist",
        str(plain): "not a network namespace",
        str(fifo): "not a network namespace",
        str(tmp_path): "not a network namespace",
        "/proc/self/ns/mnt": "not a network namespace",
        "/proc/999999999/ns/net": "does not exist",
        "/proc/self/ns/net": "agent's own",
        world.path("node"): "agent's own",
        "": "does not exist",
    }
    before = len(os.listdir("/proc/self/fd"))
    for path, reason in cases.items():
        with pytest.raises(BadEnvironment, match=reason) as caught:
            netns.open_netns(path)
        assert "CNI_NETNS" in caught.value.message
    assert len(os.listdir("/proc/self/fd")) == before
