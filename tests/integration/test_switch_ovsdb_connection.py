"""The connection to ovsdb-server: one that is missing, dies, comes back with other rows, or has many."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import pytest
from ovs_sandbox import Sandbox, sandbox
from ovsdb_world import BRIDGE, MARK, Hush, connected, driven, pod_port, stopped, tunnel, until

from ovsnet import names
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.rows import (
    AddPort,
    DeletePort,
    SetIdentity,
)

__all__ = ["sandbox", "stopped"]


async def test_waits_for_a_server_that_is_missing_and_says_so_once(
    stopped: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ovsnet.switch")
    async with driven(stopped.remote) as database:
        await asyncio.sleep(1.5)
        assert not database.connected
        assert [record.message for record in caplog.records] == [
            f"ovsdb-server at {stopped.remote} does not answer; waiting for it"
        ]
        with pytest.raises(SwitchUnavailable, match="does not answer"):
            await database.apply([BRIDGE])
        await asyncio.to_thread(stopped.ovsdb.start)
        async with asyncio.timeout(10):
            await database.wait_connected()
        assert caplog.records[-1].message.startswith(f"ovsdb-server at {stopped.remote} is back")
        assert database.bridge() is None
        assert database.ports() == {}


async def test_makes_the_bridge_in_a_database_that_was_never_used(stopped: Sandbox) -> None:
    stopped.ovsdb.start()
    stopped.vswitchd.start()
    async with connected(stopped) as database:
        row = database.bridge()
        assert row is not None
        assert (row.datapath_type, row.fail_mode) == ("dummy", "secure")
        assert database.ports()["br-int"].role == names.ROLE_BRIDGE
        assert await database.wait_ofports(["br-int"], 10) == {"br-int": 65534}
        assert "dummy" in database.datapath_types


async def test_a_server_that_does_not_answer_is_told_from_rows_that_are_never_as_they_seem(
    sandbox: Sandbox,
) -> None:
    async with connected(sandbox) as other, Hush(sandbox) as hush, driven(hush.remote, 1.0) as database:
        await other.apply([AddPort(spec=pod_port(1))])
        await database.wait_connected()
        change = SetIdentity(name=pod_port(1).name, external_ids={"ovsnet": "pod"})
        hush.silent = True
        await other.apply([DeletePort(name=pod_port(1).name)])
        with pytest.raises(SwitchUnavailable, match=r"not what they seemed, in \d+ attempts within 1 s"):
            await database.apply([change])
        sandbox.ovsdb.freeze()
        with pytest.raises(SwitchUnavailable, match="did not answer within 1 s"):
            await database.apply([change])
        sandbox.ovsdb.thaw()


async def test_survives_the_death_of_the_server(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ovsnet.switch")
    async with connected(sandbox) as database:
        await database.apply([AddPort(spec=pod_port(1))])
        sandbox.ovsdb.freeze()
        pending = asyncio.create_task(database.apply([AddPort(spec=pod_port(2))]))
        await asyncio.sleep(0.1)
        sandbox.ovsdb.kill()
        with pytest.raises(SwitchUnavailable, match="lost during a change"):
            await pending
        assert not database.connected
        assert pod_port(1).name in database.ports()
        told: list[bool] = []
        database.subscribe(lambda: told.append(database.connected))
        await asyncio.to_thread(sandbox.ovsdb.start)
        async with asyncio.timeout(10):
            await database.wait_connected()
        assert told == [True]
        assert set(database.ports()) == {"br-int", pod_port(1).name}
        await database.apply([AddPort(spec=pod_port(3)), DeletePort(name=pod_port(1).name)])
        assert set(database.ports()) == {"br-int", pod_port(3).name}
        words = [record.message for record in caplog.records]
        assert words == [
            f"ovsdb-server at {sandbox.remote} went away; waiting for it",
            f"ovsdb-server at {sandbox.remote} is back: 2 ports",
        ]


async def test_rows_that_vanished_while_the_server_was_away_are_gone(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        await database.apply([AddPort(spec=pod_port(number)) for number in range(3)])
        sandbox.vswitchd.kill()
        sandbox.ovsdb.kill()
        (sandbox.folder / "conf.db").unlink()
        sandbox.create()
        await until(database, lambda: not database.connected)
        await asyncio.to_thread(sandbox.ovsdb.start)
        async with asyncio.timeout(10):
            await database.wait_connected()
        assert database.bridge() is None
        assert database.ports() == {}


async def test_a_change_for_a_server_that_just_died_takes_nobodys_descriptor(sandbox: Sandbox) -> None:
    """What can't be sent closes the socket; the next one that is opened has its number, and is waited for, too."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    opened: list[socket.socket] = []

    def listen() -> None:
        opened.extend(socket.socketpair())
        loop.add_reader(opened[0], heard.set)

    def die() -> None:
        """Before the change is sent, and before its end is heard of; what comes next opens a socket."""
        sandbox.ovsdb.kill()
        loop.call_soon(listen)

    async with connected(sandbox) as database:
        change = asyncio.create_task(database.apply([AddPort(spec=pod_port(1))]))
        loop.call_soon(die)
        async with asyncio.timeout(10):
            with pytest.raises(SwitchUnavailable):
                await change
            await asyncio.to_thread(sandbox.ovsdb.start)
            await database.wait_connected()
            opened[1].send(b"x")
            await heard.wait()
        loop.remove_reader(opened[0])
        for each in opened:
            each.close()
        await database.apply([AddPort(spec=pod_port(1))])


async def test_a_bridge_that_is_removed_and_made_again_is_followed(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        await database.apply([AddPort(spec=pod_port(1))])
        sandbox.vsctl("del-br", "br-int")
        await until(database, lambda: database.bridge() is None)
        assert database.ports() == {}
        with pytest.raises(OvsnetError, match="bridge br-int does not exist"):
            await database.apply([AddPort(spec=pod_port(1))])
        await database.apply([BRIDGE, AddPort(spec=pod_port(2))])
        assert set(database.ports()) == {"br-int", pod_port(2).name}


async def test_a_thousand_tunnels_are_one_cheap_transaction(sandbox: Sandbox) -> None:
    specs = [tunnel(number) for number in range(1000)]
    async with connected(sandbox) as database:
        busy = time.process_time()
        await database.apply([AddPort(spec=spec) for spec in specs])
        numbers = await database.wait_ofports([spec.name for spec in specs], 60)
        assert numbers == {spec.name: spec.ofport_request for spec in specs}
        assert time.process_time() - busy < 1.0
        async with connected(sandbox) as other:
            busy = time.process_time()
            async with driven(sandbox.remote) as third:
                await third.wait_connected()
                assert time.process_time() - busy < 0.3
                assert third.ports() == other.ports() == database.ports()
        before = database.ports()
        busy = time.process_time()
        await database.apply([SetIdentity(name=specs[0].name, external_ids=MARK)])
        assert time.process_time() - busy < 0.05
        assert [name for name, row in database.ports().items() if before[name] is not row] == [specs[0].name]


async def test_an_idle_connection_costs_nothing(sandbox: Sandbox) -> None:
    async with connected(sandbox) as database:
        await database.wait_ofports(["br-int"], 10)
        await asyncio.sleep(0.5)
        busy = time.process_time()
        await asyncio.sleep(2)
        assert time.process_time() - busy < 0.02
