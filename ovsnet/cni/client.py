#!/usr/bin/python3 -IS
"""The executable /opt/cni/bin/ovsnet: passes a CNI call to the agent and prints its answer.

Owns nothing but the way to the agent; what a call means, the agent decides. It alone answers VERSION, and
calls that reach no agent: code 11, "try again later", and 50 for STATUS. Runtimes start it for every
pod, so it is one file that imports C modules only (a start takes about 7 ms, most of it Python's own).
Where a C compiler is, client.c is installed, which is the same program: what changes here changes there.
`executable` makes what is installed of either. The framing is described in ovsnet/cni/framing.py.

    OVSNET_SOCKET    the agent's socket; else "agentSocket" of the configuration, else the default
    OVSNET_TIMEOUT   seconds for the whole call, more than 0, at most 86400; 60 by default

Exit codes: 0, or 1 with the error as JSON on standard output (CNI specification 1.1, section "Error").
"""

# No `from __future__ import annotations`: it would be the only import of a Python file.
import _socket
import posix
import select
import sys
import time

DEFAULT_SOCKET = "/run/ovsnet/agent.sock"
DEFAULT_TIMEOUT = 60.0
MAX_REQUEST = 1 << 20
"""Bytes of variables and configuration: what the agent takes."""
NO_ANSWER = b"it gave no answer in time"
"""Liveness probes look for it (templates/kubernetes-agent.yaml.j2)."""
SPACE = b" \t\r\n"
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
USAGE = """\
ovsnet: a CNI plugin, called by container runtimes; it passes the call to ovsnet's agent on this node.
Set CNI_COMMAND (ADD, DEL, CHECK, GC, STATUS, VERSION) and the other CNI_* variables, and send the network
configuration on standard input. `ovsnet show` tells what is attached.
"""


class Failure(Exception):
    """Printed as a CNI error. code: of the specification."""

    def __init__(self, code: int, message: bytes, hint: bytes) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Unreachable(Failure):
    """The agent gave no whole answer; the runtime may repeat the call."""

    def __init__(self, message: bytes, hint: bytes = b"see the agent's log") -> None:
        super().__init__(50 if posix.environ.get(b"CNI_COMMAND") == b"STATUS" else 11, message, hint)


def main() -> int:
    """Does the call; the exit code."""
    stdin = bytearray()
    try:
        command = _command()
        deadline = time.monotonic() + _timeout()
        _read(stdin, deadline)
        if command == b"VERSION":
            versions = ", ".join(f'"{version}"' for version in VERSIONS).encode()
            code, stdout = 0, b'{"cniVersion": "%s", "supportedVersions": [%s]}' % (_version(stdin), versions)
        else:
            code, stdout = _ask(_socket_path(stdin), stdin, deadline)
    except Failure as failure:
        code, stdout = 1, _error(failure, stdin)
    return code if _write(1, stdout) else 1


def _command() -> bytes:
    command = posix.environ.get(b"CNI_COMMAND", b"")
    if not command:
        usage = "" if sys.argv[1:2] == ["--version"] else USAGE
        _write(2, f"{usage}ovsnet CNI plugin, specification versions {', '.join(VERSIONS)}\n".encode())
        raise Failure(4, b"CNI_COMMAND: missing", b"one of ADD, DEL, CHECK, GC, STATUS, VERSION")
    return command


def _timeout() -> float:
    text = posix.environ.get(b"OVSNET_TIMEOUT", b"")
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        message = b"OVSNET_TIMEOUT: '%s' is no number of seconds" % text
        raise Failure(4, message, b"more than 0, at most 86400, or leave it unset")
    return seconds


def _read(stdin: bytearray, deadline: float) -> None:
    """All of standard input, or more than a request may have."""
    try:
        while len(stdin) <= MAX_REQUEST:
            if not select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            chunk = posix.read(0, 65536)
            if not chunk:
                return
            stdin += chunk
    except OSError as error:
        why = _why(error, b"it has no end")
        hint = b"the runtime writes the configuration there and closes it"
        raise Failure(5, b"stdin: " + why, hint) from None


def _why(error: OSError, late: bytes) -> bytes:
    """BlockingIOError: the time-out of SO_SNDTIMEO."""
    timed_out = isinstance(error, TimeoutError | BlockingIOError)
    return late if timed_out else (error.strerror or str(error)).encode()


def _look_up(stdin: bytearray, key: bytes) -> bytes:
    """The string of this key where it first stands, and as it stands there; empty if there is none.

    Decoding the JSON would cost more than the rest of this program. libcni sorts the keys, so what `args` or
    `prevResult` have inside comes later. A path that JSON would have to unescape is not understood and leads
    to Unreachable, which names it.
    """
    _, found, rest = stdin.partition(b'"%s"' % key)
    colon, value = rest.lstrip(SPACE)[:1], rest.lstrip(SPACE)[1:].lstrip(SPACE)
    return bytes(value[1:].partition(b'"')[0]) if found and colon == b":" and value[:1] == b'"' else b""


def _socket_path(stdin: bytearray) -> bytes:
    path = posix.environ.get(b"OVSNET_SOCKET", b"")
    return path or _look_up(stdin, b"agentSocket") or DEFAULT_SOCKET.encode()


def _ask(path: bytes, stdin: bytearray, deadline: float) -> tuple[int, bytes]:
    """The agent's exit code and output. Raises Failure."""
    variables = [b"%s=%s" % pair for pair in posix.environ.items() if pair[0].startswith(b"CNI_")]
    netns, problem = _open_netns()
    if problem:
        variables.append(b"OVSNET_NETNS_ERROR=" + problem.encode())
    body = b"\0".join([*variables, b"", stdin])
    if len(body) > MAX_REQUEST:
        raise Failure(
            7, b"variables and a network configuration of more than 1 MiB", b"is the right file on stdin?"
        )
    agent = _connect(path, deadline)
    try:
        _send(agent, b"OVSNET1 %d\n%s" % (len(body), body), netns, deadline)
        reply = _receive(agent, deadline)
    except OSError as error:
        raise Unreachable(b"the agent at %s: %s" % (path, _why(error, NO_ANSWER))) from None
    header, newline, stdout = reply.partition(b"\n")
    code = header.partition(b" ")[0]
    if not newline or not code.isdigit() or header != b"%d %d" % (int(code[:3]) & 255, len(stdout)):
        raise Unreachable(b"the agent at %s stopped in the middle of the call" % path)
    return int(code), stdout


def _open_netns() -> tuple[int, str]:
    """A descriptor of CNI_NETNS or -1, and why not. O_NONBLOCK: a FIFO must not hold this up."""
    path = posix.environ.get(b"CNI_NETNS", b"")
    if not path:
        return -1, ""
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK), ""
    except OSError as error:
        return -1, str(error.strerror)


def _connect(path: bytes, deadline: float) -> _socket.socket:
    """Blocking, with the kernel's time-out: where it may not block, a full backlog is an error at once."""
    left = max(1, int((deadline - time.monotonic()) * 1e6))
    timeval = b"".join(part.to_bytes(8, sys.byteorder) for part in divmod(left, 1_000_000))
    try:
        agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        agent.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeval)
        agent.connect(path)
    except OSError as error:
        hint = b"start ovsnet's agent; OVSNET_SOCKET or the key agentSocket name another socket"
        raise Unreachable(b"no agent answers at %s: %s" % (path, _why(error, NO_ANSWER)), hint) from None
    return agent


def _send(agent: _socket.socket, data: bytes, netns: int, deadline: float) -> None:
    """The first bytes carry the descriptor."""
    rights = (
        [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, netns.to_bytes(4, sys.byteorder))] if netns >= 0 else []
    )
    agent.settimeout(max(0.001, deadline - time.monotonic()))
    sent = agent.sendmsg([data], rights)
    if sent < len(data):
        agent.sendall(data[sent:])
    agent.shutdown(_socket.SHUT_WR)


def _receive(agent: _socket.socket, deadline: float) -> bytes:
    chunks: list[bytes] = []
    while (left := deadline - time.monotonic()) > 0:
        agent.settimeout(left)
        chunk = agent.recv(65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
    raise TimeoutError


def _version(stdin: bytearray) -> bytes:
    """cniVersion of the configuration, our newest if there is none."""
    return _escaped(_look_up(stdin, b"cniVersion")) or VERSIONS[-1].encode()


def _error(failure: Failure, stdin: bytearray) -> bytes:
    parts = _version(stdin), failure.code, _escaped(failure.message), failure.hint
    return b'{"cniVersion": "%s", "code": %d, "msg": "%s", "details": "%s"}' % parts


def _escaped(text: bytes) -> bytes:
    """Inside of a JSON string. Paths and variables are any bytes: what is not printable ASCII becomes \\xNN."""
    escapes = {0x22: b'\\"', 0x5C: b"\\\\"}
    return b"".join(
        escapes.get(byte) or (b"%c" if 0x20 <= byte <= 0x7E else b"\\\\x%02x") % byte for byte in text
    )


def _write(stream: int, data: bytes) -> bool:
    """False if nobody reads it."""
    try:
        while data:
            data = data[posix.write(stream, data) :]
    except OSError:
        return False
    return True


if __name__ == "__main__":
    # Ends without tearing the interpreter down, which takes longer than the rest.
    posix._exit(main())
