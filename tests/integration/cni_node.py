"""One node whose agent answers CNI requests, and what is in the namespaces of its containers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from cni_world import Cni
from lab_world import running

EXCLUDED = "10.244.1.200-10.244.1.210"


@pytest.fixture(scope="module")
def cni() -> Iterator[Cni]:
    with running(nodes=1, pods=0, agent={"excludedAddresses": [EXCLUDED], "reuseAfter": 1}) as lab:
        yield Cni(lab.nodes[0])


@pytest.fixture(autouse=True)
def nothing_leaks(cni: Cni) -> Iterator[None]:
    """Whatever a test does to the agent, it leaves no pod and nothing that belongs to none."""
    yield
    cni.assert_nothing_leaked()
    assert cni.attached() == set()


def inside(cni: Cni, container: str, *argv: str, check: bool = True) -> str:
    """A tool's output in a container's namespace."""
    return cni.tool("ip", "netns", "exec", container, *argv, check=check)


def addresses_in(cni: Cni, container: str, ifname: str = "eth0") -> set[str]:
    links = json.loads(inside(cni, container, "ip", "-j", "addr", "show", "dev", ifname))
    return {
        info["local"] for link in links for info in link.get("addr_info", ()) if info["scope"] == "global"
    }
