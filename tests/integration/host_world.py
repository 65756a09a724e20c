"""Network namespaces for tests of `ovsnet.host`: a node, in which the test itself runs, and others.

Names carry the process and a random number, so that runs side by side don't meet. All go when the test ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from ovsnet import pipeline
from ovsnet.host import netns, sysctl


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


@contextlib.contextmanager
def behind_a_gateway() -> Iterator[World]:
    """A node with two pods, a and b, and a host outside, in both families. A bridge stands in for the gateway port, so
    that two pods are behind one interface of the node."""
    with World() as world:
        # A router asks for no neighbour before its link-local address has been through detection.
        sysctl.ensure("ipv6/conf/default/accept_dad", 0)
        run("ip link add ovsnet0 type bridge")
        run("ip addr add 10.244.1.1/24 dev ovsnet0")
        run("ip addr add fd00:244:1::1/64 dev ovsnet0 nodad")
        run("ip link set ovsnet0 up")
        for translator in (pipeline.NODE_PORTS, pipeline.LOCAL_NODE_PORTS, pipeline.PORT_CLIENT):
            for address in translator.addresses:
                run(f"ip -{address.version} route add {address} dev ovsnet0")
        for number, name in ((5, "a"), (6, "b")):
            world.add(name)
            world.run(name, "sysctl -qw net.ipv6.conf.default.accept_dad=0")
            world.cable(f"port-{name}", name, "eth0")
            run(f"ip link set port-{name} master ovsnet0")
            world.run(name, f"ip addr add 10.244.1.{number}/24 dev eth0")
            world.run(name, f"ip addr add fd00:244:1::{number}/64 dev eth0 nodad")
            world.run(name, "ip route add default via 10.244.1.1")
            world.run(name, "ip -6 route add default via fd00:244:1::1")
        world.add("outside")
        world.run("outside", "sysctl -qw net.ipv6.conf.default.accept_dad=0")
        world.cable("uplink", "outside", "eth0")
        run("ip addr add 192.0.2.7/24 dev uplink")
        run("ip addr add 2001:db8::7/64 dev uplink nodad")
        world.run("outside", "ip addr add 192.0.2.1/24 dev eth0")
        world.run("outside", "ip addr add 198.51.100.1/24 dev eth0")
        world.run("outside", "ip addr add 2001:db8::1/64 dev eth0 nodad")
        world.run("outside", "ip route add default via 192.0.2.7")
        world.run("outside", "ip -6 route add default via 2001:db8::7")
        run("ip route add 198.51.100.0/24 via 192.0.2.1")
        # With br_netfilter the bridge would translate by itself what passes it, which no OVS bridge does.
        for key in ("bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"):
            sysctl.ensure(key, 0)
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            sysctl.ensure(key, 1)
        yield world
