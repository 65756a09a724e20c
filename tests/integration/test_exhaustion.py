"""Things run out: addresses, disk. A clear error, nothing left behind, and it passes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from cni_world import Cni, finish, new_container, path, wake_agents
from lab_world import eventually, running

from ovsnet import state
from ovsnet.lab.node import AGENT, OVSDB

pytestmark = pytest.mark.slow

REST = 6.0
"""Cool-down of an address, in seconds."""
SMALL = {
    "podCIDRs": ["10.244.1.0/29"],
    "excludedAddresses": ["10.244.1.6"],
    "reuseAfter": REST,
}
FREE = 4
"""Of eight: without network, gateway, broadcast and the one that is excluded."""


@pytest.fixture(scope="module")
def cni() -> Iterator[Cni]:
    with running(nodes=1, pods=0, families="4", agent=SMALL) as lab:
        yield Cni(lab.nodes[0])


@pytest.fixture(autouse=True)
def rested(cni: Cni) -> None:
    """The addresses of the test before are free again."""
    time.sleep(REST + 0.3)


def test_a_range_is_exhausted_until_an_address_has_rested(cni: Cni) -> None:
    with contextlib.ExitStack() as stack, cni.namespaces("last"):
        pods = [stack.enter_context(cni.pod()) for _ in range(FREE)]
        assert len({answer.addresses[0] for _, answer in pods}) == FREE
        links = cni.links()
        refused = cni.call("ADD", "last", netns=path("last"))
        assert refused.code == 11
        assert "10.244.1.0/29" in refused.words
        assert f"{FREE} in use" in refused.words, refused
        assert cni.call("ADD", "last", netns=path("last")) == refused
        assert cni.links() == links
        # Those that are there already are not concerned.
        assert cni.check(pods[0][0], pods[0][1].document).code == 0

        freed = time.monotonic()
        cni.delete(pods[0][0])
        resting = cni.call("ADD", "last", netns=path("last"))
        assert resting.code == 11
        assert "cool" in resting.words or "rest" in resting.words, resting
        eventually(lambda: cni.call("ADD", "last", netns=path("last")).status == 0, REST + 5)
        assert time.monotonic() - freed >= REST - 0.5
        last = next(pod for pod in state.pods(cni.rows()) if pod.container == "last")
        assert [str(ip) for ip in last.ips] == pods[0][1].addresses
    cni.assert_nothing_leaked()


def test_a_cool_down_survives_a_restart(cni: Cni) -> None:
    with contextlib.ExitStack() as stack, cni.namespaces("last"):
        pods = [stack.enter_context(cni.pod()) for _ in range(FREE)]
        cni.delete(pods[0][0])
        cni.node.kill(AGENT)
        cni.node.start(AGENT)
        refused = cni.call("ADD", "last", netns=path("last"))
        assert refused.code == 11, refused
        eventually(lambda: cni.call("ADD", "last", netns=path("last")).status == 0, REST + 5)


def test_twenty_for_four_addresses(cni: Cni) -> None:
    """Exactly four get one, sixteen are told to try again, nothing remains of these."""
    containers = [new_container() for _ in range(20)]
    with cni.namespaces(*containers):
        answers = [
            finish(each) for each in [cni.process("ADD", each, netns=path(each)) for each in containers]
        ]
        assert sorted(answer.code for answer in answers) == [0] * FREE + [11] * 16
        cni.assert_nothing_leaked()
        assert len(cni.attached()) == FREE


@pytest.fixture
def full_disk(cni: Cni) -> Iterator[None]:
    """The database's folder on a tiny file system of its own, which something else has filled up."""
    folder, aside = "/etc/openvswitch", "/var/lib/openvswitch/aside"
    cni.node.kill(OVSDB)
    cni.tool("cp", "-a", folder, aside)
    cni.tool("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder)
    cni.tool("sh", "-c", f"cp -a {aside}/. {folder}/")
    cni.node.start(OVSDB)
    eventually(lambda: cni.call("STATUS").status == 0, 20)
    cni.tool("sh", "-c", f"cat /dev/zero > {folder}/filler 2>/dev/null || true")
    # The journal's last block has room for some changes yet.
    script = "for i in $(seq 100); do ovs-vsctl -t2 --no-wait set Bridge br-int external_ids:filler=$i || break; done"
    cni.tool("sh", "-c", script)
    try:
        yield
    finally:
        cni.tool("rm", "-f", f"{folder}/filler")
        cni.node.kill(OVSDB)
        cni.tool("sh", "-c", f"cp -a {folder}/. {aside}/")
        cni.tool("umount", "-l", folder)
        cni.tool("sh", "-c", f"cp -a {aside}/. {folder}/ && rm -rf {aside}")
        cni.node.start(OVSDB)
        eventually(lambda: cni.call("STATUS").status == 0)


def test_a_full_disk_under_the_database(cni: Cni, full_disk: None) -> None:
    """The ADD says what ovsdb-server says and leaves nothing; when there is room it works."""
    before = cni.attached()
    with cni.namespaces("c1"):
        refused = cni.call("ADD", "c1", netns=path("c1"))
        assert refused.status, "the disk was not full"
        assert "ovsdb-server" in refused.words, refused
        assert "eth0" not in cni.tool("ip", "netns", "exec", "c1", "ip", "-o", "link")
        cni.tool("rm", "-f", "/etc/openvswitch/filler")
        eventually(lambda: cni.call("ADD", "c1", netns=path("c1")).status == 0, 20)
        cni.delete("c1")
    assert cni.attached() == before
    # What could not be removed goes with the next comparison.
    wake_agents(cni.node)
    cni.assert_nothing_leaked()
