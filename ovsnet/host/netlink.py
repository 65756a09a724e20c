"""An rtnetlink socket, used in batches, with pyroute2's messages.

Owns how answers are matched with requests, and nothing about why something is asked for. pyroute2's IPRoute
runs an event loop of its own and its AsyncIPRoute gives way at every request, neither of which will do while
the thread is in a pod's namespace; hence a plain socket, and pyroute2's Marshal to read it. The
kernel carries out a request inside the `send` that brings it: nothing here waits, so nothing is a coroutine.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pyroute2.netlink import (
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    nlmsg,
    nlmsgerr,
    rtnl,
)
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ovsnet.errors import HostFailure
from ovsnet.host import netns
from ovsnet.host.messages import Failure, Request, decoded

_T = TypeVar("_T")
_STAMP, _STAMP_AT = struct.Struct("=HHI"), 4
"""Type, flags and sequence number follow the length (struct nlmsghdr)."""
_BATCH = 64
"""Requests in one send: under 10 KiB, and about 1 ms of the kernel's time when they are routes."""
_BUFFER = 1 << 20
"""Bytes that the kernel keeps for us, either way."""
_RECEIVE = 1 << 17
"""Bytes; the kernel fills at most 32 KiB at a time when it dumps, and a refusal quotes one request."""


class _Marshal(Marshal):  # type: ignore[misc]  # untyped
    """msg_map: what `get` is answered with; what dumps bring is decoded by who asks for it."""

    msg_map = {rtnl.RTM_NEWLINK: ifinfmsg, rtnl.RTM_NEWROUTE: rtmsg}


class Netlink(contextlib.AbstractContextManager["Netlink"]):
    """One socket; it stays in the namespace where it was opened."""

    def __init__(self, namespace: int | None = None) -> None:
        """In our namespace, or in that of the descriptor. Raises HostFailure."""
        with _kernel(), netns.entered(namespace) if namespace is not None else contextlib.nullcontext():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
            self._socket.bind((0, 0))
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            for option in (NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
        self.close = self._socket.close
        self._marshal = _Marshal()
        self._sequence = 0

    def __exit__(self, *_: object) -> None:
        self.close()

    def apply(self, requests: Sequence[Request]) -> None:
        """As `attempt`; raises HostFailure for the first that was refused."""
        for failure in self.attempt(requests):
            raise failure.error

    def attempt(self, requests: Sequence[Request]) -> list[Failure]:
        """Carry out all requests in order, those after a refusal as well, and tell which were refused."""
        failures: list[Failure] = []
        for start in range(0, len(requests), _BATCH):
            failures += self._batch(requests[start : start + _BATCH])
        return failures

    def _batch(self, requests: Sequence[Request]) -> Iterator[Failure]:
        first, last = self._sequence + 1, self._sequence + len(requests)
        # Refusals are always reported, so an acknowledgement of the last request covers them all.
        self._send(*((r.kind, r.flags, r.message) for r in requests), last=NLM_F_ACK)
        for answer in self._answers(first):
            sequence = answer["header"]["sequence_number"]
            request = requests[sequence - first]
            if answer["error"] and -answer["error"] not in request.tolerate:
                yield Failure.of(request.what, answer)
            if sequence == last:
                return

    def _send(self, *messages: tuple[int, int, bytes], last: int) -> None:
        """All in one system call; `last`: flags of the last one besides its own."""
        out = bytearray()
        for position, (kind, flags, message) in enumerate(messages, 1):
            self._sequence += 1
            flags |= NLM_F_REQUEST | (last if position == len(messages) else 0)
            at = len(out) + _STAMP_AT
            out += message
            _STAMP.pack_into(out, at, kind, flags, self._sequence)
        with _kernel():
            self._socket.send(out)

    def _answers(self, first: int) -> Iterator[nlmsg]:
        """To the requests from that one on, without end: the caller knows which is the last."""
        while True:
            with _kernel():
                data = self._socket.recv(_RECEIVE)
            for answer in self._marshal.parse(data):
                if answer["header"]["sequence_number"] >= first:
                    yield answer

    def get(self, kind: int, message: bytes, what: str, absent: tuple[int, ...] = ()) -> nlmsg:
        """The one object asked for; None when the kernel answers with one of the errors in `absent`."""
        self._send((kind, 0, message), last=0)
        answer = next(self._answers(self._sequence))
        if answer["header"]["type"] != NLMSG_ERROR:
            return answer
        if -answer["error"] in absent:
            return None
        raise Failure.of(what, answer).error

    def dump(self, kind: int, message: bytes, what: str, decode: Callable[[bytes], _T]) -> list[_T]:
        """All objects that the kernel has and that the message does not filter out."""
        found: list[_T] = []
        self._send((kind, 0, message), last=NLM_F_DUMP)
        self._marshal.seq_map[self._sequence] = functools.partial(_collect, found, decode)
        try:
            end = next(self._answers(self._sequence))
        finally:
            del self._marshal.seq_map[self._sequence]
        if end["error"]:
            raise Failure.of(what, end).error
        return found


@contextlib.contextmanager
def _kernel() -> Iterator[None]:
    """The socket's own failures, such as a kernel without memory for the answer, as what they are."""
    try:
        yield
    except OSError as error:
        raise HostFailure(
            f"cannot talk to the kernel by netlink: {error.strerror}", "repeat the request"
        ) from error


def _collect(found: list[_T], decode: Callable[[bytes], _T], data: bytes, at: int, length: int) -> nlmsg:
    """A parser as pyroute2 takes them. Hands on the dump's end alone, which has an error number in any case."""
    message = data[at : at + length]
    if _STAMP.unpack_from(message, _STAMP_AT)[0] in (NLMSG_DONE, NLMSG_ERROR):
        return decoded(nlmsgerr, message)
    found.append(decode(message))
    return None
