"""What `ovsnet trace` says of packets between names: who gets them, as it was seen with real ones."""

from __future__ import annotations

import asyncio

import pytest
from flow_world import RENDERER, TABLES, WITH_SERVICES, Bridge

from ovsnet import flowdump, pipeline, tracing
from ovsnet.switch import trace

REASONS = {
    (table.number, priority): reason
    for table in RENDERER.tables
    for priority, reason in pipeline.drops(table).items()
}
OUTSIDE = "198.51.100.7"
A1, A2 = "DELIVERED to pod default/a1 by", "DELIVERED to pod default/a2 by"
SELF = "DELIVERED to pod default/a1 itself, which is the endpoint "
BACK = "HANDED back to the kernel of node node-a by the gateway port (1), for endpoint "
TUNNEL, GATEWAY = (
    "SENT to node node-b by vxlan tunnel",
    "HANDED to the kernel of node node-a by the gateway port (1)",
)
REFUSED = "REFUSED by the kernel of this node: "
NO_ENDPOINT, NOWHERE = (
    f"{REFUSED}the Service has no endpoint",
    f"{REFUSED}no Service has this address and port",
)
TAKEN = "TAKEN by the kernel of node node-a, to which it is addressed: it does not come to the bridge"
PAST = "SENT by the kernel of node node-a, by its own routes, past the bridge"
AWAY = "DROPPED in table track: another address or a node port, from outside: none of the endpoints is here"


@pytest.fixture(scope="module")
def traced(serving: Bridge) -> Bridge:
    """With the control socket where ovs-vswitchd has it unless told otherwise."""
    folder = serving.ovs.folder
    usual = folder / f"ovs-vswitchd.{(folder / 'ovs-vswitchd.pid').read_text().strip()}.ctl"
    usual.symlink_to(folder / "ovs-vswitchd.ctl")
    return serving


@pytest.mark.parametrize(
    ("source", "target", "port", "passes", "says"),
    [
        ("a1", "a2", 80, True, A2),
        ("a1", "a1", 80, True, "KEPT by pod default/a1"),
        ("a1", "itself", 80, True, f"{SELF}10.244.1.2:8080, by port pod-00000010 (16)"),
        ("a1", "fd00:96::b", 80, True, f"{SELF}[fd00:1::2]:8080, by port"),
        ("a2", "itself", 80, True, A1),
        ("a1", "api", 80, True, GATEWAY),
        ("a1", "api-there", 80, True, TUNNEL),
        ("a1", "guarded", 80, True, TUNNEL),
        ("a1", "nobody", 80, False, NO_ENDPOINT),
        ("a1", "itself", 81, False, NOWHERE),
        ("a1", "nobody-here", 80, False, "DROPPED in table track: a Service of whose endpoints none may answer here"),
        ("a1", "203.0.113.81", 81, True, GATEWAY),
        ("a1", "node-a", 30023, True, f"{GATEWAY}, which sends it back for node port 30023 of service default/its"),
        ("a1", "node-a", 30024, True, GATEWAY),
        ("a1", "8.8.8.8", 80, True, GATEWAY),
        ("node-a", "itself", 80, True, A1),
        ("node-a", "api", 80, True, f"{BACK}192.0.2.11:8080"),
        ("node-a", "fd00:96::8", 80, True, f"{BACK}[2001:db8::11]:8080"),
        ("node-a", "abroad", 80, True, f"{BACK}203.0.113.9:8080"),
        ("node-a", "nobody", 80, False, NO_ENDPOINT),
        ("node-a", "fd00:96::4", 80, False, NO_ENDPOINT),
        ("node-a", "itself", 81, False, NOWHERE),
        ("node-a", "node-a", 30023, True, A1),
        ("node-a", "node-a", 30015, True, TUNNEL),
        ("node-a", "node-a", 30016, True, f"{BACK}192.0.2.11:8080"),
        ("node-a", "node-a", 30024, True, TAKEN),
        ("node-a", "node-b", 80, True, PAST),
        ("node-a", "10.244.2.5", 80, True, TUNNEL),
        ("node-a", "10.244.1.99", 80, False, "DROPPED in table route: an address of this node's range that no pod has"),
        ("node-a", "8.8.8.8", 80, True, PAST),
        ("node-a", "203.0.113.81", 81, True, PAST),
        (OUTSIDE, "node-a", 30023, True, A1),
        ("2001:db8:100::7", "node-a", 30023, True, A1),
        (OUTSIDE, "10.244.1.1", 30013, True, A1),
        (OUTSIDE, "node-a", 30015, False, AWAY),
        (OUTSIDE, "node-a", 30014, True, TUNNEL),
        (OUTSIDE, "node-a", 30024, True, TAKEN),
        (OUTSIDE, "203.0.113.80", 80, True, TUNNEL),
        ("203.0.113.7", "203.0.113.80", 80, False, "DROPPED in table track: a load balancer's address, from a source"),
        ("10.244.2.5", "a1", 80, True, A1),
        ("10.244.2.5", "node-a", 30023, True, f"{GATEWAY}, which sends it back for node port 30023 of service default"),
        ("node-b", "node-a", 30023, True, A1),
        ("node-d", "node-a", 30015, True, TUNNEL),
        ("node-b", "node-a", 30024, True, TAKEN),
        ("node-b", "10.244.1.1", 30024, True, GATEWAY),
    ],
)  # fmt: skip
def test_a_verdict(traced: Bridge, source: str, target: str, port: int, passes: bool, says: str) -> None:
    question = tracing.Packet(
        source=tracing.endpoint(source, WITH_SERVICES),
        target=tracing.endpoint(target, WITH_SERVICES, "tcp", port),
        protocol="tcp",
        port=port,
    )
    past = tracing.past(question, WITH_SERVICES)
    if past is not None:
        assert passes
        assert past.startswith(says), past
        return
    packet = tracing.packet(question, WITH_SERVICES)
    text = asyncio.run(trace.trace(traced.ovs.remote, traced.name, packet))
    found = tracing.verdict(flowdump.trace(text), WITH_SERVICES, TABLES, REASONS, question)
    assert found[0] is passes, found
    assert found[1].startswith(says), text
