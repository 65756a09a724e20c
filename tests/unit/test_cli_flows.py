"""`ovsnet flows`: which flows `--drops` shows. The whole command is tested in a lab."""

from __future__ import annotations

from ovsnet.cli.flows import dropping
from ovsnet.flowdump import Flow


def flow(packets: int, actions: str = "drop") -> Flow:
    return Flow(cookie=1, table=30, priority=0, packets=packets, bytes=0, match="any", actions=actions)


def test_only_flows_that_dropped_something_most_first() -> None:
    found = [flow(2), flow(0), flow(9, "goto_table:30"), flow(7)]
    assert [each.packets for each in dropping(found, every=False)] == [7, 2]
    assert [each.packets for each in dropping(found, every=True)] == [7, 2, 0]
