"""That one check never stops the others, and what the edge reads of a machine that has everything."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ovsnet import config
from ovsnet.doctor import base as bases
from ovsnet.doctor.base import Base
from ovsnet.doctor.examine import CHECKS, guarded
from ovsnet.doctor.finding import Finding, Level, ok
from ovsnet.doctor.look import files, kernel, tools
from ovsnet.errors import HostFailure
from ovsnet.store import Snapshot

NO_BASE = cast("Base", None)


async def fine(_base: Base) -> Sequence[Finding]:
    return [ok("fine", "it is")]


async def refused(_base: Base) -> Sequence[Finding]:
    raise HostFailure("the kernel refused")


async def broken(_base: Base) -> Sequence[Finding]:
    raise KeyError("oops")


async def hanging(_base: Base) -> Sequence[Finding]:
    await asyncio.sleep(60)
    return []


async def test_a_check_that_is_fine() -> None:
    assert await guarded("fine", fine, NO_BASE) == [ok("fine", "it is")]


@pytest.mark.parametrize(
    ("check", "words"), [(refused, "the kernel refused"), (broken, "KeyError"), (hanging, "within 0.05 s")]
)
async def test_a_check_that_fails_is_a_warning_that_says_so(check: object, words: str) -> None:
    [finding] = await guarded("title", check, NO_BASE, 0.05)  # type: ignore[arg-type]
    assert finding.level is Level.WARNING
    assert finding.title == "title"
    assert words in finding.seen


@pytest.mark.parametrize(
    ("text", "title", "level"),
    [("", "manifests", Level.FAULT), ("store: {kubernetes: {}}", "objects", Level.WARNING)],
)
async def test_a_service_of_an_api_server_is_no_fault_of_the_node(
    text: str, title: str, level: Level
) -> None:
    problems = {"Service default/web": "203.0.113.1 lies in podCIDRs"}
    base = SimpleNamespace(
        path="agent.yaml",
        config=config.parse(text),
        config_error=None,
        config_problems=(),
        health={"configuration": config.digest(config.parse("vni: 5"))},
        nodes=Snapshot(nodes={}, problems=problems, version=1),
        topology=None,
        topology_error=None,
    )
    mine, objects = await CHECKS["configuration"](cast("Base", base))
    assert (mine.title, mine.level) == ("configuration", Level.WARNING)
    assert (objects.title, objects.level) == (title, level)
    assert objects.seen == "Service default/web: 203.0.113.1 lies in podCIDRs"


async def test_what_a_container_may_not_do_is_told_as_such() -> None:
    async def confined(_base: Base) -> Sequence[Finding]:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    async def hidden(_base: Base) -> Sequence[Finding]:
        raise PermissionError(errno.EACCES, "Permission denied", "/a/file")

    assert "CAP_NET_RAW" in (await guarded("title", confined, NO_BASE))[0].seen
    assert "CAP_NET_RAW" not in (await guarded("title", hidden, NO_BASE))[0].seen


def test_a_process_of_another_program_is_not_the_daemons() -> None:
    """A number from a file may be that of a process in another container."""
    own = Path("/proc/self/comm").read_text().rstrip("\n")
    assert kernel.is_called(os.getpid(), own)
    assert not kernel.is_called(os.getpid(), "ovs-vswitchd")
    assert not kernel.is_called(2**22, "ovs-vswitchd")


async def test_what_could_not_be_found_has_its_reason() -> None:
    assert await bases.attempt(asyncio.sleep(0, 7)) == (7, None)
    assert await bases.attempt(asyncio.sleep(9), 0.01) == (None, "no answer within 0.01 s")
    assert await bases.attempt(refused(NO_BASE)) == (None, "the kernel refused")
    assert await bases.attempt(broken(NO_BASE)) == (None, "KeyError: 'oops'")


async def test_tools() -> None:
    assert (await tools.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 5)) == (3, "out\n", "err\n")
    assert (await tools.run(["no-such-tool-anywhere"], 5)).err == "no-such-tool-anywhere is not installed"
    assert (await tools.run(["sleep", "60"], 0.05)).code is None


def test_who_holds_a_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        assert kernel.holders(held.getsockname()[1]) == [Path("/proc/self/comm").read_text().strip()]


def test_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert files.unix_socket(str(path)).kind == ""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o640)
        found = files.unix_socket(str(path))
    assert (found.kind, found.mode) == ("socket", 0o640)
    path.unlink()
    path.write_text("")
    assert files.unix_socket(str(path)).kind == "other"


def test_the_machine_has_what_every_machine_has(tmp_path: Path) -> None:
    assert "lo" in kernel.links()
    assert kernel.setting("ipv4/ip_forward") in (0, 1)
    assert kernel.setting("ipv4/no_such_setting") is None
    assert kernel.files_of_system().most > 0
    assert kernel.files_of("nobody", 2**22 + 1) is None
    assert kernel.inotify(str(tmp_path)) is None
    assert kernel.synchronised() in (True, False, None)
    assert files.disk("/").size > 0
    assert files.newest() > 1.7e9
