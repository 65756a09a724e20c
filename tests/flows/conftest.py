"""Fixtures of the pipeline's tests: one switch for all of them, with the state of `flow_world` installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flow_world import A1, A2, PEERS, STATE, WITH_SERVICES, Bridge, make_bridge, make_underlay
from ovs_sandbox import Sandbox, installed
from policed_world import everything_allowed
from wire import Wire


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is rendered to tests/flows/golden instead of comparing",
    )


@pytest.fixture(scope="session")
def ovs() -> Iterator[Sandbox]:
    """A switch without root. Tests read it or make bridges of their own."""
    if not installed():
        pytest.skip("Open vSwitch is not installed")
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="session")
def serving() -> Iterator[Bridge]:
    """The same bridge in a switch of its own, with Services."""
    with Sandbox() as running:
        make_underlay(running)
        made = make_bridge(running, "br-int", (A1, A2), PEERS)
        made.install(WITH_SERVICES)
        yield made


@pytest.fixture(scope="session")
def bridge(ovs: Sandbox) -> Bridge:
    """The bridge that all packets are traced on."""
    make_underlay(ovs)
    made = make_bridge(ovs, "br-int", (A1, A2), PEERS)
    made.install(STATE)
    return made


@pytest.fixture(scope="session", params=["free", "policed"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A bridge with Services to send real packets through: policies that allow everything make no difference."""
    if not installed():
        pytest.skip("Open vSwitch is not installed")
    with Sandbox() as running:
        policies = everything_allowed() if request.param == "policed" else ()
        yield Wire(running, (A1, A2), (*WITH_SERVICES, *policies))
