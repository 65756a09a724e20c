"""When ovs-vswitchd is let go on, and when the next one is to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from ovsnet.agent.arming import Arming
from ovsnet.errors import SwitchUnavailable
from ovsnet.rows import Change, KeepDevices, PortRow, SetRestoreWait


class Rows:
    """The database, and a vswitchd that looks at the key until it first finds it gone."""

    def __init__(self, *, wait: bool) -> None:
        self.restore_wait = wait
        self.vswitchd_waits = wait
        self.hangs = False
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.devices: frozenset[str] = frozenset()
        self.kept: frozenset[str] = frozenset()

    def restart(self) -> None:
        self.vswitchd_waits = self.restore_wait
        self.kept = self.devices

    @property
    def keeps_devices(self) -> bool:
        return bool(self.devices)

    def ports(self) -> Mapping[str, PortRow]:
        return {
            row.name: row
            for row in (
                PortRow(name="pod-a", ofport=16),
                PortRow(name="vxl-a", type="vxlan", ofport=20000),
                PortRow(name="vxl-b", type="vxlan", options={"dst_port": "8472"}, ofport=20001),
                PortRow(name="gen-c", type="geneve", ofport=20002),
                PortRow(name="gre-d", type="gre", ofport=-1),
                PortRow(name="gre-e", type="ip6gre"),
            )
        }

    async def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, KeepDevices):
                self.devices = change.devices
            else:
                assert isinstance(change, SetRestoreWait)
                self.restore_wait = change.wait

    async def wait_configured(self, patience: float) -> None:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        if self.hangs:
            raise SwitchUnavailable("vswitchd does not look")
        self.vswitchd_waits = self.vswitchd_waits and self.restore_wait


@pytest.mark.parametrize("wait", [True, False])
async def test_it_goes_on_now_and_waits_the_next_time(wait: bool) -> None:
    rows = Rows(wait=wait)
    arming = Arming(rows)
    for _ in range(3):
        await arming.settle()
        assert (rows.vswitchd_waits, rows.restore_wait) == (False, True)
    await arming.away()
    rows.restart()
    assert rows.vswitchd_waits
    await arming.settle()
    assert (rows.vswitchd_waits, rows.restore_wait) == (False, True)


async def test_devices_of_tunnels_that_were_there_are_kept_until_all_is_settled() -> None:
    rows = Rows(wait=True)
    arming = Arming(rows)
    for _ in range(2):
        await arming.away()
    rows.restart()
    assert rows.kept == {"vxlan_sys_4789", "vxlan_sys_8472", "genev_sys_6081"}
    await arming.settle()
    assert not rows.devices
    rows.restart()
    assert not rows.kept


async def test_one_that_has_not_seen_it_yet_is_waited_for_again() -> None:
    rows = Rows(wait=True)
    arming = Arming(rows)
    rows.hangs = True
    with pytest.raises(SwitchUnavailable):
        await arming.settle()
    assert not rows.restore_wait, "not set again before it was seen"
    rows.hangs = False
    await arming.settle()
    assert (rows.vswitchd_waits, rows.restore_wait) == (False, True)


async def test_what_somebody_took_away_is_set_again() -> None:
    rows = Rows(wait=False)
    arming = Arming(rows)
    await arming.settle()
    rows.restore_wait = False
    await arming.settle()
    assert rows.restore_wait


async def test_one_that_dies_before_the_next_is_to_wait_is_followed_by_one_that_waits() -> None:
    rows = Rows(wait=True)
    arming = Arming(rows)
    rows.meanwhile = arming.away
    await arming.settle()
    assert rows.restore_wait
    rows.restart()
    assert rows.vswitchd_waits
    assert rows.kept
    await arming.settle()
    assert (rows.vswitchd_waits, rows.restore_wait, rows.devices) == (False, True, frozenset())
