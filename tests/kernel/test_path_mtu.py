"""Somewhere on the way less fits than a pod may send: it is told, and its connections go on in smaller packets.

That takes answers in the name of whoever can't pass a packet on: the node's kernel on the way out, and on the way to
another node the tunnel's device, whose answer comes back through the pipeline as if the peer had sent it.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

import pytest
from lab_world import running

from ovsnet.host.datapath import kernel_has_openvswitch
from ovsnet.lab.lab import Lab
from ovsnet.lab.spec import outside_interface

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not kernel_has_openvswitch(), reason="this kernel has no openvswitch; see --in-kernel"
    ),
]
VERSIONS = pytest.mark.parametrize("version", [4, 6])
NARROW = 1400
"""Bytes that pass where less passes than the uplink's 1,500. Above 1,280 + 70, for IPv6 within a tunnel."""
HEADERS = {4: 28, 6: 48}
"""Of IP and ICMP, in front of what ping counts."""
OVERHEAD = 50
"""VXLAN over IPv4."""
UPLOAD = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), timeout=20) as web:
    web.sendall(b"GET / HTTP/1.0\\r\\nFiller: " + bytes(60000) + b"\\r\\n\\r\\n")
    print(web.makefile().read())
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=1, underlay="dual", datapath="system") as lab:
        yield lab


@contextlib.contextmanager
def narrow(lab: Lab, node: str, target: object) -> Iterator[None]:
    """What the node sends there must be small."""
    family = "-6" if ":" in str(target) else "-4"
    prefix = f"{target}/{128 if family == '-6' else 32}"
    lab.run(node, ["ip", family, "route", "add", prefix, "dev", "eth0", "mtu", "lock", str(NARROW)])
    try:
        yield
    finally:
        lab.run(node, ["ip", family, "route", "delete", prefix])
        for place in (node, "a1"):
            for version in ("-4", "-6"):  # what they have learnt of the path
                lab.run(place, ["ip", version, "route", "flush", "cache"])


def told(lab: Lab, source: str, target: object, size: int) -> int | None:
    """The MTU that somebody answered to a ping of that size that must not be fragmented; None: nobody did."""
    version = 6 if ":" in str(target) else 4
    command = ["ping", "-n", "-c2", "-i0.3", "-W2", "-Mdo", f"-s{size - HEADERS[version]}", str(target)]
    done = lab.run(source, command)
    found = re.search(r"^From .*mtu\s*=\s*(\d+)", done.stdout + done.stderr, re.MULTILINE)
    return int(found[1]) if found else None


def uploads(lab: Lab, source: str, target: object) -> bool:
    """Whether much more than a packet arrives there over TCP."""
    done = lab.exec(source, [sys.executable, "-I", "-S", "-c", UPLOAD, str(target)])
    return '"received": 600' in done.stdout


@VERSIONS
def test_on_the_way_out(lab: Lab, version: int) -> None:
    target = outside_interface(version).ip
    with narrow(lab, "node-a", target):
        assert told(lab, "a1", target, 1450) == NARROW
        assert told(lab, "a1", target, NARROW) is None
        assert uploads(lab, "a1", target)


@VERSIONS
def test_on_the_way_to_another_node(lab: Lab, version: int) -> None:
    target = lab.pod("b1").address(version)
    with narrow(lab, "node-a", lab.node("node-b").node.address(4)):
        assert told(lab, "a1", target, 1450) == NARROW - OVERHEAD
        assert uploads(lab, "a1", target)
