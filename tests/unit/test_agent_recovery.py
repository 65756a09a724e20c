"""Rows that are given back at a start: what one cached result says wrong costs no other pod its row, nor the start."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from lost_pods import TOPOLOGY, pod
from msgspec.structs import replace

from ovsnet import names
from ovsnet.agent.recovery import Recovery
from ovsnet.cni.resultcache import Cached
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.model import Pod
from ovsnet.rows import AddPort, BridgeRow, PortRow, SetIdentity

BRIDGE = BridgeRow(name="br-int", datapath_type="", fail_mode="secure", other_config={}, external_ids={})


class Rows:
    """The database. refuses: ports that it takes in no transaction."""

    def __init__(self) -> None:
        self.rows: dict[str, PortRow] = {}
        self.refuses: set[str] = set()
        self.there: BridgeRow | None = BRIDGE
        self.away = False

    def ports(self) -> Mapping[str, PortRow]:
        return self.rows

    def bridge(self) -> BridgeRow | None:
        return self.there

    async def apply(self, changes: Sequence[AddPort | SetIdentity]) -> None:
        if self.away:
            raise SwitchUnavailable("ovsdb-server is away")
        given = [
            (each.name, each.external_ids)
            if isinstance(each, SetIdentity)
            else (each.spec.name, each.spec.external_ids)
            for each in changes
        ]
        added = [name for name, _ in given]
        if self.there is None or self.refuses.intersection(added) or len(set(added)) < len(added):
            raise OvsnetError("constraint violation")
        self.rows |= {name: PortRow(name=name, external_ids=ids) for name, ids in given}


class Links:
    def __init__(self, *ports: str) -> None:
        self.ports = ports

    async def list_ours(self) -> dict[str, int]:
        return {names.token_of(port): 1450 for port in self.ports}


@pytest.fixture(autouse=True)
def lies(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is wrong with the entry of a container. Real interfaces are asked in test_recovery."""
    lies: dict[str, str] = {}

    async def contradiction(pod: Pod, links: object) -> str:
        return lies.get(pod.container, "")

    monkeypatch.setattr("ovsnet.agent.recovery.contradiction", contradiction)
    return lies


def recovery(rows: Rows, cached: Cached) -> Recovery:
    links = Links(*(pod(number).port for number in range(2, 6)))
    return Recovery(ovsdb=cast(Any, rows), links=cast(Any, links), read=lambda: cached)


async def test_two_entries_of_one_port_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows()
    tested = recovery(
        rows, Cached((pod(2), replace(pod(3), port=pod(2).port), pod(4)), ("an entry is broken",))
    )
    with caplog.at_level(logging.WARNING):
        await tested.give_back(TOPOLOGY)
        await tested.give_back(TOPOLOGY)
    assert set(rows.rows) == {pod(4).port}
    assert sum(f"port {pod(2).port} is given back to nobody" in line for line in caplog.messages) == 1
    assert caplog.messages.count("an entry is broken") == 1


async def test_an_entry_that_the_interface_refutes_gives_nothing_and_costs_nobody(
    lies: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows()
    liar = replace(pod(2), container="liar")
    lies["liar"] = "the interface has another MAC"
    await recovery(rows, Cached((liar, pod(2)))).give_back(TOPOLOGY)
    assert rows.rows[pod(2).port].external_ids[names.KEY_CONTAINER] == pod(2).container
    assert any("does not get port" in line and "another MAC" in line for line in caplog.messages)


async def test_a_row_that_lost_its_mark_gets_it_back(caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows()
    rows.rows = {pod(number).port: PortRow(name=pod(number).port) for number in (2, 3)}
    await recovery(rows, Cached((pod(2),))).give_back(TOPOLOGY)
    assert rows.rows[pod(2).port].external_ids[names.KEY_CONTAINER] == pod(2).container
    assert any(f"port {pod(3).port} has lost its mark" in line for line in caplog.messages)


async def test_a_row_that_is_refused_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows()
    rows.refuses.add(pod(3).port)
    await recovery(rows, Cached((pod(2), pod(3), pod(4)))).give_back(TOPOLOGY)
    assert set(rows.rows) == {pod(2).port, pod(4).port}
    assert f"port {pod(3).port} does not get its row back: constraint violation" in caplog.messages


@pytest.mark.parametrize("away", [True, False])
async def test_a_switch_that_is_away_is_waited_for(away: bool) -> None:
    """Else the pods' interfaces would be taken for nobody's."""
    rows = Rows()
    rows.away = away
    rows.there = None
    tested = recovery(rows, Cached((pod(2), pod(3))))
    with pytest.raises(OvsnetError):
        await tested.give_back(TOPOLOGY)
    rows.away, rows.there = False, BRIDGE
    await tested.give_back(TOPOLOGY)
    assert set(rows.rows) == {pod(2).port, pod(3).port}


async def test_entries_are_read_for_what_has_no_row_alone() -> None:
    rows = Rows()
    marked = {names.OWNER: names.ROLE_POD}
    rows.rows = {
        pod(number).port: PortRow(name=pod(number).port, external_ids=marked) for number in range(2, 6)
    }
    tested = recovery(rows, cast(Any, None))
    await tested.give_back(TOPOLOGY)
