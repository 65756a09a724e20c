"""Changes of rows against a real ovsdb-server and ovs-vswitchd."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json

import pytest
from ovs_sandbox import Sandbox, sandbox
from ovsdb_world import BRIDGE, MARK, connected, driven, has_ports, pod_port, stopped, tunnel, until

from ovsnet import names
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.rows import (
    AddPort,
    DeletePort,
    KeepDevices,
    PortSpec,
    SetIdentity,
    SetPort,
    SetReleased,
    SetRestoreWait,
)

__all__ = ["sandbox", "stopped"]


async def test_adopts_what_an_earlier_run_left(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        await database.apply([AddPort(spec=pod_port(1)), AddPort(spec=tunnel(1))])
        await database.wait_ofports([pod_port(1).name, tunnel(1).name], 10)
        left = database.ports()
    async with connected(sandbox) as database:
        assert database.ports() == left
        await database.apply([BRIDGE, AddPort(spec=pod_port(1))])
        assert database.ports() == left


async def test_keys_and_rows_of_others_stay_as_they_are(sandbox: Sandbox) -> None:
    sandbox.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=dummy")
    sandbox.vsctl("set", "bridge", "br-int", "external_ids:theirs=1", "other_config:hwaddr=02:00:00:00:00:01")
    sandbox.vsctl("set", "bridge", "br-int", "external_ids:ovsnet=bridge")
    async with connected(sandbox) as database:
        await database.apply([AddPort(spec=pod_port(1))])
        sandbox.vsctl("add-port", "br-int", "eth9", "--", "set", "port", "eth9", "external_ids:a=b")
        sandbox.vsctl("set", "port", pod_port(1).name, "external_ids:theirs=2")
        ids = {names.OWNER: names.ROLE_POD, names.KEY_POD: "web"}
        await database.apply(
            [SetIdentity(name=pod_port(1).name, external_ids=ids), SetReleased(value="10.0.0.1=5")]
        )
        await database.apply([SetIdentity(name=pod_port(1).name, external_ids=MARK), BRIDGE])
        assert database.ports()[pod_port(1).name].external_ids == MARK | {"theirs": "2"}
        row = database.bridge()
        assert row is not None
        assert row.external_ids == {
            "theirs": "1",
            names.OWNER: names.ROLE_BRIDGE,
            names.KEY_RELEASED: "10.0.0.1=5",
        }
        assert row.other_config == {"hwaddr": "02:00:00:00:00:01", "disable-in-band": "true"}
        await database.apply([SetReleased(value="")])
        row = database.bridge()
        assert row is not None
        assert names.KEY_RELEASED not in row.external_ids
        theirs = database.port("eth9")
        assert theirs is not None
        assert theirs.role is None
        for change in (
            AddPort(spec=PortSpec(name="eth9", external_ids=MARK)),
            SetPort(spec=PortSpec(name="eth9", external_ids=MARK)),
            SetIdentity(name="eth9", external_ids=MARK),
            DeletePort(name="eth9"),
        ):
            with pytest.raises(OvsnetError, match="port eth9 exists on bridge br-int and is not ovsnet's"):
                await database.apply([change])
        assert database.port("eth9") == theirs


@pytest.mark.parametrize("ports", [[], ["eth9"]], ids=["empty", "with a port"])
async def test_a_bridge_of_somebody_else_is_refused_until_it_is_handed_over(
    sandbox: Sandbox, ports: list[str]
) -> None:
    sandbox.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=dummy")
    for port in ports:
        sandbox.vsctl("add-port", "br-int", port)
    async with driven(sandbox.remote) as database:
        await database.wait_connected()
        before = sandbox.vsctl("list", "bridge", "br-int")
        with pytest.raises(OvsnetError, match="bridge br-int exists and is not ovsnet's") as refused:
            await database.apply([BRIDGE])
        assert sandbox.vsctl("list", "bridge", "br-int") == before
        command = refused.value.hint.partition("hand it over: ovs-vsctl ")[2].partition(";")[0]
        sandbox.vsctl(*command.split())
        await until(
            database, lambda: (row := database.bridge()) is not None and names.OWNER in row.external_ids
        )
        await database.apply([BRIDGE])
        assert set(database.ports()) == {"br-int", *ports}


async def test_a_bridge_that_lost_its_mark_alone_is_still_ours(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        sandbox.vsctl("clear", "bridge", "br-int", "external_ids")
        await until(database, lambda: (row := database.bridge()) is not None and not row.external_ids)
        await database.apply([BRIDGE])
        row = database.bridge()
        assert row is not None
        assert row.external_ids == {names.OWNER: names.ROLE_BRIDGE}


async def test_a_port_of_another_bridge_is_refused(sandbox: Sandbox) -> None:
    sandbox.vsctl("add-br", "br-ex", "--", "add-port", "br-ex", pod_port(1).name)
    async with connected(sandbox) as database:
        with pytest.raises(OvsnetError, match="is in bridge br-ex, not in br-int"):
            await database.apply([AddPort(spec=pod_port(1))])


async def test_a_port_is_brought_in_line_and_replaced_in_one_transaction(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        before, after = tunnel(1), tunnel(2)
        await database.apply([AddPort(spec=before)])
        changed = PortSpec(
            name=before.name,
            type="vxlan",
            options=after.options,
            external_ids=after.external_ids,
            mtu_request=1400,
        )
        await database.apply([SetPort(spec=changed)])
        row = database.ports()[before.name]
        assert (row.options, row.external_ids, row.mtu_request) == (after.options, after.external_ids, 1400)
        assert row.ofport_request == before.ofport_request
        geneve = PortSpec(
            name=before.name, type="geneve", options={"remote_ip": "192.0.2.9"}, external_ids=MARK
        )
        await database.apply([DeletePort(name=before.name), AddPort(spec=geneve)])
        row = database.ports()[before.name]
        assert (row.type, row.options) == ("geneve", {"remote_ip": "192.0.2.9"})
        assert await database.wait_ofports([before.name], 10)
        await database.apply([DeletePort(name=before.name), DeletePort(name="nobody")])
        assert before.name not in database.ports()
        assert before.name not in sandbox.vsctl("list-ports", "br-int")


async def test_changes_that_are_under_way_at_once_all_happen(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        await asyncio.gather(*(database.apply([AddPort(spec=pod_port(number))]) for number in range(40)))
        assert len(database.ports()) == 41
        removals = [database.apply([DeletePort(name=pod_port(number).name)]) for number in range(0, 40, 2)]
        additions = [database.apply([AddPort(spec=pod_port(number))]) for number in range(40, 60)]
        await asyncio.gather(*removals, *additions)
        wanted = {"br-int", *(pod_port(number).name for number in [*range(1, 40, 2), *range(40, 60)])}
        assert set(database.ports()) == wanted == {"br-int", *sandbox.vsctl("list-ports", "br-int").split()}


async def test_who_shares_a_transaction_does_not_share_its_failure(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        bad = PortSpec(name="bad", external_ids=MARK, ofport_request=99_999_999)
        specs = [pod_port(1), bad, pod_port(2), pod_port(3)]
        outcomes = await asyncio.gather(
            *(database.apply([AddPort(spec=spec)]) for spec in specs), return_exceptions=True
        )
        assert isinstance(outcomes[1], OvsnetError)
        assert outcomes[0] is outcomes[2] is outcomes[3] is None
        assert set(database.ports()) == {"br-int", *(pod_port(number).name for number in (1, 2, 3))}


async def test_of_two_lists_of_released_addresses_the_later_stays(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        await asyncio.gather(*(database.apply([SetReleased(value=f"10.0.0.{last}=5")]) for last in (1, 2, 3)))
        assert (
            sandbox.vsctl("get", "bridge", "br-int", f"external_ids:{names.KEY_RELEASED}") == '"10.0.0.3=5"\n'
        )


async def test_vswitchd_waits_for_flows_until_the_key_goes(sandbox: Sandbox) -> None:
    """And tells when it has seen that; what others have in other_config stays."""
    async with connected(sandbox) as database:
        sandbox.vsctl("set", "Open_vSwitch", ".", "other_config:theirs=kept")
        for _ in range(2):
            await database.apply([SetRestoreWait(wait=True)])
            assert database.restore_wait
        await database.wait_configured(10)
        before = sandbox.vsctl("get", "Open_vSwitch", ".", "cur_cfg")
        await database.apply([SetRestoreWait(wait=False)])
        assert not database.restore_wait
        await database.wait_configured(10)
        assert int(sandbox.vsctl("get", "Open_vSwitch", ".", "cur_cfg")) > int(before)
        assert sandbox.vsctl("get", "Open_vSwitch", ".", "other_config") == "{theirs=kept}\n"


async def test_names_of_devices_stand_in_a_bridge_that_vswitchd_ignores(sandbox: Sandbox) -> None:
    """They are no ports of ours, and go without a trace."""
    async with connected(sandbox) as database:
        await database.apply([SetReleased(value="10.0.0.1=5")])
        before = set(database.ports())
        for devices in ({"vxlan_sys_4789", "genev_sys_6081"}, {"vxlan_sys_4789"}):
            await database.apply([KeepDevices(devices=frozenset(devices))])
            assert database.keeps_devices
            assert set(sandbox.vsctl("list-ports", "br-int/kept").split()) == devices
        assert set(database.ports()) == before
        await database.apply([KeepDevices(devices=frozenset()), AddPort(spec=pod_port(1))])
        assert not database.keeps_devices
        assert set(database.ports()) - before == {pod_port(1).name}
        assert "sys" not in sandbox.vsctl("--columns=name", "list", "Interface")
        assert sandbox.vsctl("list-br").split() == ["br-int"]


async def test_two_clients_lose_nothing_of_each_other(sandbox: Sandbox) -> None:
    async with connected(sandbox) as one, connected(sandbox) as two:
        await asyncio.gather(
            *(client.apply([AddPort(spec=pod_port(2 * number + which))])
              for number in range(20) for which, client in enumerate((one, two)))
        )  # fmt: skip
        for client in (one, two):
            await until(client, functools.partial(has_ports, client, 41))
        assert one.ports().keys() == two.ports().keys()


async def test_a_port_that_another_client_removed_meanwhile_is_reported(sandbox: Sandbox) -> None:
    async with connected(sandbox) as one, connected(sandbox) as two:
        await one.apply([AddPort(spec=pod_port(1))])
        await until(two, lambda: two.port(pod_port(1).name) is not None)
        removal = asyncio.create_task(one.apply([DeletePort(name=pod_port(1).name)]))
        identity = asyncio.create_task(
            two.apply([SetIdentity(name=pod_port(1).name, external_ids={"ovsnet": "pod"})])
        )
        await removal
        with contextlib.suppress(OvsnetError):  # it may have come first
            await identity
        with pytest.raises(OvsnetError, match=f"bridge br-int has no port {pod_port(1).name}"):
            await two.apply([SetIdentity(name=pod_port(1).name, external_ids={"ovsnet": "pod"})])


async def test_the_server_refuses_in_its_own_words_and_nothing_of_it_happens(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        bad = PortSpec(name="bad", external_ids=MARK, ofport_request=99_999_999)
        with pytest.raises(OvsnetError, match=r"constraint violation.*99999999") as refused:
            await database.apply([AddPort(spec=pod_port(1)), AddPort(spec=bad)])
        assert not isinstance(refused.value, SwitchUnavailable)
        assert set(database.ports()) == {"br-int"}


async def test_an_identity_writes_one_column_and_does_not_call_vswitchd(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        await database.apply([AddPort(spec=pod_port(1))])
        await database.wait_ofports([pod_port(1).name], 10)
        asked = sandbox.vsctl("--no-wait", "get", "Open_vSwitch", ".", "next_cfg")
        monitor = await asyncio.create_subprocess_exec(
            "ovsdb-client", "monitor", sandbox.remote, "Open_vSwitch", "ALL", "--format=json", stdout=-1, limit=1 << 20
        )  # fmt: skip
        assert monitor.stdout is not None
        try:
            seen = await _heading(monitor.stdout, set())
            await database.apply([SetIdentity(name=pod_port(1).name, external_ids={"ovsnet": "pod"})])
            tables = await _heading(monitor.stdout, seen)
        finally:
            monitor.kill()
            await monitor.wait()
        assert tables == {"Port"}
        assert sandbox.vsctl("--no-wait", "get", "Open_vSwitch", ".", "next_cfg") == asked


async def _heading(stream: asyncio.StreamReader, seen: set[str]) -> set[str]:
    """Captions of the tables that the monitor prints until it is quiet for a moment."""
    found: set[str] = set()
    with contextlib.suppress(TimeoutError):
        while True:
            line = await asyncio.wait_for(stream.readline(), 5.0 if not found else 0.5)
            found.add(json.loads(line)["caption"].split()[0])
    return found


async def test_what_vswitchd_can_not_open_is_told_in_its_words(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        bad = PortSpec(name="gre-bad", type="gre", external_ids=MARK)
        await database.apply([AddPort(spec=bad)])
        with pytest.raises(OvsnetError, match=r"can't open port gre-bad: .*requires valid 'remote_ip'"):
            await database.wait_ofports(["gre-bad"], 10)
        with pytest.raises(OvsnetError, match="has no port nobody"):
            await database.wait_ofports(["nobody"], 10)
        sandbox.vswitchd.freeze()
        await database.apply([AddPort(spec=pod_port(1)), AddPort(spec=pod_port(2))])
        with pytest.raises(
            SwitchUnavailable, match=f"did not take up port {pod_port(1).name} and 1 more within 0.3 s"
        ):
            await database.wait_ofports([pod_port(1).name, pod_port(2).name], 0.3)
        sandbox.vswitchd.thaw()
        assert await database.wait_ofports([pod_port(1).name, pod_port(2).name], 10) == {
            pod_port(1).name: 101,
            pod_port(2).name: 102,
        }
