"""What the loss of state costs, on the kernel's datapath: the bridge, the database, the store, the machine's memory.

As in `test_restarts`, and in the same table. What survives must be found on the node itself. The last tests are those
that leave the lab otherwise than it was: a node that was started again, and one with many pods and peers.
"""

from __future__ import annotations

import functools
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import cni_world
import pytest
from cni_world import Cni, launch_agent
from lab_world import SLOWER, agent_log, dump, eventually, fetch, ovsnet_json, reconfigure, tunnels
from restart_world import (
    MARKS,
    REBUILT,
    TARGETS,
    Seen,
    back_within,
    lab,
    node,
    nothing,
    probing,
    seen,
    serving,
)

from ovsnet import names, state
from ovsnet.lab import files
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node
from ovsnet.lab.spec import node_spec
from ovsnet.lab.state import write_atomically

__all__ = ["lab", "node", "seen"]
pytestmark = MARKS
PODS, PEERS = 200, 1000
AWAY = 60.0
"""Seconds; the agent compares everything every 30."""


@pytest.fixture
def servers(lab: Lab) -> Iterator[None]:
    with serving(lab, *TARGETS):
        yield


def identities(node: Node) -> dict[str, dict[str, str]]:
    """What rows say of pods: their names, addresses and MAC, by port."""
    return {pod.port: state.identity(pod) for pod in state.pods(Cni(node).rows())}


# --- the bridge and the database -----------------------------------------------------------------


@pytest.mark.event("bridge deleted by hand")
def test_the_bridge_is_deleted(lab: Lab, servers: None, node: Node, seen: Seen) -> None:
    """Made again with everything on it; pods keep their addresses."""
    flows, pods = dump(node), identities(node)
    with probing(lab, seen):
        seen.begins()
        node.run(["ovs-vsctl", "del-br", "br-int"], check=True)
        eventually(lambda: dump(node) == flows, REBUILT)
    back_within(seen, REBUILT)
    assert identities(node) == pods


@pytest.mark.event("OVSDB's file deleted, Open vSwitch started again{and_agent}")
@pytest.mark.parametrize("and_agent", ["", ", agent too"])
def test_the_database_is_gone(lab: Lab, servers: None, node: Node, seen: Seen, and_agent: str) -> None:
    """Bridge, tunnels and running pods' ports are made again, with the same addresses and MACs."""
    pods, peers = identities(node), tunnels(node)
    with probing(lab, seen):
        for daemon in (*([AGENT] if and_agent else []), VSWITCHD, OVSDB):
            node.kill(daemon, signal.SIGKILL)
        node.private("/etc/openvswitch/conf.db").unlink()
        node.start(OVSDB)
        seen.begins()
        node.start(VSWITCHD)
        if and_agent:
            seen.begins()
            launch_agent(node)
        eventually(lambda: identities(node) == pods, REBUILT)
        eventually(lambda: Cni(node).call("STATUS").status == 0, REBUILT)
    back_within(seen, REBUILT)
    assert identities(node) == pods
    assert tunnels(node) == peers
    Cni(node).assert_nothing_leaked()
    assert [pod.name for pod in lab.pods if not pod.attached()] == []


# --- the store -----------------------------------------------------------------------------------


def own_store(lab: Lab, node: Node) -> Path:
    """A folder of manifests that the node alone has."""
    folder = node.private("/etc/ovsnet/store")
    shutil.copytree(lab.folder.path / "cluster", folder)
    reconfigure(node, store={"file": "/etc/ovsnet/store"})
    return folder


@pytest.fixture
def store(lab: Lab, node: Node) -> Iterator[Path]:
    """node-a's own; in it a peer of which there is only the manifest."""
    folder = own_store(lab, node)
    (folder / "node-x.yaml").write_text(node_x(lab))
    eventually(lambda: any("10.244.21.0/24" in flow for flow in dump(node)))
    yield folder
    reconfigure(node, store={"file": "/etc/ovsnet/cluster"})
    shutil.rmtree(folder)


def node_x(lab: Lab, index: int = 20) -> str:
    return files.manifest(lab.state.spec, node_spec(index, "node-x"))


def said(node: Node, mark: int, *words: str) -> bool:
    return any(all(word in line for word in words) for line in agent_log(node)[mark:].splitlines())


@pytest.mark.event("store away for a minute, comes back as it was, goes again and comes back with a change")
def test_the_store_is_away(lab: Lab, servers: None, node: Node, seen: Seen, store: Path) -> None:
    flows, away, mark = dump(node), store.with_name("away"), len(agent_log(node))
    with probing(lab, seen):
        store.rename(away)
        time.sleep(AWAY)
        assert dump(node) == flows
        away.rename(store)
        eventually(lambda: said(node, mark, "/etc/ovsnet/store is there"))
        assert dump(node) == flows
        store.rename(away)
        (away / "node-x.yaml").write_text(node_x(lab, 21))
        time.sleep(1)
        away.rename(store)
        eventually(lambda: any("10.244.22.0/24" in flow for flow in dump(node)))
        assert not any("10.244.21.0/24" in flow for flow in dump(node))
    nothing(seen)
    assert said(node, mark, "warning", "/etc/ovsnet/store", "stay as they are")


@pytest.mark.event("store comes back empty, is emptied, and has a half-written file")
def test_the_store_is_no_complete_list(lab: Lab, servers: None, node: Node, seen: Seen, store: Path) -> None:
    """An empty folder where a full one was, all files gone from it at once, half a file: nothing is withdrawn."""
    flows, away, mark = dump(node), store.with_name("away"), len(agent_log(node))
    whole = (store / "node-b.yaml").read_text()
    with probing(lab, seen):
        store.rename(away)
        store.mkdir()
        eventually(lambda: said(node, mark, "warning", "empty"))
        assert dump(node) == flows
        store.rmdir()
        away.rename(store)
        eventually(lambda: said(node, mark, "/etc/ovsnet/store is there"))
        shutil.copytree(store, away)
        # Its own goes first and comes last: what changes of peers between those is held back.
        for file in sorted(store.glob("*.yaml")):
            file.unlink()
        eventually(lambda: said(node, mark, "node node-a has no pod ranges"))
        assert dump(node) == flows
        for file in sorted(away.glob("*.yaml"), reverse=True):
            shutil.copy2(file, store)
        shutil.rmtree(away)
        (store / "node-b.yaml").write_text(whole[: len(whole) // 2])
        eventually(lambda: said(node, mark, "warning", "node-b.yaml"))
        assert dump(node) == flows
        (store / "node-b.yaml").write_text(whole)
        eventually(lambda: said(node, mark, "node-b.yaml", "in order again"))
    nothing(seen)
    assert dump(node) == flows


# --- the machine -----------------------------------------------------------------------------------


@pytest.mark.event("the other node is started again: all is gone there but what is on its disk")
def test_a_node_is_started_again(lab: Lab, seen: Seen) -> None:
    """Rows tell of pods that are no more. The runtime deletes them, and adds new ones, which get free addresses."""
    node, peer = lab.node("node-b"), lab.pod("b1")
    before, old = identities(node), set(peer.addresses)
    with serving(lab, "a2"), probing(lab, seen, targets=["a2"]):
        node.destroy()
        lab.up()
    nothing(seen)
    after = identities(node)
    assert len(after) == len(before)
    assert not after.keys() & before.keys()
    assert not old & set(lab.pod("b1").addresses), "they rest"
    Cni(node).assert_nothing_leaked()
    assert len({ip for ids in after.values() for ip in ids[names.KEY_IPS].split()}) == 4
    for version in (4, 6):
        # The node's uplink is a new one with another MAC, which its peer's kernel finds out after some seconds.
        eventually(functools.partial(fetch, lab, "a1", lab.pod("b1").address(version)))


# --- size ----------------------------------------------------------------------------------------


def many_nodes() -> str:
    """PEERS manifests in one file."""
    return "---\n".join(
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: peer-{i}}}\n"
        f"spec: {{podCIDRs: [10.{128 + i // 256}.{i % 256}.0/24]}}\n"
        f"status: {{addresses: [{{type: InternalIP, address: 198.18.{i // 250}.{i % 250 + 1}}}]}}\n"
        for i in range(PEERS)
    )


ADD_MANY = """
for i in $(seq "$1"); do
    ip netns add "crowd-$i"
    CNI_COMMAND=ADD CNI_CONTAINERID="crowd-$i" CNI_NETNS="/run/netns/crowd-$i" CNI_IFNAME=eth0 \
        CNI_PATH=/opt/cni/bin /opt/cni/bin/ovsnet < "$2" > /dev/null &
    [ $((i % 20)) -ne 0 ] || wait
done
wait
"""
"""A runtime that adds so many pods, 20 at a time. From Python each process would take a guest half a second."""


@pytest.fixture
def crowd(lab: Lab, node: Node) -> None:
    """PODS pods on node-a, and PEERS peers besides those of the lab. They stay."""
    store = own_store(lab, node)
    (store / "request.txt").write_text(cni_world.request("ADD")[1])
    adding = ["sh", "-c", ADD_MANY, "sh", str(PODS - len(identities(node))), "/etc/ovsnet/store/request.txt"]
    node.run(adding, check=True, timeout=60 * SLOWER)
    assert len(identities(node)) == PODS
    write_atomically(store / "many.yaml", many_nodes())
    eventually(lambda: ovsnet_json(node, "show")["agent"]["peers"] >= PEERS, 30)
    eventually(lambda: ovsnet_json(node, "show")["healthy"], 30)


@pytest.mark.event("agent with 200 pods and 1,000 peers: SIGKILL, started again")
def test_the_agent_of_a_large_node_restarts(
    lab: Lab, servers: None, node: Node, seen: Seen, crowd: None
) -> None:
    flows = dump(node)
    with probing(lab, seen):
        node.kill(AGENT, signal.SIGKILL)
        time.sleep(0.5)
        seen.begins()
        node.start(AGENT)
    nothing(seen)
    assert dump(node) == flows
    assert len(identities(node)) == PODS
