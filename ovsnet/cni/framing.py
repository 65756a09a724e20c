"""What travels on the agent's socket: bytes to variables, standard input and back.

Pure. Owns the framing, never the meaning of what is framed (that is `protocol`). `listener` and
`server` read with it, the command line asks for `health` with it. The executable (`client`, client.c) has
its own copy because it imports nothing; tests hold them together.

    request   OVSNET1 <length>\\n            length: bytes that follow, at most 1 MiB
              NAME=VALUE\\0 ... \\0          every CNI_* variable; an empty one ends them
              <stdin>                       the network configuration
    reply     <exit code> <length>\\n
              <standard output>

The first bytes of a request may carry one file descriptor (SCM_RIGHTS): CNI_NETNS, opened by the
client, so that the agent's mount namespace does not matter. Where the client could not open it,
OVSNET_NETNS_ERROR says why. OVSNET_COMMAND=health, instead of CNI_COMMAND, is answered with the agent's
health as JSON and exit code 0; so is OVSNET_COMMAND=audit, after everything was compared and repaired. A reply
that is shorter than it says comes from an agent that died.
"""

from __future__ import annotations

from collections.abc import Mapping

MAGIC = b"OVSNET1 "
MAX_HEADER = 32
MAX_REQUEST = 1 << 20


class Malformed(Exception):
    """Bytes that are no request of ours; the connection is closed without an answer."""


def frame(variables: Mapping[str, str], stdin: bytes = b"") -> bytes:
    """A request's bytes."""
    body = b"".join(f"{name}={value}\0".encode() for name, value in variables.items()) + b"\0" + stdin
    return b"%s%d\n%s" % (MAGIC, len(body), body)


def body_length(header: bytes) -> int | None:
    """The length that follows a header line; None while it is incomplete. Raises Malformed."""
    line, newline, _ = header.partition(b"\n")
    if not MAGIC.startswith(line[: len(MAGIC)]) or len(line) > MAX_HEADER:
        raise Malformed(f"starts with {line[:MAX_HEADER]!r}")
    if not newline:
        return None
    digits = line[len(MAGIC) :]
    if not digits.isdigit() or int(digits) > MAX_REQUEST:
        raise Malformed(f"a request of {digits!r} bytes; at most {MAX_REQUEST}")
    return int(digits)


def unpack(body: bytes) -> tuple[dict[str, str], bytes]:
    """The variables and stdin of a request; what is not UTF-8 becomes surrogates. Raises Malformed."""
    block, end, stdin = body.partition(b"\0\0")
    if body.startswith(b"\0"):
        block, end, stdin = b"", b"\0", body[1:]
    if not end:
        raise Malformed("the variables have no end")
    variables: dict[str, str] = {}
    for pair in block.split(b"\0") if block else ():
        name, equals, value = pair.decode("utf-8", "surrogateescape").partition("=")
        if not equals or not name:
            raise Malformed(f"{pair[:40]!r} is no variable")
        variables[name] = value
    return variables, stdin


def frame_reply(code: int, stdout: bytes) -> bytes:
    return b"%d %d\n%s" % (code, len(stdout), stdout)


def unframe_reply(reply: bytes) -> tuple[int, bytes]:
    """Exit code and standard output. Raises Malformed: the agent died in the middle."""
    header, newline, stdout = reply.partition(b"\n")
    code, _, length = header.partition(b" ")
    if not newline or not code.isdigit() or not length.isdigit() or len(stdout) != int(length):
        raise Malformed("the reply is incomplete")
    return int(code), stdout
