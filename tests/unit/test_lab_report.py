"""The lab's tables: nothing is cut, however narrow the terminal and long the names."""

from __future__ import annotations

import re

import pytest
from rich.console import Console, RenderableType

from ovsnet.lab import report
from ovsnet.lab.check import Report, Result
from ovsnet.lab.report import NodeStatus, PodStatus, Status


def printed(width: int, *tables: RenderableType) -> str:
    console = Console(width=width, soft_wrap=True, color_system=None)
    with console.capture() as captured:
        for table in tables:
            console.print(table)
    return captured.get()


def columns(text: str) -> list[str]:
    """What stands in each column, folded cells put together again."""
    rows = [re.split("[│┃]", line)[1:-1] for line in text.splitlines() if line[:1] in "│┃"]
    return ["".join(cell.strip() for cell in column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("width", [40, 80, 2000])
def test_the_status_is_never_cut(width: int) -> None:
    pod = PodStatus(name="a1", running=True, addresses=["10.244.1.2", "fd00:10:244:1::2"], mtu=1450)
    addresses = ["192.0.2.11", "2001:db8:0:1::11"]
    node = NodeStatus(
        name="node-a", missing=["agent"], addresses=addresses, tunnels=["node-b", "node-c"], pods=[pod]
    )
    status = Status(name="lab", datapath="netdev", encapsulation="vxlan", nodes=[node])
    text = printed(width, report.status_table(status))
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert columns(text)[2] == "addresses" + "".join(addresses + pod.addresses)


@pytest.mark.parametrize("width", [42, 80, 2000])
def test_a_matrix_is_never_cut(width: int) -> None:
    names = [f"pod-with-a-name-{number}" for number in range(9)]
    failed = Result(
        source=names[0],
        target=names[1],
        address="-",
        protocol="tcp",
        version=4,
        size=0,
        ok=False,
        detail="no",
    )
    text = printed(width, *report.matrices(Report(results=[failed], sources=names, targets=names), width))
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert [text.count(name) for name in names] == [text.count("┏") + 1] * 9


def test_names_that_fit_share_a_row() -> None:
    assert report.fitting({"a": 1, "b": 1, "long": 20, "c": 1}, 10) == [["a", "b"], ["long"], ["c"]]
