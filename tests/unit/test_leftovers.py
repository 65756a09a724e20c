"""Ports without a Pod and Pods without a port: which they are, and when they are told of."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lost_pods import TOPOLOGY, pod
from msgspec.structs import replace

from ovsnet import config, state
from ovsnet.agent.complaints import Complaints
from ovsnet.agent.leftovers import Leftovers
from ovsnet.agent.pods import Pods, key_of
from ovsnet.config import Config
from ovsnet.doctor import examine
from ovsnet.doctor.finding import Finding, Level
from ovsnet.leftovers import Strays, strays
from ovsnet.model import Node, OwnPod, Pod
from ovsnet.rows import PortRow
from ovsnet.store import OwnPods, choice

PATIENCE = 60.0


def own(number: int, *ips: str) -> OwnPod:
    """As the API server has `pod(number)`, attached unless other addresses are given."""
    there = pod(number)
    return OwnPod(
        namespace=there.namespace, name=there.name, ips=tuple(map(ip_address, ips)) if ips else there.ips
    )


def compared(attached: Iterable[Pod], *pods: OwnPod) -> Strays:
    return strays(attached, {each.key: each for each in pods})


def test_what_goes_together_is_nothing_to_tell_of() -> None:
    one_family = own(2, "10.244.1.2")
    coming = OwnPod(namespace="default", name="p3")
    assert compared([pod(1), pod(2), pod(3)], own(1), one_family, coming) == Strays()
    assert compared([], coming, OwnPod(namespace="kube-system", name="on-the-host")) == Strays()


def test_a_port_whose_pod_is_gone() -> None:
    found = compared([pod(1), pod(2)], own(1))
    assert not found.pods
    ((port, stray),) = found.ports.items()
    assert port == pod(2).port
    assert stray.words.startswith(
        f"pod default/p2: port {port} with 10.244.1.2 fd00::2 is left over: the API server has no Pod of that name"
    )
    assert "crictl rmp --force c2 " in stray.todo


def test_a_pod_that_can_not_be_read_is_there() -> None:
    assert strays([pod(1)], {"default/p1": None}) == Strays()


def test_who_came_without_the_arguments_of_kubernetes_is_none_of_its_pods() -> None:
    assert compared([replace(pod(1), namespace="")]) == Strays()


def test_an_earlier_sandbox_of_the_same_name() -> None:
    """A StatefulSet's Pod that was made anew, or a sandbox that was."""
    old = replace(pod(3), name="p1")
    second = replace(pod(1), ifname="net1", port="pod-second", ips=(ip_address("10.244.1.77"),))
    found = compared([old, pod(1), second], own(1))
    assert (list(found.ports), found.pods) == ([old.port], {})
    assert "the Pod's sandbox is another one, with 10.244.1.1 fd00::1" in found.ports[old.port].what
    # Until kubelet has told of the new one's addresses, nobody knows which is which.
    assert compared([old, pod(1)], OwnPod(namespace="default", name="p1")) == Strays()


def test_a_pod_without_a_port_or_with_other_addresses() -> None:
    found = compared([pod(2)], own(1), own(2, "10.244.1.9"))
    assert not found.ports
    assert found.pods["default/p1"].words == (
        "pod default/p1 runs on this node with 10.244.1.1 fd00::1 by the API server's word, and no port here has "
        "10.244.1.1 fd00::1; delete the pod, so that it is made anew"
    )
    assert (
        "no port here has 10.244.1.9, but the pod's have 10.244.1.2 fd00::2" in found.pods["default/p2"].what
    )


class World:
    """A node with pods 1 and 2, of which the API server has those in `own`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.own: dict[str, OwnPod | None] | None = {each.key: each for each in (own(1), own(2))}
        self.heard: float | None = None
        """When the server last said something; None: just now."""
        self.pods = Pods(Config())
        rows = {
            each.port: PortRow(name=each.port, external_ids=state.identity(each), ofport=each.ofport)
            for each in (pod(1), pod(2))
        }
        self.rows = rows
        self.complaints = Complaints(logging.getLogger("ovsnet.agent"), lambda: self.now)
        self.leftovers = Leftovers(self._own, self.pods, self.complaints, PATIENCE, lambda: self.now)

    def _own(self) -> OwnPods | None:
        if self.own is None:
            return None
        return OwnPods(pods=self.own, heard=self.now if self.heard is None else self.heard)

    def read(self) -> None:
        self.pods.serve(TOPOLOGY, None, self.rows)

    def pass_by(self, seconds: float) -> list[str]:
        """What is told after so long, with a look every few seconds."""
        end = self.now + seconds
        while True:
            self.leftovers.look()
            if self.now >= end:
                return self.complaints.current()
            self.now = min(self.now + 5, end)


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.INFO)
    world = World()
    world.read()
    return world


def test_what_lasts_is_told_once_and_taken_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.own is not None
    assert world.pass_by(300) == []
    assert world.leftovers.figures() == {"leftover_pods": 0, "unattached_pods": 0}
    del world.own["default/p2"]
    assert world.pass_by(PATIENCE - 1) == []
    (said,) = world.pass_by(3600)
    assert said.startswith(f"pod default/p2: port {pod(2).port} ")
    assert caplog.messages == [said]
    assert world.complaints.waiting() == [said]
    assert world.leftovers.figures() == {"leftover_pods": 1, "unattached_pods": 0}
    # DEL comes at last.
    del world.pods.by_key[key_of(pod(2))]
    assert world.pass_by(0) == []
    assert caplog.messages[1:] == [
        f"pod default/p2: port {pod(2).port} with 10.244.1.2 fd00::2: in order again"
    ]
    assert world.leftovers.figures() == {"leftover_pods": 0, "unattached_pods": 0}


def test_what_is_left_over_for_another_reason_is_not_in_order(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A Pod of that name is made anew, with a sandbox of its own."""
    assert world.own is not None
    del world.own["default/p2"]
    world.pass_by(PATIENCE)
    again = replace(pod(3), name="p2")
    world.pods.by_key[key_of(again)] = again
    world.own["default/p2"] = OwnPod(namespace="default", name="p2", ips=again.ips)
    assert world.pass_by(PATIENCE - 1) == []
    (said,) = world.pass_by(2)
    assert "the Pod's sandbox is another one, with 10.244.1.3" in said
    assert caplog.messages[1:] == [said]


def test_a_pod_without_a_port_is_told_and_taken_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.own is not None
    world.own["default/p3"] = own(3)
    assert world.pass_by(PATIENCE - 1) == []
    (said,) = world.pass_by(2)
    assert said.startswith("pod default/p3 runs on this node with 10.244.1.3")
    assert world.leftovers.figures() == {"leftover_pods": 0, "unattached_pods": 1}
    world.pods.by_key[key_of(pod(3))] = pod(3)
    assert world.pass_by(0) == []
    assert caplog.messages == [said, "pod default/p3: in order again"]


def test_many_are_told_in_a_line_of_each_kind(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A node that another network was on has a hundred, and each line is an Event."""
    assert world.own is not None
    del world.own["default/p2"]
    world.own |= {each.key: each for each in map(own, range(10, 20))}
    assert len(world.pass_by(PATIENCE)) == 11
    world.own |= {each.key: each for each in map(own, range(20, 30))}
    caplog.clear()
    left, many = world.pass_by(PATIENCE)
    assert (left.startswith("pod default/p2: port "), many.startswith("many pods run on this node ")) == (
        True,
        True,
    )
    assert caplog.messages == [many]
    assert world.leftovers.figures() == {"leftover_pods": 1, "unattached_pods": 20}
    assert len(cast(Any, world.leftovers.report())["pods"]) == 20
    del world.own["default/p29"]
    assert world.pass_by(0) == [left, many]
    assert caplog.messages[1:] == ["pod default/p29: in order again"]


def test_what_passes_is_not_told(world: World) -> None:
    """DEL comes after the object is gone, ADD before it is heard of; each again and again."""
    assert world.own is not None
    for _ in range(10):
        gone = world.own.pop("default/p2")
        assert world.pass_by(PATIENCE - 1) == []
        world.own["default/p2"] = gone
        assert world.pass_by(5) == []


def test_nobody_is_accused_while_the_server_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.own is not None
    del world.own["default/p2"]
    rest = world.own
    assert world.pass_by(PATIENCE - 1) == []
    world.own = None
    assert world.pass_by(3600) == []
    assert world.leftovers.figures() == {}
    assert world.leftovers.report() is None
    world.own = rest
    assert world.pass_by(PATIENCE - 1) == []
    assert len(world.pass_by(2)) == 1
    # What was told is withdrawn, without a word that all is well.
    world.own = None
    assert world.pass_by(0) == []
    assert len(caplog.messages) == 1


def test_a_watch_that_hangs_accuses_nobody(world: World) -> None:
    """A pod came after the server's last word."""
    world.heard = world.now
    world.now += 1
    world.pods.by_key[key_of(pod(3))] = pod(3)
    assert world.pass_by(3600) == []
    world.heard = None
    assert len(world.pass_by(0)) == 1


def test_nobody_is_accused_before_the_rows_are_read() -> None:
    world = World()
    assert world.pass_by(3600) == []
    assert world.leftovers.figures() == {}
    world.read()
    assert world.pass_by(3600) == []
    assert world.leftovers.figures() == {"leftover_pods": 0, "unattached_pods": 0}


async def test_what_the_doctor_makes_of_the_agents_word(world: World) -> None:
    async def findings(health: object) -> Sequence[Finding]:
        return await examine.CHECKS["pods"](cast(Any, SimpleNamespace(health=health)))

    assert await findings(None) == await findings({"strays": None}) == []
    assert world.own is not None
    world.pass_by(0)
    (fine,) = await findings({"strays": world.leftovers.report()})
    assert fine.level is Level.OK
    del world.own["default/p2"]
    world.own["default/p3"] = own(3)
    world.pass_by(PATIENCE)
    said = json.loads(json.dumps({"strays": world.leftovers.report()}))
    port, without = await findings(said)
    assert (port.level, without.level) == (Level.WARNING, Level.WARNING)
    assert f"port {pod(2).port} with 10.244.1.2 fd00::2 is left over" in port.seen
    assert "crictl rmp" in port.todo
    assert "pod default/p3 runs on this node" in without.seen
    assert "delete the pod" in without.todo


async def nobody() -> Mapping[str, Node]:
    return {}


def test_a_folder_says_nothing_of_the_nodes_pods(tmp_path: Path) -> None:
    store = choice.make(config.parse(f"store: {{file: {tmp_path}}}"), "node-a", nobody)
    assert choice.own_pods(store)() is None
