"""The pool of spare ports: what it takes over, who is served first, what is left when something fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from ovsnet import names
from ovsnet.agent.pool import Pool, Spare
from ovsnet.errors import HostFailure, SwitchUnavailable
from ovsnet.rows import AddPort, Change, DeletePort, PortRow


class Rows:
    """The database and ovs-vswitchd as the pool sees them. vswitchd gives the numbers asked for."""

    def __init__(self, *rows: PortRow) -> None:
        self.rows = {row.name: row for row in rows}
        self.transactions: list[int] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    def ports(self) -> Mapping[str, PortRow]:
        return dict(self.rows)

    async def apply(self, changes: list[Change]) -> None:
        await asyncio.sleep(0)
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
        self.transactions.append(len(changes))

    async def wait_ofports(self, names: list[str], patience: float) -> dict[str, int]:
        await self.gate.wait()
        return {name: self.rows[name].ofport_request or -1 for name in names}


class Pairs:
    """The kernel's veth pairs."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = set(tokens)
        self.broken = False

    async def create_spares(self, tokens: list[str], mtu: int, tx_off: bool) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise HostFailure("no more interfaces")
        self.tokens |= set(tokens)

    async def detach(self, token: str) -> None:
        self.tokens.discard(token)


def spare_row(token: str, ofport: int | None) -> PortRow:
    return PortRow(
        name=names.host_interface(token),
        external_ids={names.OWNER: names.ROLE_SPARE},
        ofport=ofport,
        ofport_request=ofport,
    )


@pytest.fixture
async def rows() -> Rows:
    return Rows()


@pytest.fixture
async def pairs() -> Pairs:
    return Pairs()


async def filled(pool: Pool, size: int) -> None:
    """Waits until that many are ready."""
    for _ in range(500):
        if len(pool) == size:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(pool)} are ready, not {size}")


async def test_it_fills_up_in_one_transaction(rows: Rows, pairs: Pairs) -> None:
    pool = Pool(rows, pairs, 5)
    pool.mtu = 1450
    await pool.adopt(set())
    await filled(pool, 5)
    assert rows.transactions == [5]
    assert sorted(row.ofport_request or 0 for row in rows.rows.values()) == [16, 17, 18, 19, 20]
    assert {row.role for row in rows.rows.values()} == {names.ROLE_SPARE}
    assert {names.token_of(name) for name in rows.rows} == pairs.tokens
    assert (await pool.take()).mtu == 1450
    await pool.close()


async def test_an_earlier_runs_spares_are_taken_over(pairs: Pairs) -> None:
    """Not those of which a pod has the far end, that vswitchd never made, or that are no spares."""
    pod = PortRow(name="pod-0000000d", external_ids={names.OWNER: names.ROLE_POD}, ofport=40)
    foreign = PortRow(name="pod-0000000f", ofport=41)
    rows = Rows(spare_row("0000000a", 16), spare_row("0000000b", 17), spare_row("0000000c", -1), pod, foreign)
    pairs.tokens = {"0000000a", "0000000b", "0000000c"}
    pool = Pool(rows, pairs, 1)
    await pool.adopt({"0000000a", "0000000c"})
    assert len(pool) == 1
    assert rows.rows.keys() == {"pod-0000000a", "pod-0000000d", "pod-0000000f"}
    assert pairs.tokens == {"0000000a"}
    assert await pool.take() == Spare(token="0000000a", ofport=16, mtu=0)
    await pool.close()


async def test_taking_refills_after_a_quiet_moment(rows: Rows, pairs: Pairs) -> None:
    pool = Pool(rows, pairs, 3)
    await pool.adopt(set())
    await filled(pool, 3)
    taken = [await pool.take(), await pool.take()]
    await asyncio.sleep(0.1)
    assert len(pool) == 1, "refilling waits: more pods may be coming"
    await filled(pool, 3)
    assert rows.transactions == [3, 2]
    numbers = [row.ofport_request for row in rows.rows.values()]
    assert len(set(numbers)) == 5
    assert {spare.ofport for spare in taken} < set(numbers)
    await pool.close()


@pytest.mark.parametrize("size", [0, 2])
async def test_a_rush_is_served_before_the_pool_is_filled(rows: Rows, pairs: Pairs, size: int) -> None:
    pool = Pool(rows, pairs, size)
    taken = await asyncio.wait_for(asyncio.gather(*(pool.take() for _ in range(20))), 5)
    assert len({spare.token for spare in taken}) == 20
    assert len({spare.ofport for spare in taken}) == 20
    await filled(pool, size)
    assert len(rows.rows) == 20 + size
    await pool.close()


@pytest.mark.parametrize("trouble", ["rows", "pairs"])
async def test_who_waits_hears_why_none_can_be_made(rows: Rows, pairs: Pairs, trouble: str) -> None:
    rows.away, pairs.broken = trouble == "rows", trouble == "pairs"
    pool = Pool(rows, pairs, 2)
    with pytest.raises(SwitchUnavailable if trouble == "rows" else HostFailure):
        await asyncio.wait_for(pool.take(), 5)
    assert (rows.rows, pairs.tokens) == ({}, set()), "nothing half made stays"
    rows.away = pairs.broken = False
    await asyncio.wait_for(pool.take(), 5)
    await pool.close()


async def test_discard_removes_row_and_pair(rows: Rows, pairs: Pairs) -> None:
    pool = Pool(rows, pairs, 0)
    spare = await pool.take()
    await pool.discard(spare.token)
    assert (rows.rows, pairs.tokens) == ({}, set())
    await pool.discard(spare.token)
    await pool.close()


async def test_discard_with_the_database_away_removes_the_pair(rows: Rows, pairs: Pairs) -> None:
    """The row stays for the next start, which finds that its pair is gone."""
    pool = Pool(rows, pairs, 0)
    spare = await pool.take()
    rows.away = True
    await pool.discard(spare.token)
    assert pairs.tokens == set()
    assert list(rows.rows) == [names.host_interface(spare.token)]
    await pool.close()


async def test_a_spare_for_someone_who_left_stays_ready(rows: Rows, pairs: Pairs) -> None:
    rows.gate.clear()
    pool = Pool(rows, pairs, 0)
    waiting = asyncio.create_task(pool.take())
    await asyncio.sleep(0.01)
    waiting.cancel()
    rows.gate.set()
    await filled(pool, 1)
    assert waiting.cancelled()
    await pool.close()


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_spare_is_not_lost_in_the_moment_of_handing_over(
    rows: Rows, pairs: Pairs, turns: int
) -> None:
    """Who asked for it gives up after each number of turns of the loop, one of which is that moment."""
    pool = Pool(rows, pairs, 0)
    waiting = asyncio.create_task(pool.take())
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    (result,) = await asyncio.gather(waiting, return_exceptions=True)
    await filled(pool, 0 if isinstance(result, Spare) else 1)
    assert len(rows.rows) == len(pool) + isinstance(result, Spare)
    await pool.close()


async def test_closing_in_the_middle_leaves_nothing_half_made(rows: Rows, pairs: Pairs) -> None:
    rows.gate.clear()
    pool = Pool(rows, pairs, 3)
    pool.top_up()
    await asyncio.sleep(0.01)
    assert len(rows.rows) == 3
    await pool.close()
    assert (rows.rows, pairs.tokens) == ({}, set())


async def test_who_waits_hears_of_a_failure_that_nobody_thought_of(rows: Rows, pairs: Pairs) -> None:
    pool = Pool(rows, pairs, 0)

    async def exhausted(tokens: list[str], mtu: int, tx_off: bool) -> None:
        raise OSError(105, "No buffer space available")

    pairs.create_spares = exhausted  # type: ignore[method-assign]  # a kernel without memory
    async with asyncio.timeout(5):
        with pytest.raises(OSError, match="No buffer space"):
            await pool.take()
    await pool.close()


async def test_pairs_of_a_refill_that_failed_are_removed(rows: Rows, pairs: Pairs) -> None:
    pool = Pool(rows, pairs, 0)
    made = pairs.create_spares

    async def half(tokens: list[str], mtu: int, tx_off: bool) -> None:
        await made(tokens, mtu, tx_off)
        raise HostFailure("the last one could not be raised")

    pairs.create_spares = half  # type: ignore[method-assign]  # fails after it has made them
    with pytest.raises(HostFailure):
        await pool.take()
    assert pairs.tokens == set()
    await pool.close()
