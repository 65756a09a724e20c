"""The child process for work on links: carries out the methods of `Links`, one at a time, for its agent.

Owns that process, in which nothing but `Links` is imported. It ends when the agent does, however that ends, and does
nothing more that a dead agent had asked for. Started by `worker`, with the descriptor of its socket and the agent's
process number.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec

from ovsnet.errors import HostFailure
from ovsnet.host.links import Links
from ovsnet.host.types import AttachSpec

LARGEST = 1 << 20
"""Bytes of a request or an answer."""
IGNORED = (signal.SIGTERM, signal.SIGINT)
"""Signals, blocked where the child starts."""


def main(descriptor: int, agent: int) -> None:
    # The agent ends when it has answered what is under way, and needs this process until then.
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    # What the agent itself was started with may be inherited as well.
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    with socket.socket(fileno=descriptor) as requests:
        links = Links()
        while os.getppid() == agent and _serve(requests, links):
            pass


def _serve(requests: socket.socket, links: Links) -> bool:
    """One request; False when there will be no more."""
    data, fds, _, _ = socket.recv_fds(requests, LARGEST, 1)
    if not data:
        return False
    answer: object
    try:
        method, arguments, placed = pickle.loads(data)  # noqa: S301  # from the agent that started us
        if placed != len(fds):
            raise HostFailure("a namespace's descriptor did not arrive", "repeat the request")
        answer = getattr(links, method)(*_placed(arguments, fds))
    except Exception as error:
        answer = error
    finally:
        for fd in fds:
            os.close(fd)
    try:
        requests.send(pickle.dumps(answer))
    except OSError:
        return False
    return True


def _placed(arguments: Sequence[object], fds: Sequence[int]) -> list[object]:
    """The arguments with the namespace's descriptor as it is called here: in the spec, or as the last one."""
    if not fds:
        return list(arguments)
    if isinstance(arguments[0], AttachSpec):
        return [msgspec.structs.replace(arguments[0], netns=fds[0]), *arguments[1:]]
    return [*arguments, fds[0]]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
