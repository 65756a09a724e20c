"""The lab as a whole: `Lab` is what the command line and the integration tests use.

Keeps the lab's state file and gives each part its turn; what a part is made of is in `node`, `pods` and
`underlay`. Every method that changes the lab holds its lock: two commands at once come one after the other.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from ovsnet.lab import check, files, spec
from ovsnet.lab.manifests import Manifests
from ovsnet.lab.namespaces import Place
from ovsnet.lab.node import Node, shared_files
from ovsnet.lab.pods import Pod, new_container
from ovsnet.lab.spec import OUTSIDE, LabError, LabSpec, NodeSpec, PodSpec
from ovsnet.lab.state import Completed, Folder, State, call
from ovsnet.lab.underlay import Outside, Underlay, hosts_file, write_in_place

T = TypeVar("T")
Say = Callable[[str], None]
WORKERS = 8


def silent(_text: str) -> None:
    """Progress for those who don't want any."""


class Lab:
    """A lab by its name. `spec` is for `up`; None: as it is, or the defaults for a new one."""

    def __init__(self, name: str = "lab", spec: LabSpec | None = None, say: Say = silent) -> None:
        self.name = name
        self.wanted = spec
        self.say = say
        self.folder = Folder(name)
        self.manifests = Manifests(self.folder.path)

    # the whole

    def up(self) -> list[str]:
        """Make the lab, or repair what is missing of it; what was made. Raises LabError."""
        require_root()
        changes: list[str] = []
        with self.folder.locked(self.say, create=True):
            state = self.folder.load()
            if state is None:
                state = self.new_state()
                self.folder.save(state)
            elif self.wanted is not None and self.wanted != state.spec:
                difference = self.wanted.describe_difference(state.spec)
                raise LabError(
                    f"lab {self.name} exists with other options: {difference} asked for", self.down_first()
                )
            self.write_shared(state)
            self.raise_all(state, changes.append)
        return changes

    def down(self) -> bool:
        """Remove the lab with all that belongs to it, however far it got; whether there was one."""
        require_root()
        if not self.folder.path.exists():
            return False
        with self.folder.locked(self.say):
            self.folder.remove()
        return True

    def check(self, seconds: float = check.SECONDS) -> check.Report:
        """Probe every path; see `check`."""
        state = self.state
        pods = [self.make_pod(state, pod) for pod in state.pods.values()]
        nodes = [self.make_node(state, node) for node in state.nodes.values()]
        pod_hosts = self.each(pod_host, pods)
        node_hosts = [node_host(state.spec, node.node) for node in nodes]
        pod_probers = [check.Prober(host, pod.command) for pod, host in zip(pods, pod_hosts, strict=True)]
        node_probers = [
            check.Prober(host, node.command) for node, host in zip(nodes, node_hosts, strict=True)
        ]
        probers = pod_probers + node_probers
        return check.check(probers, [*pod_hosts, *node_hosts, outside_host(state.spec)], seconds)

    # its parts

    @property
    def state(self) -> State:
        state = self.folder.load()
        if state is None:
            raise LabError(
                f"there is no lab {self.name}", "`ovsnet lab up` makes one; --name chooses another"
            )
        return state

    def node(self, name: str) -> Node:
        state = self.state
        if name not in state.nodes:
            raise LabError(f"there is no node {name}", f"nodes: {', '.join(state.nodes) or 'none'}")
        return self.make_node(state, state.nodes[name])

    def pod(self, name: str) -> Pod:
        state = self.state
        if name not in state.pods:
            raise LabError(f"there is no pod {name}", f"pods: {', '.join(state.pods) or 'none'}")
        return self.make_pod(state, state.pods[name])

    @property
    def nodes(self) -> list[Node]:
        state = self.state
        return [self.make_node(state, node) for node in state.nodes.values()]

    @property
    def pods(self) -> list[Pod]:
        state = self.state
        return [self.make_pod(state, pod) for pod in state.pods.values()]

    @property
    def outside(self) -> Outside:
        return Outside(self.folder, self.state.spec)

    @property
    def underlay(self) -> Underlay:
        return Underlay(self.folder, self.state.spec)

    def place(self, name: str) -> tuple[Place, str]:
        """Where commands for that name run: a place, and a pod's network namespace in it or ""."""
        state = self.state
        if name == OUTSIDE:
            return Outside(self.folder, state.spec), ""
        if name in state.nodes:
            return self.make_node(state, state.nodes[name]), ""
        if name in state.pods:
            pod = self.make_pod(state, state.pods[name])
            return pod.node, pod.netns
        known = ", ".join([*state.pods, *state.nodes, OUTSIDE])
        raise LabError(f"nothing in lab {self.name} is called {name}", f"there are: {known}")

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """A command line that runs argv in that pod, on that node or outside."""
        place, netns = self.place(name)
        return place.command(argv, netns, files.shell_environment())

    def exec(self, pod: str, argv: Sequence[str], input: str = "", timeout: float = 60.0) -> Completed:
        """Run a command in a pod (or by any other name of the lab) and collect what it says."""
        place, netns = self.place(pod)
        return place.run(argv, netns=netns, input=input, timeout=timeout, env=files.shell_environment())

    run = exec

    # changes

    def add_node(self, name: str = "") -> Node:
        """Add a node, without pods; its name is the next free one unless given."""
        with self.folder.locked(self.say):
            state = self.state
            used = {node.index for node in state.nodes.values()}
            index = next(number for number in itertools.count() if number not in used)
            if index >= spec.MAX_NODES:
                raise LabError(f"a lab has at most {spec.MAX_NODES} nodes")
            added = spec.node_spec(index, name)
            spec.check_name(added.name, "node", taken(state))
            state.nodes[added.name] = added
            self.folder.save(state)
            self.write_shared(state)
            node = self.make_node(state, added)
            self.write_hosts(state)
            node.up(Underlay(self.folder, state.spec), silent)
            return node

    def remove_node(self, name: str) -> None:
        """Remove a node as one that loses power and never returns, with its pods and its manifest."""
        with self.folder.locked(self.say):
            node, state = self.node(name), self.state
            state.nodes.pop(name)
            lost = {pod.name for pod in state.pods.values() if pod.node == name}
            state.pods = {pod.name: pod for pod in state.pods.values() if pod.name not in lost}
            self.folder.save(state)
            for path in (self.manifests.node(name), *map(self.manifests.pod, lost)):
                path.unlink(missing_ok=True)
            node.remove(Underlay(self.folder, state.spec))
            self.write_hosts(state)

    def add_pod(
        self,
        node: str,
        name: str = "",
        *,
        namespace: str = spec.DEFAULT,
        labels: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        **runtime_config: Any,
    ) -> Pod:
        """Add a pod. runtime_config is for the plugins' capabilities: ips, mac, portMappings, bandwidth."""
        with self.folder.locked(self.say):
            letter, state = self.node(node).node.letter, self.state
            if not name:
                name = next(f"{letter}{i}" for i in itertools.count(1) if f"{letter}{i}" not in taken(state))
            spec.check_name(name, "pod", taken(state))
            spec.check_name(namespace, "namespace", set())
            added = PodSpec(
                name=name,
                node=node,
                container=new_container(),
                runtime_config=runtime_config,
                namespace=namespace,
                labels=dict(labels or {}),
                ports=dict(ports or {}),
            )
            pod = self.make_pod(state, added)
            state.pods[name] = added
            self.folder.save(state)
            self.write_manifests(state)
            try:
                self.attach(pod)
            except LabError:
                del state.pods[name]
                self.folder.save(state)
                pod.discard()
                self.manifests.pod(name).unlink(missing_ok=True)
                raise
            self.write_hosts(state)
            return pod

    def remove_pod(self, name: str) -> None:
        with self.folder.locked(self.say):
            pod, state = self.pod(name), self.state
            pod.down()
            del state.pods[name]
            self.folder.save(state)
            self.manifests.pod(name).unlink(missing_ok=True)
            self.write_hosts(state)

    def label_pod(self, name: str, labels: Mapping[str, str]) -> None:
        """Give a pod these labels instead of those that it has."""
        with self.folder.locked(self.say):
            pod, state = self.pod(name).pod, self.state
            state.pods[name] = labelled = msgspec.structs.replace(pod, labels=dict(labels))
            self.folder.save(state)
            self.manifests.label_pod(labelled)

    # how

    def new_state(self) -> State:
        wanted = self.wanted or LabSpec()
        nodes = [spec.node_spec(index) for index in range(wanted.nodes)]
        pods = [
            PodSpec(name=f"{node.letter}{number}", node=node.name, container=new_container())
            for node in nodes
            for number in range(1, wanted.pods + 1)
        ]
        return State(
            spec=wanted,
            datapath=kernel_or_userspace() if wanted.datapath == "auto" else wanted.datapath,
            nodes={node.name: node for node in nodes},
            pods={pod.name: pod for pod in pods},
        )

    def raise_all(self, state: State, changed: Callable[[str], None]) -> None:
        underlay, outside = Underlay(self.folder, state.spec), Outside(self.folder, state.spec)
        if underlay.up():
            changed("underlay")
        if outside.up(underlay, shared_files(self.folder)):
            changed(OUTSIDE)
        nodes = [self.make_node(state, node) for node in state.nodes.values()]
        self.say(f"starting {len(nodes)} nodes ({state.datapath} datapath)")
        for words in filter(None, (node.kept for node in nodes)):
            self.say(words)
        self.each(lambda node: node.up(underlay, changed), nodes)
        pods = [self.make_pod(state, pod) for pod in state.pods.values()]
        self.say(f"attaching {len(pods)} pods")

        started = set(itertools.compress(pods, self.each(Pod.start, pods)))

        def attach(node: Node) -> None:
            """One after the other, so that the first pod gets the first address; all, whatever fails."""
            errors: list[LabError] = []
            for pod in pods:
                if pod.node.name != node.name:
                    continue
                try:
                    if self.attach(pod) or pod in started:
                        changed(f"pod {pod.name}")
                except LabError as error:
                    errors.append(error)
            if errors:
                raise errors[0]

        self.each(attach, nodes)
        self.write_hosts(state)

    def attach(self, pod: Pod) -> bool:
        """Make what is missing of a pod, in the order of Kubernetes: the object, the attachment, its addresses."""
        self.manifests.write_pod(pod.pod, pod.addresses)
        changed = pod.up()
        self.manifests.write_pod(pod.pod, pod.addresses)
        return changed

    def each(self, work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
        """Do it for all at once; the first error after all have had their turn."""
        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            return list(pool.map(work, items))

    def write_shared(self, state: State) -> None:
        """The files that all nodes see: hosts, resolv.conf and the cluster's manifests."""
        self.write_manifests(state)
        write_in_place(self.folder.path / "resolv.conf", "# no name server: nothing leaves the lab\n")
        if not (self.folder.path / "hosts").exists():
            write_in_place(self.folder.path / "hosts", hosts_file([]))

    def write_manifests(self, state: State) -> None:
        self.manifests.write_all(state)

    def write_hosts(self, state: State) -> None:
        entries: list[tuple[str, str]] = []
        for node in state.nodes.values():
            entries += [(str(node.address(version)), node.name) for version in state.spec.underlay_families]
        for version in state.spec.underlay_families:
            entries.append((str(spec.outside_interface(version).ip), OUTSIDE))
        for pod in state.pods.values():
            entries += [(str(address), pod.name) for address in self.make_pod(state, pod).addresses]
        write_in_place(self.folder.path / "hosts", hosts_file(entries))

    def make_node(self, state: State, node: NodeSpec) -> Node:
        return Node(self.folder, state.spec, node, state.datapath)

    def make_pod(self, state: State, pod: PodSpec) -> Pod:
        return Pod(self.make_node(state, state.nodes[pod.node]), pod)

    def down_first(self) -> str:
        return f"`ovsnet lab --name {self.name} down` first"


def taken(state: State) -> set[str]:
    return {*state.nodes, *state.pods}


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces, which only root may", "run it with sudo")


def kernel_or_userspace() -> str:
    """system if this kernel has Open vSwitch's datapath, else netdev. Asks as ovs-vswitchd itself does."""
    try:
        done = call(["ovs-dpctl", "dump-dps"])
    except FileNotFoundError as error:
        raise LabError("Open vSwitch is not installed", "apt-get install openvswitch-switch") from error
    return "system" if done.returncode == 0 else "netdev"


def pod_host(pod: Pod) -> check.Host:
    node = pod.node.node
    families = pod.node.spec.underlay_families
    return check.Host(
        name=pod.name,
        kind="pod",
        families=pod.node.spec.pod_families,
        addresses=pod.addresses,
        sources=pod.addresses,
        outside_sources=tuple(node.address(version) for version in families),
    )


def node_host(options: LabSpec, node: NodeSpec) -> check.Host:
    """Probed at its own address; in a family that the underlay lacks at the gateway address of its pods."""
    own = {version: node.address(version) for version in options.underlay_families}
    gateways = {version: node.gateway(version) for version in options.pod_families}
    if options.plugin != "ovsnet":
        gateways = {version: gateways[version] for version in own if version in gateways}
    return check.Host(
        name=node.name,
        kind="node",
        addresses=tuple(own.get(version, gateways[version]) for version in gateways),
        sources=(*own.values(), *gateways.values()),
        outside_sources=tuple(own.values()),
    )


def outside_host(options: LabSpec) -> check.Host:
    families = [version for version in options.underlay_families if version in options.pod_families]
    addresses = tuple(spec.outside_interface(version).ip for version in families)
    return check.Host(name=OUTSIDE, kind="outside", addresses=addresses)
