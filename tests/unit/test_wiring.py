"""What a pod's port is asked for, and what remains of one that failed."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import pytest

from ovsnet import names
from ovsnet.agent.wiring import Wiring
from ovsnet.errors import AlreadyAttached, HostFailure, SwitchUnavailable
from ovsnet.host.types import AttachSpec
from ovsnet.rows import AddPort, Change, DeletePort, PortRow

IDENTITY = {names.OWNER: names.ROLE_POD}


class Rows:
    """The database and ovs-vswitchd: numbers that are free are given as asked for."""

    def __init__(self) -> None:
        self.rows: dict[str, PortRow] = {}
        self.given: dict[str, int] = {}
        self.away = False

    def ports(self) -> Mapping[str, PortRow]:
        return self.rows

    async def apply(self, changes: list[Change]) -> None:
        if self.away:
            raise SwitchUnavailable("ovsdb-server is away")
        for change in changes:
            if isinstance(change, AddPort):
                spec = change.spec
                self.rows[spec.name] = PortRow(
                    name=spec.name, external_ids=spec.external_ids, ofport_request=spec.ofport_request
                )
            else:
                assert isinstance(change, DeletePort)
                del self.rows[change.name]

    async def wait_ofports(self, names: list[str], patience: float) -> dict[str, int]:
        return {name: self.given.get(name) or self.rows[name].ofport_request or -1 for name in names}


class Pairs:
    """The kernel: what was done to which pair, in order."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.failure: Exception | None = None
        self.refuses = False

    @property
    def stuck(self) -> bool:
        return False

    async def make(self, spec: AttachSpec) -> None:
        if isinstance(self.failure, AlreadyAttached):
            raise self.failure
        self.done.append(("make", spec.token))

    async def set_up(self, spec: AttachSpec, tx_off: bool) -> None:
        if self.failure:
            raise self.failure
        self.done.append(("set up", spec.token))

    async def detach(self, token: str) -> None:
        if self.refuses:
            raise HostFailure("the kernel is busy")
        self.done.append(("detach", token))


def spec(token: str) -> AttachSpec:
    return AttachSpec(
        token=token,
        netns=9,
        ifname="eth0",
        mac="0a:58:0a:f4:01:05",
        mtu=1450,
        addresses=(ipaddress.ip_interface("10.244.1.5/24"),),
    )


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def pairs() -> Pairs:
    return Pairs()


async def test_the_pods_end_comes_up_when_its_port_is_there(rows: Rows, pairs: Pairs) -> None:
    wiring = Wiring(rows, pairs)
    with wiring.slot() as (token, ofport):
        assert await wiring.connect(spec(token), ofport, IDENTITY) == ofport
    assert pairs.done == [("make", token), ("set up", token)]
    assert rows.rows[f"pod-{token}"].external_ids == IDENTITY


async def test_numbers_under_way_are_nobody_elses(rows: Rows, pairs: Pairs) -> None:
    wiring = Wiring(rows, pairs)
    rows.rows["eth9"] = PortRow(name="eth9", ofport=17)
    with wiring.slot() as (_, first), wiring.slot() as (_, second):
        assert (first, second) == (16, 18)
    with wiring.slot() as (_, again):
        assert again == 16, "it was given back"


async def test_vswitchd_has_the_last_word_on_the_number(rows: Rows, pairs: Pairs) -> None:
    wiring = Wiring(rows, pairs)
    with wiring.slot() as (token, ofport):
        rows.given[f"pod-{token}"] = 99
        assert await wiring.connect(spec(token), ofport, IDENTITY) == 99


async def test_an_interface_that_exists_makes_no_row(rows: Rows, pairs: Pairs) -> None:
    pairs.failure = AlreadyAttached("the pod has eth0")
    wiring = Wiring(rows, pairs)
    with wiring.slot() as (token, ofport), pytest.raises(AlreadyAttached):
        await wiring.connect(spec(token), ofport, IDENTITY)
    assert (rows.rows, pairs.done) == ({}, [])


async def test_disconnecting_takes_row_and_pair_back(rows: Rows, pairs: Pairs) -> None:
    pairs.failure = HostFailure("no route")
    wiring = Wiring(rows, pairs)
    with wiring.slot() as (token, ofport):
        with pytest.raises(HostFailure):
            await wiring.connect(spec(token), ofport, IDENTITY)
        await wiring.disconnect(token)
    assert (rows.rows, pairs.done) == ({}, [("make", token), ("detach", token)])


async def test_a_row_that_can_not_go_now_goes_later(rows: Rows, pairs: Pairs) -> None:
    wiring = Wiring(rows, pairs)
    with wiring.slot() as (token, ofport):
        await wiring.connect(spec(token), ofport, IDENTITY)
    rows.away = True
    await wiring.disconnect(token)
    assert list(rows.rows) == [f"pod-{token}"]
    rows.away = False
    await wiring.clear_up()
    assert (rows.rows, pairs.done[-1]) == ({}, ("detach", token))
    done = list(pairs.done)
    await wiring.clear_up()
    assert pairs.done == done, "nothing is left to clear up"


async def test_a_pair_that_can_not_go_now_goes_later(rows: Rows, pairs: Pairs) -> None:
    wiring = Wiring(rows, pairs)
    with wiring.slot() as (token, ofport):
        await wiring.connect(spec(token), ofport, IDENTITY)
    pairs.refuses = True
    await wiring.disconnect(token)
    assert rows.rows == {}
    pairs.refuses = False
    await wiring.clear_up()
    assert pairs.done[-1] == ("detach", token)
