"""Both executables against the server over a real socket: answers, faults, and many at once.

That the two do the same byte by byte is in `test_cni_executables`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cni_programs import Program
from cni_server_world import (
    CONFIG,
    Memory,
    World,
    closed_by_server,
    config,
    connect,
    netns,
    program,
    python_only,
    settled,
    world,
)

from ovsnet.cni import client, framing
from ovsnet.cni.server import CniServer
from ovsnet.errors import HostFailure

__all__ = ["netns", "program", "world"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


async def test_the_life_of_an_attachment(world: World) -> None:
    code, added = await world.run("ADD")
    assert code == 0
    assert added["interfaces"][1] == {"name": "eth0", "mac": "0a:58:0a:01:00:02", "sandbox": world.netns}
    assert added["ips"] == [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}]
    assert world.backend.namespaces == [os.stat(world.netns).st_ino], "the namespace arrived as a descriptor"
    assert await world.refusal("ADD") == (100, "c1 (eth0) has eth0 already")
    assert await world.run("CHECK", config(prevResult=added)) == (0, None)
    assert await world.run("STATUS") == (0, None)
    assert await world.run(
        "GC", config(**{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]})
    ) == (0, None)
    assert len(world.backend.attached) == 1
    assert (await world.refusal("GC"))[0] == 7
    assert len(world.backend.attached) == 1
    assert await world.run("DEL") == (0, None)
    assert await world.run("DEL", variables={"CNI_NETNS": ""}) == (0, None)
    assert await world.run("DEL", variables={"CNI_NETNS": "/gone"}) == (0, None)
    assert (await world.refusal("CHECK", config(prevResult=added)))[0] == 102
    assert await world.run("ADD") == (0, added)
    assert await world.run("GC", config(**{"cni.dev/valid-attachments": []})) == (0, None)
    assert not world.backend.attached


async def test_version_and_usage_need_no_agent(tmp_path: Path, netns: str, program: Program) -> None:
    world = World(tmp_path, netns, program)
    versions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    expected = {"cniVersion": "0.4.0", "supportedVersions": versions}
    assert await world.run("VERSION", b'{"cniVersion": "0.4.0"}') == (0, expected)
    assert await world.run("VERSION", b"") == (0, {"cniVersion": "1.1.0", "supportedVersions": versions})
    process = await world.process("")
    stdout, stderr = await process.communicate(b"")
    assert (process.returncode, json.loads(stdout)["code"]) == (1, 4)
    assert b"called by container runtimes" in stderr


async def test_closed_standard_streams(world: World) -> None:
    environment = {"CNI_COMMAND": "STATUS", "OVSNET_SOCKET": str(world.path), "OVSNET_TIMEOUT": "1"}
    run = " ".join(world.command)
    for line, status, said in (
        (f"{run} <&-", 1, b'"code": 5, "msg": "stdin: Bad file descriptor"'),
        (f"sleep 2 | {run}", 1, b'"code": 5, "msg": "stdin: it has no end"'),
        (f"CNI_COMMAND=VERSION {run} </dev/null >&-", 1, b""),
        (f"CNI_COMMAND=VERSION {run} </dev/null >/dev/full", 1, b""),
    ):
        process = await asyncio.create_subprocess_shell(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        stdout, stderr = await process.communicate()
        assert (process.returncode, stderr) == (status, b"")
        assert said in stdout


@pytest.mark.skipif(shutil.which("/usr/bin/python3") is None, reason="the system has no Python")
async def test_the_file_runs_by_itself(world: World) -> None:
    environment = {"CNI_COMMAND": "STATUS", "OVSNET_SOCKET": str(world.path)}
    process = await asyncio.create_subprocess_exec(
        world.executable, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    stdout, _ = await process.communicate(b'{"cniVersion": "1.1.0", "name": "ovsnet"}')
    assert (process.returncode, stdout) == (0, b"")


async def test_the_configuration_names_the_socket(world: World) -> None:
    nowhere = {"OVSNET_SOCKET": ""}
    assert await world.run("STATUS", config(agentSocket=str(world.path)), nowhere) == (0, None)
    spaced = b'{"cniVersion": "1.1.0", "name": "n", "agentSocket" :\n "%s"}' % os.fsencode(world.path)
    assert await world.run("STATUS", spaced, nowhere) == (0, None)


@pytest.mark.parametrize(
    ("command", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)]
)
async def test_without_an_agent(
    tmp_path: Path, netns: str, program: Program, command: str, code: int
) -> None:
    world = World(tmp_path, netns, program)
    status, answer = await world.run(command, config(cniVersion="0.4.0"))
    assert (status, answer["code"], answer["cniVersion"]) == (1, code, "0.4.0")
    assert str(world.path) in answer["msg"]
    assert "start" in answer["details"]


async def test_a_stale_socket_is_no_agent_and_is_replaced(
    tmp_path: Path, netns: str, program: Program
) -> None:
    world = World(tmp_path, netns, program)
    world.path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(world.path))
    assert (await world.refusal("ADD"))[0] == 11
    await world.server.start()
    assert await world.run("STATUS") == (0, None)
    await world.server.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"CNI_NETNS": "/run/netns/nowhere"}, "CNI_NETNS: /run/netns/nowhere: No such file"),
        ({"CNI_NETNS": "/etc/hostname"}, "is no network namespace"),
        ({"CNI_NETNS": "/proc/self/ns/uts"}, "is a namespace of another type"),
        ({"CNI_NETNS": "/proc/self/ns/net"}, "is the node's own network namespace"),
        ({"CNI_NETNS": ""}, "CNI_NETNS: missing"),
        ({"CNI_IFNAME": "far-too-long-name"}, "CNI_IFNAME"),
        ({"CNI_COMMAND": "FROB"}, "CNI_COMMAND: 'FROB'"),
        ({"OVSNET_TIMEOUT": "soon"}, "OVSNET_TIMEOUT"),
    ],
)
async def test_a_fault_in_the_environment_is_code_4(world: World, change: dict[str, str], said: str) -> None:
    status, answer = await world.run("ADD", variables=change)
    assert (status, answer["code"]) == (1, 4)
    assert said in answer["msg"]
    assert not world.backend.attached


async def test_errors_of_the_backend(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.backend.limited = True
    assert await world.refusal("STATUS") == (51, "ovs-vswitchd is away")
    status, answer = await world.run("ADD", config(cniVersion="0.3.1"), {"CNI_IFNAME": "defect"})
    assert (status, answer["code"], answer["cniVersion"]) == (1, 999, "0.3.1")
    assert "ZeroDivisionError" in answer["msg"]
    assert any(record.exc_info for record in caplog.records), "the log has the traceback"
    assert await world.run("DEL") == (0, None)


async def test_a_configuration_that_is_too_long(world: World) -> None:
    assert (await world.refusal("ADD", b" " * (client.MAX_REQUEST + 1)))[0] == 7
    assert await world.run("STATUS", config(padding="x" * 800_000)) == (0, None)


async def test_fifty_at_once(world: World) -> None:
    calls = [world.run("ADD", variables={"CNI_CONTAINERID": f"c{number}"}) for number in range(50)]
    answers = await asyncio.gather(*calls)
    assert [code for code, _ in answers] == [0] * 50
    assert len({answer["ips"][0]["address"] for _, answer in answers}) == 50


async def test_a_slow_agent_times_out(world: World) -> None:
    world.backend.gate.clear()
    status, answer = await world.run("ADD", variables={"OVSNET_TIMEOUT": "0.5"})
    assert (status, answer["code"]) == (1, 11)
    assert answer["msg"].endswith(": it gave no answer in time")


async def test_a_client_that_goes_away_does_not_undo_its_add(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ovsnet.cni")
    world.backend.gate.clear()
    process = await world.process("ADD")
    assert process.stdin is not None
    process.stdin.write(CONFIG)
    process.stdin.close()
    await world.backend.entered.wait()
    process.kill()
    await process.wait()
    world.backend.gate.set()
    await settled()
    assert ("c1", "eth0") in world.backend.attached
    assert world.backend.namespaces, "the descriptor stayed open until the work was done"
    assert "added c1 (eth0) 10.1.0.2" in caplog.text
    assert "the client of ADD of c1 is gone" in caplog.text
    assert await world.run("DEL") == (0, None)


AGENT = """
    import asyncio, pathlib, sys
    from ovsnet.cni.server import CniServer

    class Slow:
        async def add(self, request):
            print("entered", flush=True)
            await asyncio.sleep(600)

    async def main():
        await CniServer(pathlib.Path(sys.argv[1]), Slow()).start()
        print("ready", flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())
"""


async def test_an_agent_killed_in_the_middle_of_a_call(tmp_path: Path, netns: str, program: Program) -> None:
    world = World(tmp_path, netns, program)
    root = Path(client.__file__).parents[2]
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(AGENT), world.path, cwd=root, stdout=subprocess.PIPE
    )
    assert agent.stdout is not None
    assert await agent.stdout.readline() == b"ready\n"
    call = asyncio.create_task(world.run("ADD"))
    assert await agent.stdout.readline() == b"entered\n"
    agent.kill()
    await agent.wait()
    status, answer = await call
    assert (status, answer["code"]) == (1, 11)
    assert "stopped in the middle" in answer["msg"] or "Connection reset" in answer["msg"]
    await world.server.start()
    assert await world.run("ADD") != (1, answer), "the socket of the dead is taken over"
    await world.server.close()


async def test_a_stopping_agent_lets_calls_end_and_tells_the_rest_to_come_again(
    tmp_path: Path, netns: str, program: Program
) -> None:
    world = World(tmp_path, netns, program)
    await world.server.start()
    world.backend.gate.clear()
    idle = connect(world)
    call = asyncio.create_task(world.run("ADD"))
    await world.backend.entered.wait()
    await world.server.close(grace=0.2)
    status, answer = await call
    assert (status, answer["code"]) == (1, 11)
    assert "stopping" in answer["msg"]
    assert await closed_by_server(idle) == b""


GARBAGE = [
    b"\0" * 100,
    b"GET / HTTP/1.1\r\n\r\n",
    b"OVSNET1 5\nabcde",
    b"OVSNET1 2\n\0{too long",
    b"OVSNET1 99999999\n",
    b"OVSNET1 0\n",
    b"OVSNET1 9\n\0",
    b"x" * 2_000_000,
    b"",
]


@python_only
@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda data: repr(data[:12]))
async def test_garbage_is_closed_without_an_answer(
    world: World, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    connection = connect(world)
    connection.setblocking(False)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_sendall(connection, garbage)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    assert await closed_by_server(connection) == b""
    assert "; closed" in caplog.text
    assert await world.run("STATUS") == (0, None)


@python_only
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_descriptors_that_come_with_garbage_are_closed(world: World, count: int) -> None:
    read, write = os.pipe()
    connection = connect(world)
    socket.send_fds(connection, [b"garbage\n"], [write] * count)
    os.close(write)
    assert await closed_by_server(connection) == b""
    os.set_blocking(read, False)
    assert os.read(read, 1) == b"", "no other end is open any more"
    os.close(read)


@python_only
async def test_descriptors_in_the_middle_of_a_request_are_closed(world: World) -> None:
    read, write = os.pipe()
    connection = connect(world)
    for chunk in (b"OVSNET1 50\n", b"A=1", b"\0"):
        socket.send_fds(connection, [chunk], [write])
    os.close(write)
    assert await closed_by_server(connection) == b""
    os.set_blocking(read, False)
    assert os.read(read, 1) == b""
    os.close(read)


@python_only
async def test_hanging_clients_hold_up_nobody_and_are_closed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = [connect(world) for _ in range(100)]
    for connection in hanging[50:]:
        connection.send(b"OVSNET1 100\nCNI_COMM")
    async with asyncio.timeout(5):
        assert (await world.run("ADD"))[0] == 0
    for connection in hanging:
        assert await closed_by_server(connection) == b""
    assert len([each for each in caplog.records if "no whole request" in each.getMessage()]) == 1, (
        "one line is enough"
    )


@python_only
async def test_a_client_that_never_reads_holds_nothing(world: World) -> None:
    connection = connect(world)
    connection.sendall(framing.frame({"OVSNET_COMMAND": "health"}))
    await settled()
    connection.close()


@python_only
async def test_health_for_the_command_line(world: World) -> None:
    connection = connect(world)
    connection.sendall(framing.frame({"OVSNET_COMMAND": "health"}))
    code, stdout = framing.unframe_reply(await closed_by_server(connection))
    assert (code, json.loads(stdout)) == (0, {"attachments": 0})


@python_only
async def test_only_root_reaches_the_socket(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.path.parent.stat().st_mode) == 0o700
    # Even where somebody opened it to all.
    world.path.parent.chmod(0o755)
    world.path.chmod(0o666)
    script = """
        import os, socket
        os.setegid(65534)
        os.seteuid(65534)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect("agent.sock")
        print(connection.recv(9))
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-IS", "-c", textwrap.dedent(script), stdout=subprocess.PIPE, cwd=world.path.parent
    )
    stdout, _ = await process.communicate()
    assert stdout == b"b''\n"
    assert "comes from user 65534" in caplog.text


@python_only
async def test_a_live_agent_keeps_its_socket(world: World) -> None:
    with pytest.raises(HostFailure, match="another agent answers"):
        await CniServer(world.path, Memory()).start()
    assert await world.run("STATUS") == (0, None)


async def test_a_socket_that_somebody_else_serves_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(HostFailure, match="another agent answers"):
            await CniServer(path, Memory()).start()
        assert path.is_socket()


async def test_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="at most 107 bytes"):
        await CniServer(tmp_path / ("x" * 108), Memory()).start()
