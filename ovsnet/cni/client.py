#!/usr/bin/python3 -IS
"""The executable /opt/cni/bin/ovsnet: passes a CNI call to the agent and prints its answer.

Owns nothing but the way to the agent; what a call means, the agent decides. It alone answers VERSION, and
calls that reach no agent: code 11, "try again later", and 50 for STATUS. Runtimes start it for every
pod, so it is one file that imports C modules only (a start takes about 10 ms, most of it Python's own);
`json` comes in when something is wrong. Where a C compiler is, client.c is installed, which is the same
program: what changes here changes there. `executable` makes what is installed of either. The framing is
described in ovsnet/cni/framing.py.

    OVSNET_SOCKET    the agent's socket; else "agentSocket" of the configuration, else the default
    OVSNET_TIMEOUT   seconds for the whole call; 60 by default

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
MAX_STDIN = 900_000
"""Bytes; with the variables it stays under what the agent takes, 1 MiB."""
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
USAGE = """\
ovsnet: a CNI plugin, called by container runtimes; it passes the call to ovsnet's agent on this node.
Set CNI_COMMAND (ADD, DEL, CHECK, GC, STATUS, VERSION) and the other CNI_* variables, and send the network
configuration on standard input. `ovsnet show` tells what is attached.
"""


class Failure(Exception):
    """Printed as a CNI error. code: of the specification."""

    def __init__(self, code: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Unreachable(Failure):
    """The agent gave no whole answer; the runtime may repeat the call."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(50 if posix.environ.get(b"CNI_COMMAND") == b"STATUS" else 11, message, hint)


def main() -> int:
    """Does the call; the exit code."""
    stdin = b""
    try:
        command = _command()
        deadline = time.monotonic() + _timeout()
        stdin = _read_stdin(deadline)
        if command == b"VERSION":
            code, stdout = 0, _versions(stdin)
        else:
            code, stdout = _ask(_socket_path(stdin), stdin, deadline)
    except Failure as failure:
        code, stdout = 1, _error(failure, stdin)
    return code if _write(1, stdout) else 1


def _command() -> bytes:
    command = posix.environ.get(b"CNI_COMMAND", b"")
    if not command:
        usage = "" if "--version" in sys.argv[1:] else USAGE
        _write(2, f"{usage}ovsnet CNI plugin, specification versions {', '.join(VERSIONS)}\n".encode())
        raise Failure(4, "CNI_COMMAND: missing", "one of ADD, DEL, CHECK, GC, STATUS, VERSION")
    return command


def _timeout() -> float:
    text = posix.environ.get(b"OVSNET_TIMEOUT", b"")
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise Failure(
            4, f"OVSNET_TIMEOUT: '{_shown(text)}' is no number of seconds", "1 to 86400, or leave it unset"
        )
    return seconds


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _read_stdin(deadline: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while size <= MAX_STDIN:
        try:
            if not select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Failure(5, "stdin has no end", "the runtime writes the configuration and closes it")
            chunk = posix.read(0, 65536)
        except OSError as error:
            raise Failure(
                5, f"stdin: {error.strerror}", "the runtime sends the configuration there"
            ) from None
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
    raise Failure(7, f"a network configuration of more than {MAX_STDIN} bytes", "is the right file on stdin?")


def _socket_path(stdin: bytes) -> bytes:
    """Decoding the JSON would cost more than the rest of this program, hence the search for the key.

    A path that JSON would have to unescape is not understood and leads to Unreachable, which names it.
    """
    path = posix.environ.get(b"OVSNET_SOCKET", b"")
    if path:
        return path
    _, key, rest = stdin.partition(b'"agentSocket"')
    value = rest.lstrip()[1:].lstrip()
    if key and rest.lstrip()[:1] == b":" and value[:1] == b'"':
        return value[1:].partition(b'"')[0] or DEFAULT_SOCKET.encode()
    return DEFAULT_SOCKET.encode()


def _ask(path: bytes, stdin: bytes, deadline: float) -> tuple[int, bytes]:
    """The agent's exit code and output. Raises Unreachable."""
    variables = [b"%s=%s" % pair for pair in posix.environ.items() if pair[0].startswith(b"CNI_")]
    netns, problem = _open_netns()
    if problem:
        variables.append(b"OVSNET_NETNS_ERROR=" + problem.encode())
    body = b"\0".join([*variables, b"", stdin])
    name = _shown(path)
    agent = _connect(path, name, deadline)
    try:
        _send(agent, b"OVSNET1 %d\n%s" % (len(body), body), netns, deadline)
        reply = _receive(agent, deadline)
    except TimeoutError:
        raise Unreachable(f"the agent at {name} gave no answer in time", "see the agent's log") from None
    except OSError as error:
        raise Unreachable(f"the agent at {name} broke off: {error.strerror}", "see the agent's log") from None
    header, newline, stdout = reply.partition(b"\n")
    code, _, length = header.partition(b" ")
    if not newline or not code.isdigit() or not length.isdigit() or int(length) != len(stdout):
        raise Unreachable(f"the agent at {name} stopped in the middle of the call", "see the agent's log")
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


def _connect(path: bytes, name: str, deadline: float) -> _socket.socket:
    """Blocking, with the kernel's time-out: where it may not block, a full backlog is an error at once."""
    left = max(1, int((deadline - time.monotonic()) * 1e6))
    timeval = b"".join(part.to_bytes(8, sys.byteorder) for part in divmod(left, 1_000_000))
    try:
        agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        agent.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeval)
        agent.connect(path)
    except OSError as error:
        why = error.strerror or str(error)
        hint = "start ovsnet's agent; OVSNET_SOCKET or the key agentSocket name another socket"
        raise Unreachable(f"no agent answers at {name}: {why}", hint) from None
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
    while True:
        agent.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = agent.recv(65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _version(stdin: bytes) -> str:
    """cniVersion of the configuration, our newest if it can't be told."""
    import json

    try:
        version = json.loads(stdin)["cniVersion"]
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    return version if isinstance(version, str) and version else VERSIONS[-1]


def _versions(stdin: bytes) -> bytes:
    import json

    return json.dumps({"cniVersion": _version(stdin), "supportedVersions": VERSIONS}).encode()


def _error(failure: Failure, stdin: bytes) -> bytes:
    import json

    document = {
        "cniVersion": _version(stdin),
        "code": failure.code,
        "msg": failure.message,
        "details": failure.hint,
    }
    return json.dumps(document).encode()


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
