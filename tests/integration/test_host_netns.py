"""Being in another network namespace for a moment."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from host_world import World, run

from ovsnet.errors import HostFailure
from ovsnet.host import netns


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_inside_and_home_again(world: World) -> None:
    home, fd = here(), world.add("pod")
    with netns.entered(fd):
        assert here() == os.fstat(fd).st_ino != home
        assert "lo" in run("ip -br link")
    assert here() == home


def test_home_again_after_an_exception(world: World) -> None:
    home, fd = here(), world.add("pod")
    with pytest.raises(ZeroDivisionError), netns.entered(fd):
        raise ZeroDivisionError
    assert here() == home


def test_what_is_no_network_namespace_is_refused(world: World) -> None:
    home = here()
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    open_files = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(HostFailure, match="cannot enter a network namespace"), netns.entered(fd):
            pass
        assert len(os.listdir("/proc/self/fd")) == open_files
    finally:
        os.close(fd)
    assert here() == home
