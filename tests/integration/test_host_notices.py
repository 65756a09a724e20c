"""The kernel's news: what is told of, and what is not."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from host_world import World, run

from ovsnet.host.notices import Notices
from ovsnet.host.types import STEERED_TABLE

PORT, ROUTER = "pod-0000000a", "fe80::1"
NOTICED, QUIET = 5.0, 0.3
"""Seconds: news takes some 50 ms, whoever keeps the machine busy; and so long nothing is told."""
SETTINGS = {"forwarding": "net.ipv4.ip_forward", "IPv6 forwarding": "net.ipv6.conf.all.forwarding"}
OURS = {
    "the gateway's MTU": "ip link set ovsnet0 mtu 1300",
    "its address": "ip address add 10.1.0.1/24 dev ovsnet0",
    "a route over it": "ip route add 10.2.0.0/24 dev ovsnet0",
    "a setting of it": "sysctl -q -w net.ipv4.conf.ovsnet0.rp_filter=1",
    **{key: f"sysctl -q -w {name}=1" for key, name in SETTINGS.items()},
    "the router": f"ip neigh add {ROUTER} lladdr 02:00:00:00:00:01 dev ovsnet0",
    "the uplink's MTU": "ip link set uplink mtu 1300",
    "a rule that leads to our routes": f"ip rule add pref 99 fwmark 1 lookup {STEERED_TABLE}",
    "one of IPv6": f"ip -6 rule add pref 99 fwmark 1 lookup {STEERED_TABLE}",
    "the table": "nft add table inet ovsnet",
}
PODS = {"down": f"ip link set {PORT} down", "MTU": f"ip link set {PORT} mtu 1300"}
OTHERS = {
    "another neighbour": "ip neigh add 10.1.0.7 lladdr 02:00:00:00:00:01 dev ovsnet0",
    "another link": "ip link set other mtu 1300",
    "another link down": "ip link set other down",
    "another's setting": "sysctl -q -w net.ipv4.conf.other.rp_filter=1",
    "another rule": "ip rule add pref 99 fwmark 1 lookup 77",
    "another table": "nft add table inet other",
    "the uplink's address": "ip address add 192.0.2.1/24 dev uplink",
    "a pod's port comes": "ip link add pod-0000000b mtu 1400 up type veth peer name far mtu 1400",
}


class Told:
    """How often which was called."""

    def __init__(self) -> None:
        self.host = self.pods = 0

    def counting(self, what: str) -> Callable[[], None]:
        return lambda: setattr(self, what, getattr(self, what) + 1)

    async def of(self, what: str) -> bool:
        for _ in range(round(NOTICED / 0.01)):
            if getattr(self, what):
                return True
            await asyncio.sleep(0.01)
        return False


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with World():
        # No news of addresses that turn out to be nobody else's, seconds later.
        run("sysctl -q -w net.ipv6.conf.default.accept_dad=0")
        for name in ("ovsnet0", "uplink", "other"):
            run(f"ip link add {name} type bridge")
            run(f"ip link set {name} up")
        run(f"ip link add {PORT} mtu 1400 type veth peer name there mtu 1400")
        run(f"ip link set {PORT} up")
        run("ip link set there up")
        yield


@pytest_asyncio.fixture
async def told(node: None) -> AsyncIterator[Told]:
    told = Told()
    notices = Notices(
        "ovsnet0",
        ipaddress.ip_address(ROUTER),
        "inet ovsnet",
        told.counting("host"),
        told.counting("pods"),
    )
    notices.uplink, notices.mtu = "uplink", 1400
    notices.start()
    yield told
    notices.close()


async def silence(told: Told) -> None:
    """Until the kernel has told all that the fixture did."""
    told.host = 1
    while told.host or told.pods:
        told.host = told.pods = 0
        await asyncio.sleep(QUIET)


@pytest.mark.parametrize("what", OURS)
async def test_what_is_ours_is_told_of(told: Told, what: str) -> None:
    await silence(told)
    run(OURS[what])
    assert await told.of("host")
    assert not told.pods


@pytest.mark.parametrize("what", PODS)
async def test_a_pods_link_that_somebody_altered_is_told_of(told: Told, what: str) -> None:
    await silence(told)
    run(PODS[what])
    assert await told.of("pods")


@pytest.mark.parametrize("what", OTHERS)
async def test_what_is_others_is_not(told: Told, what: str) -> None:
    await silence(told)
    run(OTHERS[what])
    await asyncio.sleep(QUIET)
    assert (told.host, told.pods) == (0, 0)


async def test_a_pods_link_that_goes_is_not_one_that_was_set_down(told: Told) -> None:
    """The kernel tells of both, of the second a moment later; on a busy machine that may be a long one."""
    for _ in range(5):
        told.pods = 0
        run(f"ip link delete {PORT}")
        await asyncio.sleep(QUIET)
        if not told.pods:
            return
        run(f"ip link add {PORT} mtu 1400 type veth peer name there mtu 1400")
        run(f"ip link set {PORT} up")
    raise AssertionError("taken for set down, five times")
