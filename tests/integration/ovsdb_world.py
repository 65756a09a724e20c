"""A client of a sandbox's OVSDB, and rows to be put in, for tests of `switch.ovsdb`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from ovs_sandbox import Sandbox, installed

from ovsnet import names
from ovsnet.rows import (
    BridgeSpec,
    PortSpec,
    SetBridge,
)
from ovsnet.switch.ovsdb import Ovsdb

BRIDGE = SetBridge(
    spec=BridgeSpec(
        name="br-int",
        datapath_type="dummy",
        other_config={"disable-in-band": "true"},
        external_ids={names.OWNER: names.ROLE_BRIDGE},
    )
)
MARK = {names.OWNER: names.ROLE_TUNNEL}


@contextlib.asynccontextmanager
async def driven(remote: str, patience: float = 10) -> AsyncIterator[Ovsdb]:
    """A connection that is driven while the block runs; not yet connected."""
    database = Ovsdb(remote, "br-int", patience)
    driver = asyncio.create_task(database.run())
    try:
        yield database
    finally:
        driver.cancel()
        await asyncio.gather(driver, return_exceptions=True)


@contextlib.asynccontextmanager
async def connected(ovs: Sandbox) -> AsyncIterator[Ovsdb]:
    """With our bridge in place."""
    async with driven(ovs.remote) as database:
        async with asyncio.timeout(10):
            await database.wait_connected()
        await database.apply([BRIDGE])
        yield database


@pytest.fixture
def stopped() -> Iterator[Sandbox]:
    """A database whose server does not run yet."""
    if not installed():
        pytest.skip("Open vSwitch is not installed")
    ovs = Sandbox()
    try:
        ovs.create()
        yield ovs
    finally:
        ovs.stop()


def pod_port(number: int) -> PortSpec:
    return PortSpec(name=f"pod-{number:08x}", external_ids=MARK, ofport_request=100 + number)


def tunnel(number: int) -> PortSpec:
    return PortSpec(
        name=f"vxl-{number:08x}",
        type="vxlan",
        options={"remote_ip": f"192.0.{number // 250}.{number % 250 + 1}", "key": "1", "dst_port": "4789"},
        external_ids={names.OWNER: names.ROLE_TUNNEL, names.KEY_PEER: f"node-{number}"},
        ofport_request=20000 + number,
    )


def has_ports(database: Ovsdb, count: int) -> bool:
    return len(database.ports()) == count


class Hush:
    """Stands between a client and the server; while `silent` the client hears answers, but nothing of changes."""

    def __init__(self, ovs: Sandbox) -> None:
        self._ovs = ovs
        self._tasks: list[asyncio.Task[None]] = []
        self.silent = False
        self.remote = f"unix:{ovs.folder}/hush"

    async def __aenter__(self) -> Hush:
        self._server = await asyncio.start_unix_server(self._serve, self.remote.removeprefix("unix:"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_unix_connection(self._ovs.remote.removeprefix("unix:"))
        self._tasks += [
            asyncio.create_task(self._pass(client, to_server)),
            asyncio.create_task(self._pass(server, to_client)),
        ]

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        text = ""
        while data := await source.read(1 << 20):
            text += data.decode()
            with contextlib.suppress(json.JSONDecodeError):
                while text:
                    message, end = json.JSONDecoder().raw_decode(text)
                    if not (self.silent and str(message.get("method")).startswith("update")):
                        target.write(text[:end].encode())
                    text = text[end:].lstrip()
        target.close()


async def until(database: Ovsdb, condition: Callable[[], bool]) -> None:
    """Waits until the rows fulfil a condition."""
    news = asyncio.Event()
    database.subscribe(news.set)
    async with asyncio.timeout(10):
        while not condition():
            news.clear()
            await news.wait()
