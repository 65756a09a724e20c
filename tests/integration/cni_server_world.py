"""A CNI server with a backend in memory, and an executable that calls it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
import subprocess
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import cni_programs
import pytest
import pytest_asyncio
from cni_programs import Program

from ovsnet.cni.protocol import Request
from ovsnet.cni.result import AddResult, Interface, attachment
from ovsnet.cni.server import CniServer
from ovsnet.errors import AlreadyAttached, AttachmentBroken, LimitedConnectivity, RangeExhausted

Key = tuple[str, str]


def config(**keys: Any) -> bytes:
    """A network configuration with these keys."""
    return json.dumps({"cniVersion": "1.1.0", "name": "ovsnet", "type": "ovsnet", **keys}).encode()


CONFIG = config()
python_only = pytest.mark.parametrize("program", ["python"], indirect=True)
"""For what the executable in Python has alone, and for what concerns the server alone."""


class Memory:
    """A backend that keeps its promises, in memory: ten addresses, one for each attachment."""

    def __init__(self) -> None:
        self.attached: dict[Key, ipaddress.IPv4Interface] = {}
        self.namespaces: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.limited = False

    async def add(self, request: Request) -> AddResult:
        key = request.container, request.ifname
        if key in self.attached:
            raise AlreadyAttached(f"{request.title} has {request.ifname} already", "DEL it first")
        if len(self.attached) == 64:
            raise RangeExhausted("10.1.0.0/24: 64 of 64 in use", "delete pods")
        if request.ifname == "defect":
            raise ZeroDivisionError("a defect")
        taken = set(self.attached.values())
        free = (ipaddress.IPv4Interface(f"10.1.0.{host}/24") for host in range(2, 66))
        address = self.attached[key] = next(each for each in free if each not in taken)
        self.entered.set()
        await self.gate.wait()
        assert request.netns_fd is not None
        self.namespaces.append(os.fstat(request.netns_fd).st_ino)
        gateway = ipaddress.ip_address("10.1.0.1")
        container = Interface(name=request.ifname, mac="0a:58:0a:01:00:02", sandbox=request.netns)
        return attachment(Interface(name="pod-1"), container, [(address, gateway)], [])

    async def delete(self, request: Request) -> None:
        self.attached.pop((request.container, request.ifname), None)

    async def check(self, request: Request) -> None:
        key = request.container, request.ifname
        assert request.previous is not None
        if key not in self.attached or self.attached[key].ip not in request.previous.addresses(
            request.ifname
        ):
            raise AttachmentBroken(f"{request.title} is not as ADD left it", "delete the pod")

    async def gc(self, request: Request) -> None:
        keep = {(each.container, each.ifname) for each in request.valid}
        self.attached = {key: address for key, address in self.attached.items() if key in keep}

    async def status(self, request: Request) -> None:
        if self.limited:
            raise LimitedConnectivity("ovs-vswitchd is away", "start it")

    async def audit(self) -> None:
        return None

    def health(self) -> dict[str, object]:
        return {"attachments": len(self.attached)}


class World:
    """A server with its backend, and ways to call it."""

    def __init__(self, folder: Path, netns: str, program: Program) -> None:
        self.path = folder / "run" / "agent.sock"
        self.backend = Memory()
        self.server = CniServer(self.path, self.backend, delivery=0.5)
        self.executable = folder / "ovsnet"
        self.command = program.put(folder)
        self.netns = netns

    async def process(self, command: str, variables: Mapping[str, str] | None = None) -> Process:
        """The executable, with sound variables but those given; an empty one is left out."""
        sound = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": self.netns,
            "CNI_PATH": "/opt/cni/bin",
            "OVSNET_SOCKET": str(self.path),
        }
        return await asyncio.create_subprocess_exec(
            *self.command,
            env={name: value for name, value in (sound | dict(variables or {})).items() if value},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def run(
        self, command: str, stdin: bytes = CONFIG, variables: Mapping[str, str] | None = None
    ) -> tuple[int | None, Any]:
        """Exit code and the decoded answer, None for no output."""
        process = await self.process(command, variables)
        stdout, stderr = await process.communicate(stdin)
        assert b"Traceback" not in stderr, stderr.decode()
        return process.returncode, json.loads(stdout) if stdout else None

    async def refusal(
        self, command: str, stdin: bytes = CONFIG, variables: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Code and message of an error in the specification's shape."""
        status, answer = await self.run(command, stdin, variables)
        assert status == 1
        assert {"cniVersion", "code", "msg"} <= set(answer)
        return answer["code"], answer["msg"]


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    """A network namespace that lives as long as the process that holds it."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    yield f"/proc/{holder.pid}/ns/net"
    holder.kill()
    holder.wait()
    holder.stdout.close()


@pytest.fixture(params=cni_programs.KINDS)
def program(request: pytest.FixtureRequest) -> Program:
    """One after the other."""
    return cni_programs.program(request.param)


@pytest_asyncio.fixture
async def world(tmp_path: Path, netns: str, program: Program) -> AsyncIterator[World]:
    world = World(tmp_path, netns, program)
    await world.server.start()
    before = len(os.listdir("/proc/self/fd"))
    yield world
    world.backend.gate.set()
    await settled()
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"
    await world.server.close()
    assert not world.path.exists()


async def settled() -> None:
    """Until every connection's task has ended."""
    requests = [task for task in asyncio.all_tasks() if task.get_name() == "cni-request"]
    if requests:
        await asyncio.wait(requests, timeout=10)


def connect(world: World) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(world.path))
    connection.settimeout(5)
    return connection


async def closed_by_server(connection: socket.socket) -> bytes:
    """What the server answers until it closes."""
    connection.setblocking(False)
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(5):
            while chunk := await asyncio.get_running_loop().sock_recv(connection, 4096):
                chunks.append(chunk)
    connection.close()
    return b"".join(chunks)
