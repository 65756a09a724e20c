"""Network namespaces for tests of `ovsnet.host`: a node, in which the test itself runs, and others.

Names carry the process and a random number, so that runs side by side don't meet. All go when the test ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
from types import TracebackType
from typing import Self

from ovsnet.host import netns


def run(command: str) -> str:
    """The output of a command line; an error that shows it when it fails."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class World:
    """Enters a new namespace, the node's, for as long as the `with` block lasts."""

    def __init__(self) -> None:
        self._prefix = f"ovsnet-{os.getpid()}-{secrets.token_hex(3)}"
        self._fds: dict[str, int] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.add("node")
        self._stack.enter_context(netns.entered(self._fds["node"]))
        run("ip link set lo up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for name, fd in self._fds.items():
            os.close(fd)
            run(f"ip netns delete {self._prefix}-{name}")

    def add(self, name: str) -> int:
        """A new namespace's descriptor, which the world closes."""
        run(f"ip netns add {self._prefix}-{name}")
        self._fds[name] = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        return self._fds[name]

    def path(self, name: str) -> str:
        return f"/run/netns/{self._prefix}-{name}"

    def run(self, name: str, command: str) -> str:
        """Run a command in a namespace."""
        return run(f"ip netns exec {self._prefix}-{name} {command}")

    def cable(self, near: str, name: str, far: str) -> None:
        """A veth pair from the node to a namespace, both ends up."""
        run(f"ip link add {near} type veth peer name {far} netns {self._prefix}-{name}")
        run(f"ip link set {near} up")
        self.run(name, f"ip link set {far} up")

    def socket(
        self, name: str, family: int, kind: int = socket.SOCK_DGRAM, protocol: int = 0
    ) -> socket.socket:
        """A socket in a namespace, with a time limit of two seconds."""
        with netns.entered(self._fds[name]):
            sock = socket.socket(family, kind, protocol)
        sock.settimeout(2)
        return sock
