"""The executable in C and the one in Python: the same request, the same answer, the same error, for whatever comes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cni_programs
import pytest

from ovsnet import resources
from ovsnet.cni import client, framing

CONFIG = b'{"cniVersion": "1.0.0", "name": "ovsnet", "type": "ovsnet"}'
NO_TIMEOUTS = (
    *("soon", "nan", "inf", "-inf", "-1", "0", "-0", "86401", "1e999", "0x10", "1s", "e", "1e", "-", "."),
    *(" ", "1 2", "é", "nan(1)", "infinity", "0x1p3", "1,5", "5_", "\x01"),
)
REPLY = framing.frame_reply(0, b"")
ROOM = client.MAX_REQUEST - len(b"CNI_COMMAND=ADD\0\0")
"""Bytes of configuration that fit into a request."""
PROBE = (resources.templates_dir() / "kubernetes-agent.yaml.j2").read_text()
HANGS = PROBE.partition("/opt/cni/bin/ovsnet | grep '")[2].partition("'")[0]
"""What the liveness probe takes for an agent that hangs."""


class Done(NamedTuple):
    """How a run ended."""

    code: int
    stdout: bytes
    stderr: bytes


class Request(NamedTuple):
    """What reached the socket. inode: of the file whose descriptor came along, 0 without one."""

    data: bytes
    inode: int


class Pair:
    """Both of them, and a socket that takes what they say."""

    def __init__(self, folder: Path) -> None:
        self.commands = {}
        for kind in cni_programs.KINDS:
            (folder / kind).mkdir()
            self.commands[kind] = cni_programs.program(kind).put(folder / kind)
        self.stdin = folder / "stdin"
        self.path = os.fsencode(folder / "agent.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.settimeout(10)

    def environment(self, variables: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        return {b"CNI_COMMAND": b"ADD", b"OVSNET_SOCKET": self.path} | dict(variables)

    def start(
        self, kind: str, variables: Mapping[bytes, bytes], stdin: bytes, *arguments: str
    ) -> subprocess.Popen[bytes]:
        self.stdin.write_bytes(stdin)
        with self.stdin.open("rb") as file:
            return subprocess.Popen(
                [*self.commands[kind], *arguments],
                env=self.environment(variables),
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

    def run(self, kind: str, variables: Mapping[bytes, bytes], stdin: bytes, *arguments: str) -> Done:
        process = self.start(kind, variables, stdin, *arguments)
        stdout, stderr = process.communicate(timeout=30)
        return Done(process.returncode, stdout, stderr)

    def both(self, variables: Mapping[bytes, bytes], stdin: bytes = CONFIG, *arguments: str) -> Done:
        """What both do without an agent; it is the same."""
        python, c = (self.run(kind, variables, stdin, *arguments) for kind in cni_programs.KINDS)
        assert (c.code, document(c), c.stderr) == (python.code, document(python), python.stderr)
        return c

    def error(self, variables: Mapping[bytes, bytes], stdin: bytes = CONFIG) -> dict[str, Any]:
        """The error that both print."""
        done = self.both(variables, stdin)
        assert (done.code, done.stderr) == (1, b"")
        return dict(document(done))

    def asked(
        self, kind: str, variables: Mapping[bytes, bytes], stdin: bytes, reply: bytes
    ) -> tuple[Request, Done]:
        """With an agent that takes the whole request and answers so."""
        process = self.start(kind, variables, stdin)
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(10)
            data, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
            while chunk := connection.recv(65536):
                data += chunk
            connection.sendall(reply)
        inode = 0
        for descriptor in descriptors:
            inode = os.fstat(descriptor).st_ino
            os.close(descriptor)
        stdout, stderr = process.communicate(timeout=30)
        return Request(data, inode), Done(process.returncode, stdout, stderr)


def document(done: Done) -> Any:
    return json.loads(done.stdout) if done.stdout else None


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.listener.close()


@pytest.mark.parametrize(
    ("variables", "stdin"),
    [
        ({}, CONFIG),
        ({}, b""),
        ({}, bytes(range(256)) * 300),
        ({}, b"x" * ROOM),
        ({b"CNI_NETNS": b"/proc/self/ns/net"}, CONFIG),
        ({b"CNI_NETNS": b"/nowhere"}, CONFIG),
        ({b"CNI_NETNS": b""}, CONFIG),
        ({b"CNI_NETNS": b"\xff\xfe"}, CONFIG),
        (
            {b"CNI_ARGS": b"a=b;c=\xff\n", b"CNI_": b"", b"CNI_A": b"=", b"XCNI_B": b"no", b"cni_c": b"no"},
            CONFIG,
        ),
        ({f"CNI_{number}".encode(): b"x" * 100_000 for number in range(3)}, CONFIG),
        ({f"CNI_{number}".encode(): b"" for number in range(2000)}, CONFIG),
        ({b"OVSNET_NETNS_ERROR": b"forged", b"OVSNET_COMMAND": b"health"}, CONFIG),
    ],
)
def test_requests_are_the_same(pair: Pair, variables: dict[bytes, bytes], stdin: bytes) -> None:
    python, c = (pair.asked(kind, variables, stdin, REPLY) for kind in cni_programs.KINDS)
    assert c == python
    request, done = c
    assert done == (0, b"", b"")
    header, _, body = request.data.partition(b"\n")
    assert framing.body_length(header + b"\n") == len(body)
    received, rest = framing.unpack(body)
    assert rest == stdin
    passed = {os.fsdecode(name): os.fsdecode(value) for name, value in pair.environment(variables).items()}
    passed = {name: value for name, value in passed.items() if name.startswith("CNI_")}
    assert {name: value for name, value in received.items() if name != "OVSNET_NETNS_ERROR"} == passed
    netns = variables.get(b"CNI_NETNS", b"")
    assert (request.inode != 0) == (netns.startswith(b"/proc"))
    assert ("OVSNET_NETNS_ERROR" in received) == (netns != b"" and request.inode == 0)


@pytest.mark.parametrize(
    ("reply", "code", "stdout"),
    [
        (framing.frame_reply(0, b'{"a": "\xff\0"}'), 0, b'{"a": "\xff\0"}'),
        (framing.frame_reply(1, b"{}"), 1, b"{}"),
        (framing.frame_reply(0, b"x" * 3_000_000), 0, b"x" * 3_000_000),
        (b"7 2\nab", 7, b"ab"),
        (b"07 2\nab", None, b""),
        (b"7 02\nab", None, b""),
        (b"256 1\na", None, b""),
        (b"-1 1\na", None, b""),
        (b"1" * 5000 + b" 1\na", None, b""),
        (b"", None, b""),
        (b"0", None, b""),
        (b"0\n", None, b""),
        (b" 0\n", None, b""),
        (b"0 \n", None, b""),
        (b"0 5\nab", None, b""),
        (b"0 1\nab", None, b""),
        (b"0 -1\n", None, b""),
        (b"+0 1\na", None, b""),
        (b"x 1\na", None, b""),
        (b"0 1 \na", None, b""),
        (b"\0" * 100, None, b""),
        (b"0 99999999999999999999\nab", None, b""),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_answers_are_the_same(pair: Pair, reply: bytes, code: int | None, stdout: bytes) -> None:
    python, c = (pair.asked(kind, {}, CONFIG, reply)[1] for kind in cni_programs.KINDS)
    if code is not None:
        assert python == c == (code, stdout, b"")
    else:
        assert document(python) == document(c)
        assert document(c)["code"] == 11
        assert "stopped in the middle" in document(c)["msg"]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"/nowhere", "/nowhere: No such file or directory"),
        (b"/" + b"x" * 106, "x: No such file or directory"),
        (b"/" + b"x" * 107, "/" + "x" * 107 + ": AF_UNIX path too long"),
        (b"/" + b"\xff" * 100_000, "\\xff: AF_UNIX path too long"),
        (b'/a"b\\c\n\t\x01\x7f~', '/a"b\\c\\x0a\\x09\\x01\\x7f~: No such'),
        ("/é".encode() + b"\x80\xff", "/\\xc3\\xa9\\x80\\xff: No such"),
        (b"/dev/null", "/dev/null: Connection refused"),
    ],
)
def test_any_path_is_shown(pair: Pair, path: bytes, shown: str) -> None:
    error = pair.error({b"OVSNET_SOCKET": path})
    assert error["code"] == 11
    assert error["msg"].startswith("no agent answers at /")
    assert shown in error["msg"]
    assert pair.error({b"OVSNET_SOCKET": path, b"CNI_COMMAND": b"STATUS"})["code"] == 50


@pytest.mark.parametrize("text", ["1", "0.5", "86400", "1e3", " 5 ", "5\n", "+2", ".5", "5.", "00060"])
def test_timeouts_that_are_numbers_are_taken(pair: Pair, text: str) -> None:
    variables = {b"CNI_COMMAND": b"VERSION", b"OVSNET_TIMEOUT": text.encode()}
    assert pair.both(variables).code == 0


@pytest.mark.parametrize("text", NO_TIMEOUTS)
def test_timeouts_that_are_none_are_refused(pair: Pair, text: str) -> None:
    error = pair.error({b"OVSNET_TIMEOUT": text.encode()})
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in text.encode())
    assert (error["code"], error["msg"]) == (4, f"OVSNET_TIMEOUT: '{shown}' is no number of seconds")
    assert error["details"] == "more than 0, at most 86400, or leave it unset"


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "0.4.0"}', "0.4.0"),
        (b' \r\n\t{ "a" : [1, {"b": null}] , "cniVersion"\n:\t"0.3.1" } ', "0.3.1"),
        (b'{"cniVersion": "0.3.1", "cniVersion": "0.4.0"}', "0.3.1"),
        (b'{"cniVersion": "0.4.0", "prevResult": {"cniVersion": "0.3.1"}}', "0.4.0"),
        (b'{"a": "\\"cniVersion\\": \\"0.3.1\\"", "b": "{\\\\", "cniVersion": "0.4.0"}', "0.4.0"),
        (b'{"a": "cniVersion", "b": "0.3.1"}', "1.1.0"),
        (b'{"cniVersion": "9.\'/9"}', "9.'/9"),
        (b'{"cniVersion": ""}', "1.1.0"),
        (b'{"cniVersion": 1.0}', "1.1.0"),
        (b'{"cniVersion": ["0.3.1"]}', "1.1.0"),
        (b'{"cniVersion": {"a": "0.3.1"}}', "1.1.0"),
        (b'{"cniversion": "0.3.1", "cniVersion ": "0.3.1", "cniVersio": "0.3.1"}', "1.1.0"),
        (b"[" * 100_000, "1.1.0"),
        (b'["cniVersion", "0.3.1"]', "1.1.0"),
        (b'"cniVersion"', "1.1.0"),
        (b'{"cniVersion"', "1.1.0"),
        (b'{"cniVersion":', "1.1.0"),
        (b'{"cniVersion":"', "1.1.0"),
        (b'{"cniVersion": "0.3.1\\', "0.3.1\\"),
        (b'{"cniVersion": "0\xff"}', "0\\xff"),
        (b'{"cniVersion": "0\n"}', "0\\x0a"),
        (b'{"cniVersion": "0\\u002e4.0"}', "0\\u002e4.0"),
        (b'{"cni\\u0056ersion": "0.4.0"}', "1.1.0"),
        (b"\xff\xfe\0", "1.1.0"),
        (b"", "1.1.0"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_versions_of_errors(pair: Pair, stdin: bytes, version: str) -> None:
    assert pair.error({b"OVSNET_SOCKET": b"/nowhere"}, stdin)["cniVersion"] == version
    assert document(pair.both({b"CNI_COMMAND": b"VERSION"}, stdin))["cniVersion"] == version


@pytest.mark.parametrize(
    ("stdin", "path"),
    [
        (b'{"agentSocket": "/nowhere/1"}', "/nowhere/1"),
        (b'{"a": 1, "agentSocket"\n :\t"/nowhere/2", "b', "/nowhere/2"),
        (b'{"agentSocket": "/nowhere\\/3"}', "/nowhere\\/3"),
        (b'{"agentSocket": "/first", "args": {"agentSocket": "/nested"}}', "/first"),
        (b'{"a": "\\"agentSocket\\": \\"/string\\"", "agentSocket": "/top"}', "/top"),
        (b'{"agentSocket": "/nowhere/\xff"}', "/nowhere/\\xff"),
        (b'{"agentSocket": "/' + b"x" * 500_000 + b'"}', "/" + "x" * 500_000),
        (b'{"agentSocket": ""}', client.DEFAULT_SOCKET),
        (b'{"agentSocket": 5}', client.DEFAULT_SOCKET),
        (b'{"agentSocket"}', client.DEFAULT_SOCKET),
        (b'{"name": "agentSocket"}', client.DEFAULT_SOCKET),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_the_socket_of_the_configuration(pair: Pair, stdin: bytes, path: str) -> None:
    if path == client.DEFAULT_SOCKET and os.path.exists(path):
        pytest.skip("an agent runs on this machine")
    assert pair.error({b"OVSNET_SOCKET": b""}, stdin)["msg"].startswith(f"no agent answers at {path}: ")


def test_usage(pair: Pair) -> None:
    done = pair.both({b"CNI_COMMAND": b""})
    assert (done.code, document(done)["code"], document(done)["cniVersion"]) == (1, 4, "1.1.0")
    versions = f"ovsnet CNI plugin, specification versions {', '.join(client.VERSIONS)}\n".encode()
    assert done.stderr == client.USAGE.encode() + versions
    assert pair.both({b"CNI_COMMAND": b""}, CONFIG, "--version").stderr == versions


def test_a_configuration_that_is_too_long(pair: Pair) -> None:
    for size in (ROOM + 1, client.MAX_REQUEST + 1, 3 * client.MAX_REQUEST):
        error = pair.error({}, b'{"cniVersion": "0.4.0"}'.ljust(size))
        assert (error["code"], error["cniVersion"]) == (7, "0.4.0")


def test_variables_that_are_too_long(pair: Pair) -> None:
    variables = {f"CNI_{number}".encode(): b"x" * 100_000 for number in range(11)}
    assert pair.error(variables)["code"] == 7


def test_an_agent_that_does_not_accept(pair: Pair) -> None:
    pair.listener.listen(0)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(pair.path)
        error = pair.error({b"OVSNET_TIMEOUT": b"0.2"})
    assert (error["code"], error["msg"][:21]) == (11, "no agent answers at /")
    assert HANGS in error["msg"]


@pytest.mark.parametrize("stdin", [b"", b"x" * 800_000], ids=["never answers", "never reads"])
def test_an_agent_that_hangs(pair: Pair, stdin: bytes) -> None:
    error = pair.error({b"OVSNET_TIMEOUT": b"0.2"}, stdin)
    assert (error["code"], error["msg"][:14]) == (11, "the agent at /")
    assert HANGS
    assert HANGS in error["msg"]


@pytest.mark.parametrize("kind", cni_programs.KINDS)
def test_an_agent_that_never_ends_its_answer(pair: Pair, kind: str) -> None:
    process = pair.start(kind, {b"OVSNET_TIMEOUT": b"0.2"}, CONFIG)
    connection, _ = pair.listener.accept()
    with connection, contextlib.suppress(ConnectionError):
        for _ in range(10_000):
            connection.sendall(b"1")
            time.sleep(0.003)
    stdout, _ = process.communicate(timeout=30)
    assert HANGS in json.loads(stdout)["msg"]


def test_a_runtime_whose_signals_are_blocked_and_ignored(pair: Pair) -> None:
    pair.commands["c"][:0] = ["env", "--block-signal=ALRM", "--ignore-signal=ALRM"]
    error = document(pair.run("c", {b"OVSNET_TIMEOUT": b"0.2"}, CONFIG))
    assert HANGS in error["msg"]


@pytest.mark.parametrize("kind", cni_programs.KINDS)
def test_an_agent_that_goes_away(pair: Pair, kind: str) -> None:
    process = pair.start(kind, {}, b"x" * 800_000)
    connection, _ = pair.listener.accept()
    connection.recv(10)
    connection.close()
    stdout, stderr = process.communicate(timeout=30)
    error = document(Done(process.returncode, stdout, stderr))
    assert error["msg"].endswith((".sock: Broken pipe", ".sock: Connection reset by peer"))
    assert (error["code"], stderr) == (11, b"")


@pytest.mark.parametrize("kind", cni_programs.KINDS)
def test_a_closed_standard_error(pair: Pair, kind: str) -> None:
    command = " ".join(pair.commands[kind])
    done = subprocess.run(f"{command} 2>&-", shell=True, env={}, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 4)
