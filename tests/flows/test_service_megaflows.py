"""Among 200 Services with 2,000 endpoints in each family: what concerns none of them is not followed, and shares
entries of the datapath as if there were none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from crowd_world import crowd
from flow_world import A1, A2, NODE, PEERS, WITH_SERVICES, B, Bridge, C, make_bridge, make_underlay
from ovs_sandbox import Sandbox
from packets import ROUTER, ip

A1_4, A1_6, A2_4, A2_6 = (str(address) for pod in (A1, A2) for address in pod.ips)


@pytest.fixture(scope="module")
def crowded() -> Iterator[Bridge]:
    with Sandbox() as running:
        make_underlay(running)
        made = make_bridge(running, "br-int", (A1, A2), PEERS)
        made.install((*WITH_SERVICES, *crowd()))
        yield made


PLAIN = {
    "pod to pod": ip(A2, A2_4, A1_4, A1.mac),
    "pod to pod, IPv6": ip(A2, A2_6, A1_6, A1.mac),
    "to a peer's pod": ip(A2, A2_4, "10.244.2.9", NODE.mac),
    "to a peer's pod, IPv6": ip(A2, A2_6, "fd00:2::9", NODE.mac),
    "from a peer's pod": ip(B, "10.244.2.9", A2_4, ROUTER.mac),
    "from a peer's pod, IPv6": ip(C, "fd00:3::9", A2_6, ROUTER.mac),
    "to the gateway": ip(A2, A2_4, "10.244.1.1", NODE.mac),
    "from the gateway": ip(NODE, "10.244.1.1", A2_4, A2.mac),
    "to outside": ip(A2, A2_4, "198.51.100.7", NODE.mac),
    "to outside, IPv6": ip(A2, A2_6, "2001:db8:f00::7", NODE.mac),
    "from outside": ip(NODE, "198.51.100.7", A2_4, A2.mac),
    "from outside, IPv6": ip(NODE, "2001:db8:f00::7", A2_6, A2.mac),
}


@pytest.mark.parametrize("shows", PLAIN)
def test_what_no_service_concerns_is_not_followed(crowded: Bridge, shows: str) -> None:
    answer = crowded.trace(PLAIN[shows])
    assert answer.flow.output is not None, answer.text
    assert len(answer.megaflows) == 1, answer.text
    assert "ct(" not in answer.flow.datapath_actions
    assert "recirc" not in answer.flow.datapath_actions


@pytest.mark.parametrize(
    "shows", [each for each in PLAIN if each != "pod to pod" and each != "pod to pod, IPv6"]
)
def test_its_entries_match_no_ports(crowded: Bridge, shows: str) -> None:
    answer = crowded.trace(PLAIN[shows])
    matched = [name for name in answer.megaflow if name.startswith(("tp_", "tcp_", "udp_", "ct_"))]
    assert matched == [], answer.text
