"""How long the OpenFlow messages are that a program sends a switch."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType

from ovs_sandbox import Sandbox

GROUP_MOD, BUNDLE_ADD_MESSAGE = 15, 34
"""Types of messages (OpenFlow 1.5, section 7.1.1)."""
_HEADER = struct.Struct("!BBHI")
_ADDED = _HEADER.size + 8
"""Where the message begins that is put into a bundle (section 7.3.9.6)."""


class Tap:
    """Hands on everything of each connection, and keeps what programs sent. target: as ovs-ofctl takes it."""

    def __init__(self, ovs: Sandbox, bridge: str) -> None:
        self._path = ovs.folder / "tap"
        self.target = f"unix:{self._path}"
        self._switch = ovs.mgmt(bridge).removeprefix("unix:")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._path))
        self._listening.listen()
        self._sent: list[bytearray] = []
        """By connection: ovs-ofctl asks on one which tables there are, and sends a bundle on another."""
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Tap:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """When the programs have ended."""
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()
        self._path.unlink()

    def lengths(self, kind: int) -> list[int]:
        """In bytes, of messages of this type that came in bundles, with the header of the bundle's message."""
        return [length for sent in self._sent for length in _lengths(sent, kind)]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end
            while True:
                program, _ = self._listening.accept()
                switch = socket.socket(socket.AF_UNIX)
                switch.connect(self._switch)
                self._sent.append(bytearray())
                for ends in ((program, switch, self._sent[-1]), (switch, program, bytearray())):
                    self._threads.append(threading.Thread(target=_pump, args=ends))
                    self._threads[-1].start()


def _pump(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    with source, contextlib.suppress(OSError):  # closed at the other end
        while data := source.recv(1 << 16):
            kept += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _lengths(sent: bytearray, kind: int) -> Iterator[int]:
    at = 0
    while at < len(sent):
        _, message, length, _ = _HEADER.unpack_from(sent, at)
        if message == BUNDLE_ADD_MESSAGE and sent[at + _ADDED + 1] == kind:
            yield length
        at += length
