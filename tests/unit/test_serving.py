"""What the agent does for Services besides deriving them: what it remembers, whom it answers."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from ovsnet import names, resources
from ovsnet.agent.serving import Serving
from ovsnet.config import Config
from ovsnet.endpoints import Here
from ovsnet.render import Renderer
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from ovsnet.store import Snapshot

HERE = Here(node="n")
COOKIE = names.cookie("service", "default/web")
TRACKED = f"cookie={COOKIE:#x},table=30,priority=100,tcp,nw_dst=10.96.0.1,tp_dst=80 actions=goto_table:32"
FLOW = f"cookie={COOKIE:#x},table=38,priority=100,ct_state=+new+trk,tcp,nw_dst=10.96.0.1,tp_dst=80 actions=group:7"
GROUP = "group_id=7,type=select,bucket=bucket_id:0,actions=drop"


class Switch:
    """With flows and groups of an earlier agent, as long as nobody restarts it."""

    def __init__(self) -> None:
        self.flows, self.held = [TRACKED, FLOW], {7: GROUP}

    def restart(self) -> None:
        self.flows, self.held = [], {}

    async def flows_of(self, kind: str) -> list[str]:
        cookie, mask = names.cookies_of(kind)
        return [line for line in self.flows if COOKIE & mask == cookie]

    async def groups(self) -> dict[int, str]:
        return self.held


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
async def serving(switch: Switch) -> AsyncIterator[Serving]:
    made = Serving(
        cast(Any, switch), Renderer(resources.flows_dir()), Config(ovsdb="unix:/nowhere"), lambda: None
    )
    yield made
    made.close()


async def test_what_an_earlier_agent_installed_outlives_a_switch_that_forgets(
    switch: Switch, serving: Serving
) -> None:
    """The store is away all the time."""
    await serving.follow(None, HERE, unknown=True)
    kept, reach = serving.with_kept({}), serving.reach
    assert [line for lines in kept.values() for line in lines] == [TRACKED, FLOW, GROUP]
    assert [str(network) for network in reach.networks] == ["10.96.0.1/32"]
    switch.restart()
    await serving.follow(None, HERE, unknown=True)
    assert serving.with_kept({}) == kept
    assert serving.reach == reach
    await serving.follow(Snapshot(nodes={}, problems={}, version=1), HERE, unknown=True)
    assert serving.with_kept({}) == {}


def served(service: Service) -> Snapshot:
    """With an endpoint: without any nobody takes connections to a node port."""
    piece = EndpointSlice(
        namespace="default",
        name="web-1",
        service="web",
        ports=(EndpointPort(port=8080),),
        endpoints=(Endpoint(address=ipaddress.ip_address("10.244.1.5")),),
    )
    return Snapshot(
        nodes={}, problems={}, version=1, services={service.key: service}, slices={piece.key: piece}
    )


@pytest.mark.parametrize(
    ("bound", "limits", "taken"),
    [
        ("0.0.0.0", (), "from elsewhere;"),
        ("0.0.0.0", ("192.0.2.0/24", "198.51.100.7/32"), "from elsewhere at 192.0.2.0/24, 198.51.100.7/32;"),
        ("127.0.0.2", (), ""),
        ("127.0.0.2", ("192.0.2.0/24",), ""),
        ("::ffff:0.0.0.0", ("192.0.2.0/24",), "from elsewhere at 192.0.2.0/24;"),
    ],
)
async def test_a_process_is_told_of_if_a_node_port_takes_its_connections(
    switch: Switch, bound: str, limits: tuple[str, ...], taken: str
) -> None:
    with socket.socket(socket.AF_INET6 if ":" in bound else socket.AF_INET) as process:
        process.bind((bound, 0))
        process.listen()
        service = Service(
            namespace="default",
            name="web",
            cluster_ips=(ipaddress.ip_address("10.96.0.1"),),
            ports=(ServicePort(port=80, node_port=process.getsockname()[1]),),
        )
        serving = Serving(
            cast(Any, switch),
            Renderer(resources.flows_dir()),
            Config(node_port_addresses=tuple(map(ipaddress.ip_network, limits))),
            lambda: None,
        )
        await serving.follow(served(service), HERE, unknown=False)
    assert [taken in problem for problem in serving.problems] == ([True] if taken else [])


async def test_a_health_check_port_is_answered_when_it_becomes_free(serving: Serving) -> None:
    """Though nothing else changes meanwhile."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        service = Service(
            namespace="default",
            name="web",
            cluster_ips=(ipaddress.ip_address("10.96.0.1"),),
            load_balancer_ips=(ipaddress.ip_address("203.0.113.1"),),
            ports=(ServicePort(port=80, node_port=30080),),
            external_local=True,
            health_check_port=port,
        )
        snapshot = Snapshot(nodes={}, problems={}, version=1, services={service.key: service})
        await serving.follow(snapshot, HERE, unknown=False)
        assert [str(port) in problem for problem in serving.problems] == [True]
    await serving.follow(snapshot, HERE, unknown=False)
    assert serving.problems == []
    with socket.create_connection(("127.0.0.1", port), 5):
        pass
