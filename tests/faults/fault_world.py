"""A lab whose pods and nodes come and go, and what shall be there in the end.

Owns the lab, the pods that shall exist, those that shall go, and every fault that is not over yet. A runtime's part is
here too: an ADD or a DEL that failed is repeated until it is done. Never decides what happens next: that is the state
machine's, or a script's. What is broken on purpose is in `fault_damage`, what must hold afterwards in `fault_settle`.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml
from cni_world import launch_agent
from fault_guest import GUEST, tell
from fault_knocks import STRANGERS, Knocks
from fault_policies import Policing, labels
from lab_world import SLOWER, manifest

from ovsnet.lab import files
from ovsnet.lab.cni_runner import CniError
from ovsnet.lab.lab import Lab, silent
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node
from ovsnet.lab.pods import Pod, new_container
from ovsnet.lab.spec import LabError, LabSpec, NodeSpec, PodSpec, host, node_spec
from ovsnet.lab.state import wait_for, write_atomically
from ovsnet.store.nodes import ENCAPSULATION

DAEMONS = (AGENT, OVSDB, VSWITCHD)
NODES, MOST_PODS, PREFIX = (2, 2, 29) if GUEST else (3, 4, 28)
"""Nodes at first; pods on one node; what a node has of IPv4. The guest of the kernel tier is slow."""
RESTS = 1
"""Seconds that an address rests before it is given to another pod."""
FREE = 2 ** (32 - PREFIX) - 3
"""IPv4 addresses of a node, without those of network, gateway and broadcast. Few, so that a leak is felt."""
HEALED = 40.0
"""Seconds that starting what was killed may take."""
AGENT_SETTINGS: dict[str, Any] = {"nodeAddress": {}, "reuseAfter": RESTS}
"""The agents take their address from their Node object, so that a manifest can move a node."""
SPEC = LabSpec(nodes=NODES, pods=0, agent=AGENT_SETTINGS)


class World:
    """One lab, and what was done to it since all was well.

    broken: something that running pods or requests may notice. changing: nodes came, went or have other manifests.
    mistaken: a manifest has a mistake, which nobody may notice.
    """

    def __init__(self) -> None:
        # A client gives up well before the runner does, whatever was stopped.
        os.environ["OVSNET_TIMEOUT"] = "20"
        self.lab = Lab(f"f-{uuid.uuid4().hex[:8]}", SPEC, lambda _: tell())
        atexit.register(self.lab.down)
        self.broken = False
        self.changing = False
        self.mistaken = False
        self.leaving: set[str] = set()
        """Pods whose DEL is to be repeated."""
        self.remade: set[str] = set()
        """Pods that lost their interface: a runtime has to make them again."""
        self.moved: dict[str, int] = {}
        """Nodes that have another IPv4 address than at first: its last number."""
        self.jumped = 0
        """Seconds that the clock is ahead."""
        self.narrowed: set[str] = set()
        """Nodes whose uplink has a smaller MTU."""
        self.ended: set[tuple[str, str]] = set()
        """Daemons that may be away, by node."""
        self._lock = threading.Lock()
        self._timers: list[threading.Timer] = []
        self._manifests: Callable[[], None] = _nothing
        self._cures: list[tuple[float, Callable[[], None]]] = []
        self.policing, self.knocks = Policing(self.lab), Knocks()
        for index in range(NODES):
            self._declare(node_spec(index))
        self.lab.up()
        self.each(self._add_stranger, self.lab.nodes)
        for number in range(NODES):
            self.add_pods(number, MOST_PODS // 2)
            tell()

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self.knocks.close()
        self.lab.down()
        atexit.unregister(self.lab.down)

    # who is who

    def at(self, number: int) -> Node:
        """The node of that number, counted round."""
        nodes = self.lab.nodes
        return nodes[number % len(nodes)]

    def there(self, node: Node) -> bool:
        return node.name in self.lab.state.nodes

    def pods_of(self, node: Node) -> list[Pod]:
        """Those that shall exist there."""
        return [pod for pod in self.lab.pods if pod.node.name == node.name and pod.name not in self.leaving]

    def comers(self, node: Node) -> list[Pod]:
        """Those of them that come and go; strangers stay as long as their node."""
        return [pod for pod in self.pods_of(node) if pod.pod.namespace != STRANGERS]

    def each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """All at once; the results, or the first error."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(work, items))

    # pods

    def add_pods(self, node: int, count: int) -> None:
        """So many at once. While all is well an ADD must succeed the first time."""
        self.each(self._attach, self.new_pods(self.at(node), count))

    def remove_pods(self, node: int, count: int) -> None:
        pods = self.comers(self.at(node))[:count]
        self.leaving |= {pod.name for pod in pods}
        self.each(self._detach, pods)

    def complete(self) -> list[str]:
        """What a runtime does again and again: the requests that have failed so far. What still fails."""
        pods = self.lab.pods
        going = [pod for pod in pods if pod.name in self.leaving]
        coming = [
            pod
            for pod in pods
            if pod.name not in self.leaving and (pod.result() is None or pod.name in self.remade)
        ]
        return [
            said
            for said in (*self.each(self._try_detach, going), *self.each(self._try_attach, coming))
            if said
        ]

    def _add_stranger(self, node: Node) -> None:
        self._attach(
            self._known(
                [
                    PodSpec(
                        name=f"{node.node.letter}-stranger",
                        node=node.name,
                        container=new_container(),
                        namespace=STRANGERS,
                    )
                ]
            )[0]
        )

    def new_pods(self, node: Node, count: int) -> list[Pod]:
        """So many more, as far as there may be; their sandboxes are not there yet."""
        count = max(0, min(count, MOST_PODS - len(self.comers(node))))
        taken = self.lab.state.pods
        numbers = [i for i in range(1, 100) if f"{node.node.letter}{i}" not in taken][:count]
        return self._known(
            PodSpec(
                name=f"{node.node.letter}{i}", node=node.name, container=new_container(), labels=labels(i)
            )
            for i in numbers
        )

    def _known(self, pods: Iterable[PodSpec]) -> list[Pod]:
        """They are the lab's from now on."""
        added = {pod.name: pod for pod in pods}
        with self._lock, self.lab.folder.locked(silent):
            state = self.lab.state
            state.pods.update(added)
            self.lab.folder.save(state)
        return [self.lab.pod(name) for name in added]

    def _bring(self, pod: Pod) -> None:
        """In the order of Kubernetes: the object, the attachment, its addresses."""
        self.lab.manifests.write_pod(pod.pod, pod.addresses)
        pod.start()
        pod.attach()
        self.lab.manifests.write_pod(pod.pod, pod.addresses)
        self.knocks.begin(pod)

    def _attach(self, pod: Pod) -> None:
        try:
            self._bring(pod)
        except CniError:
            if not self.broken:
                raise

    def _detach(self, pod: Pod) -> None:
        try:
            self._remove(pod)
        except CniError:
            if not self.broken:
                raise

    def _try_attach(self, pod: Pod) -> str:
        try:
            self._bring(pod)
            self.remade.discard(pod.name)
        except LabError as error:
            return f"ADD of {pod.name}: {error}"
        return ""

    def _try_detach(self, pod: Pod) -> str:
        try:
            self._remove(pod)
        except LabError as error:
            return f"DEL of {pod.name}: {error}"
        return ""

    def _remove(self, pod: Pod) -> None:
        self.knocks.end([pod.name])
        pod.down()
        self.lab.manifests.pod(pod.name).unlink(missing_ok=True)
        with self._lock, self.lab.folder.locked(silent):
            state = self.lab.state
            del state.pods[pod.name]
            self.lab.folder.save(state)
            self.leaving.discard(pod.name)
            self.remade.discard(pod.name)

    def relabel(self, node: int, known: bool) -> None:
        """The node's first pod; so that the guard knows it, or no longer."""
        for pod in self.comers(self.at(node))[:1]:
            self.policing.relabel(pod, known)

    # nodes and their manifests

    def add_node(self) -> None:
        self.changing = True
        used = {node.node.index for node in self.lab.nodes}
        self._declare(node_spec(next(index for index in itertools.count() if index not in used)))
        self._add_stranger(self.lab.add_node())

    def remove_node(self, node: int) -> None:
        """As one that loses power and never returns."""
        self.changing = True
        gone = self.at(node)
        pods = {pod.name for pod in self.lab.pods if pod.node.name == gone.name}
        self.knocks.end(pods)
        self.lab.remove_node(gone.name)
        self.leaving -= pods
        self.remade -= pods
        self.moved.pop(gone.name, None)
        self.narrowed.discard(gone.name)

    def move_node(self, node: int, address: int) -> None:
        """Another IPv4 address, in addition to the first one on the uplink, and instead of it in the manifest."""
        mover = self.at(node)
        number = address + 10 * mover.node.index
        self.moved[mover.name] = number
        self._give_addresses(mover)
        self.edit(
            mover.name,
            lambda document: document["status"]["addresses"][0].update(address=str(host(4, number))),
        )

    def encapsulate(self, node: int, encapsulation: str) -> None:
        """How the node is reached; "" for what the configuration says."""

        def change(document: dict[str, Any]) -> None:
            document["metadata"]["annotations"] = {ENCAPSULATION: encapsulation} if encapsulation else {}

        self.edit(self.at(node).name, change)

    def edit(self, node: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change a manifest; one that is broken just now is restored first."""
        self.restore_manifests()
        self.changing = True
        document = yaml.safe_load(manifest(self.lab, node).read_text())
        change(document)
        write_atomically(manifest(self.lab, node), yaml.safe_dump(document))

    def break_manifest(self, node: int, how: str) -> None:
        """half, invalid, empty or copy: a mistake that withdraws nothing; away: the peer is gone for a while."""
        self.restore_manifests()
        path = manifest(self.lab, self.at(node).name)
        text = path.read_text()
        copy = path.with_name("zz-copy.yaml")
        if how == "copy":
            self.mistaken = True
            copy.write_text(text.replace("192.0.2.", "198.51.100."))
        elif how == "away":
            path.unlink()
            self.broken = True
        else:
            self.mistaken = True
            path.write_text({"half": text[: len(text) // 2], "invalid": "kind: [Node\n", "empty": ""}[how])

        def restore() -> None:
            copy.unlink(missing_ok=True)
            if path.stem in self.lab.state.nodes:
                write_atomically(path, text)

        self._manifests = restore

    def restore_manifests(self) -> None:
        self._manifests()
        self._manifests = _nothing
        self.mistaken = False

    def _declare(self, node: NodeSpec) -> None:
        """The manifest, before the lab writes its own: a range that changed under pods would be another matter."""
        path = manifest(self.lab, node.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        first = str(node.pod_range(4))
        write_atomically(path, files.manifest(SPEC, node).replace(first, first.replace("/24", f"/{PREFIX}")))

    def _give_addresses(self, node: Node) -> None:
        """Those besides its first one: whoever makes the uplink anew does not know of them."""
        if node.name in self.moved:
            node.ip([f"address replace {host(4, self.moved[node.name])}/24 dev {node.uplink}"])

    def set_uplink_mtu(self, node: Node, mtu: int) -> None:
        """In bytes. vswitchd sets its own interface to what its row says. Raises LabError."""
        rows = ["ovs-vsctl", "-t30", "set", "Interface", node.uplink, f"mtu_request={mtu}"]
        link = ["ip", "link", "set", node.uplink, "mtu", str(mtu)]
        node.run(rows if node.datapath == "netdev" else link, check=True)

    # faults

    def later(self, seconds: float, cure: Callable[[], None]) -> None:
        """Ends a fault after so many seconds, whatever else is done meanwhile."""
        timer = threading.Timer(seconds, cure)
        self._timers.append(timer)
        timer.start()

    def at_last(self, seconds: float, cure: Callable[[], None]) -> None:
        """Ends a fault when everything is healed, but not before so many seconds."""
        self._cures.append((time.monotonic() + seconds, cure))

    def restart(self, node: Node, daemon: str) -> None:
        """What an init system does: it starts it, and does not wait. The rest is `heal`'s."""
        with contextlib.suppress(LabError, OSError):
            if not self.there(node) or node.daemon(daemon):
                return
            if daemon == AGENT:
                launch_agent(node)
            else:
                node.start(daemon)

    def heal(self) -> None:
        """Ends every fault; what it made of things is for ovsnet to mend."""
        for timer in self._timers:
            timer.join()
        self._timers.clear()
        while self._cures:
            when, cure = self._cures.pop()
            time.sleep(max(0.0, when - time.monotonic()))
            cure()
        self.restore_manifests()
        self.each(self._raise_node, self.lab.nodes)
        self.ended.clear()

    def _raise_node(self, node: Node) -> None:
        last: list[LabError] = []

        def up() -> bool:
            tell()
            try:
                for daemon in (OVSDB, VSWITCHD):
                    node.start(daemon)
                if not node.addressed(node.uplink, node.addresses):
                    node.make_uplink()
                self._give_addresses(node)
                if node.name in self.narrowed:
                    self.set_uplink_mtu(node, SPEC.mtu)
                    self.narrowed.discard(node.name)
                if not node.daemon(AGENT):
                    launch_agent(node)
            except LabError as error:
                last[:] = [error]
                return False
            return True

        if not wait_for(up, HEALED * SLOWER, 0.2):
            raise AssertionError(f"{node.name} can't be started again: {last[0]}")


def _nothing() -> None:
    """No manifest is broken."""
