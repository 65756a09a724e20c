"""Why entries of the datapath in user space are made anew when a group chooses by less of the hash: what Open vSwitch
does with them otherwise, on a bare bridge.

An entry that looks at more of the hash than it would need stays as it is. One that is made later, for fewer slots,
overlaps with it. Open vSwitch 3.1.0 finds the entry that it is to alter by a packet, which both match, and so alters
one of them twice and the other never. Both are believed to be right from then on, and the wrong one lives as long as
packets meet it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest
from lab_world import eventually
from ovs.unixctl.client import UnixctlClient
from ovs_sandbox import Sandbox

PACKET = (
    "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),"
    "ipv4(src=10.0.0.1,dst=10.0.0.2,proto=17,tos=0,ttl=64,frag=no),udp(src={},dst={})"
)
MANY, MORE = range(1000, 1060), range(1060, 1120)
"""Ports of clients: of the first some slots of 64 have none, which later some have that are the same of 32."""
OTHER = 54
"""The port of another group, which always has two endpoints. Its entries, made first, are looked at first."""


class Switch:
    """Endpoints are ports of a bridge; p1 is the client's."""

    def __init__(self, ovs: Sandbox) -> None:
        self.ovs = ovs
        ovs.vsctl("set", "Open_vSwitch", ".", "other_config:emc-insert-inv-prob=0")
        ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy", "fail-mode=secure")
        for number in range(1, 5):
            port = f"p{number}"
            ovs.vsctl(
                "add-port",
                "br0",
                port,
                "--",
                "set",
                "interface",
                port,
                "type=dummy",
                f"ofport_request={number}",
            )
        error, self._control = UnixctlClient.create(f"{ovs.folder}/ovs-vswitchd.ctl")
        assert not error

    def serve(self, *endpoints: int, group: int = 1, add: bool = False) -> None:
        """With weights as `Group.shares` has them, so that two have 32 slots and four 64."""
        first, *others = endpoints
        weights = [(first, 15), (first, 1), *((each, 16) for each in others)]
        buckets = "".join(f",bucket=weight:{weight},actions=output:{each}" for each, weight in weights)
        line = f"group_id={group},type=select,selection_method=dp_hash{buckets}"
        command = "add-group" if add else "mod-group"
        self.ovs.ofctl("-O", "OpenFlow15", command, self.ovs.mgmt("br0"), line)

    def send(self, clients: Iterable[int], to: int = 53) -> set[int]:
        """Where datagrams from these ports get."""
        before = self._sent()
        for each in clients:
            self._transact("netdev-dummy/receive", "p1", PACKET.format(each, to))
        return set((self._sent() - before).keys())

    def _sent(self) -> Counter[int]:
        found = re.findall(
            r"port +\"?p?(\d)\"?:.*?tx pkts=(\d+)", self.ovs.ofctl("dump-ports", self.ovs.mgmt("br0")), re.S
        )
        return Counter({int(port): int(count) for port, count in found})

    def entries(self) -> set[tuple[str, int]]:
        """How much of the hash those of the group look at, and where they lead."""
        dumped = self._transact("dpctl/dump-flows", "-m", "dummy@ovs-dummy")
        found = re.findall(r"dp_hash\(0x\w+/(0x[1-9a-f]\w*)\).*dst=53.*actions:p?(\d)", dumped)
        return {(mask, int(port)) for mask, port in found}

    def _transact(self, *command: str) -> str:
        error, failure, answer = self._control.transact(command[0], list(command[1:]))
        assert not error, error
        assert not failure, failure
        return str(answer)


@pytest.fixture
def switch() -> Iterator[Switch]:
    """One of its own: entries of others would be made anew with it."""
    with Sandbox() as ovs:
        made = Switch(ovs)
        made.serve(2, 2, group=2, add=True)
        made.serve(2, 3, 2, 3, add=True)
        flows = (
            f"priority=9,in_port=1,udp,tp_dst={OTHER},actions=group:2",
            "priority=1,in_port=1,udp,actions=group:1",
        )
        for flow in flows:
            ovs.ofctl("add-flow", ovs.mgmt("br0"), flow)
        yield made


def test_a_group_that_narrows_needs_new_entries(switch: Switch) -> None:
    switch.send(range(30), to=OTHER)
    assert switch.send(MANY) == {2, 3}
    switch.serve(3, 3)
    eventually(lambda: switch.entries() == {("0x3f", 3)})
    assert switch.send(MORE) == {3}
    assert switch.entries() == {("0x3f", 3), ("0x1f", 3)}
    switch.serve(4, 4)
    eventually(lambda: {("0x3f", 4), ("0x1f", 4)} <= switch.entries())
    switch.serve(4, 4, 4, 4)
    eventually(lambda: ("0x1f", 4) not in switch.entries())
    if "(Open vSwitch) 3.1.0" in switch.ovs.appctl("version"):
        assert switch.send([*MANY, *MORE]) == {3, 4}, "no bucket leads to 3 any more"
    switch.ovs.appctl("revalidator/purge")
    assert switch.send([*MANY, *MORE]) == {4}
