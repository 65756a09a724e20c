"""Ports that ovs-vswitchd has and the kernel has not: when they are made again, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ovsnet import names
from ovsnet.agent.devices import Devices
from ovsnet.errors import HostFailure, OvsnetError
from ovsnet.rows import AddPort, Change, Confirm, DeletePort, PortRow


class Rows:
    """Of a bridge, and what happened to them in turn; ovs-vswitchd gives every port the number of before."""

    def __init__(self) -> None:
        self.rows = {
            "ovsnet0": row("ovsnet0", names.ROLE_GATEWAY, 3, ofport_request=1, mac="0a:58:0a:f4:01:01"),
            "br-int": row("br-int", names.ROLE_BRIDGE, 65534),
            "pod-1": row("pod-1", names.ROLE_POD, 16, kind=""),
            "theirs": row("theirs", None, 17),
        }
        self.log: list[object] = []
        self.comes: set[str] = set()
        """Interfaces that ovs-vswitchd makes when it looks at its configuration."""
        self.there = {"pod-1"}
        self.refused: list[str] = []
        """What ovs-vswitchd says of the next looks at its ports."""

    def ports(self) -> dict[str, PortRow]:
        return self.rows

    async def apply(self, changes: Sequence[Change]) -> None:
        self.log += changes

    async def wait_ofports(self, names: list[str], patience: float) -> dict[str, int]:
        if self.refused:
            raise OvsnetError(self.refused.pop())
        return {}

    async def wait_configured(self, patience: float) -> None:
        self.log.append("seen")
        self.there |= self.comes


def row(name: str, role: str | None, number: int, *, kind: str = "internal", **fields: Any) -> PortRow:
    ids = {"others": "kept"} | ({names.OWNER: role} if role else {})
    return PortRow(name=name, type=kind, external_ids=ids, ofport=number, **fields)


async def test_what_is_missing_for_long_is_made_again_as_it_was() -> None:
    rows, now = Rows(), [100.0]
    devices = Devices(rows, there=rows.there.__contains__, clock=lambda: now[0])
    for _ in range(2):
        with pytest.raises(HostFailure, match="there is no interface ovsnet0, br-int"):
            await devices.ensure()
        assert devices.trouble() is not None
        now[0] += 1.9
    assert rows.log == []
    now[0] += 0.2
    assert len(await devices.ensure()) == 2
    assert devices.trouble() is None
    ask, seen, gone, asked, seen_again, made, *others = rows.log
    assert (ask, seen, asked, seen_again) == (Confirm(), "seen", Confirm(), "seen")
    assert gone == DeletePort(name="ovsnet0")
    assert isinstance(made, AddPort)
    assert (made.spec.ofport_request, made.spec.mac) == (3, "0a:58:0a:f4:01:01")
    assert made.spec.external_ids == {"others": "kept", names.OWNER: names.ROLE_GATEWAY}
    assert others[0] == DeletePort(name="br-int")
    assert isinstance(others[-1], AddPort)
    assert others[-1].spec.ofport_request is None, "nobody can ask for the bridge's own number"


async def test_what_ovs_vswitchd_makes_by_itself_is_left_alone() -> None:
    """As while it starts: rows have the numbers of before."""
    rows, now = Rows(), [100.0]
    devices = Devices(rows, there=lambda name: name in rows.there, clock=lambda: now[0])
    rows.comes = {"ovsnet0", "br-int"}
    with pytest.raises(HostFailure):
        await devices.ensure()
    now[0] += 5
    assert await devices.ensure() == []
    assert rows.log == [Confirm(), "seen"]
    assert await devices.ensure() == []
    assert devices.trouble() is None


async def test_an_interface_that_comes_back_is_no_trouble_any_more() -> None:
    rows, now = Rows(), [100.0]
    devices = Devices(rows, there=lambda name: name in rows.there, clock=lambda: now[0])
    with pytest.raises(HostFailure):
        await devices.ensure()
    there, rows.there = rows.there, {"ovsnet0", "br-int"}
    assert await devices.ensure() == []
    assert devices.trouble() is None
    rows.there = there
    now[0] += 5
    with pytest.raises(HostFailure):
        await devices.ensure()
    assert rows.log == []


async def test_ovs_vswitchd_is_asked_once_more_for_a_port_that_it_could_not_open() -> None:
    """It would not try again by itself, whatever has changed around it."""
    rows = Rows()
    devices = Devices(rows, there=lambda name: True)
    rows.refused = ["ovs-vswitchd can't open port ovsnet0: Device or resource busy"]
    assert await devices.ensure() == []
    assert rows.log == [Confirm(), "seen"]
    rows.refused = ["busy", "busy"]
    with pytest.raises(OvsnetError, match="busy"):
        await devices.ensure()
    assert rows.log == [Confirm(), "seen"] * 2


async def test_nobody_is_asked_again_for_a_port_that_somebody_removed() -> None:
    rows = Rows()
    del rows.rows["ovsnet0"]
    rows.refused = ["bridge br-int has no port ovsnet0"]
    with pytest.raises(OvsnetError, match="has no port"):
        await Devices(rows, there=lambda name: True).ensure()
    assert rows.log == []
