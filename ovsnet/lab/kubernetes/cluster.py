"""The cluster as a lab: `Cluster` is what the command line and the tests use.

Differs from a `Lab` in what is started and in what order; state, lock, removal and the underlay are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from ovsnet.cni import resultcache
from ovsnet.lab import files as lab_files
from ovsnet.lab import limits
from ovsnet.lab.check import SECONDS, Report
from ovsnet.lab.kubernetes import build, check, files
from ovsnet.lab.kubernetes.control import DAEMONS, ControlPlane, environment
from ovsnet.lab.kubernetes.node import KubernetesNode
from ovsnet.lab.lab import Lab
from ovsnet.lab.namespaces import INIT, Place
from ovsnet.lab.node import Node, shared_files
from ovsnet.lab.spec import CONTROL, OUTSIDE, LabError, NodeSpec
from ovsnet.lab.state import ROOT, Completed, State
from ovsnet.lab.underlay import Outside, Underlay

READY_SECONDS = 90


class Cluster(Lab):
    """A Kubernetes cluster by its name."""

    def raise_all(self, state: State, changed: Callable[[str], None]) -> None:
        self.link_programs()
        control = self.control_of(state)
        control.prepare()
        limits.claim(ROOT, self.name)
        underlay, outside = Underlay(self.folder, state.spec), Outside(self.folder, state.spec)
        if underlay.up():
            changed("underlay")
        if outside.up(underlay, shared_files(self.folder)):
            changed(OUTSIDE)
        nodes = [self.make_node(state, node) for node in state.nodes.values()]
        self.say(f"starting the control plane and {len(nodes)} nodes ({state.datapath} datapath)")
        with ThreadPoolExecutor(max_workers=1) as beside:
            serving = beside.submit(control.up, underlay, changed)
            self.each(lambda node: node.up_runtime(underlay, changed), nodes)
            serving.result()
        self.say("the API server serves; starting kubelets and agents")
        control.kubectl("apply", "--filename=-", input=files.manifests(state.spec))
        self.each(lambda node: node.up_kubernetes(changed), nodes)
        self.write_hosts(state)
        self.settle(state)
        self.say("all nodes are Ready")

    def settle(self, state: State) -> None:
        """Wait until all nodes are Ready, and tell the control plane the way to their pods."""
        control = self.control_of(state)
        nodes = [self.make_node(state, node) for node in state.nodes.values()]
        control.route_pods((node.node, pods) for node in nodes for pods in node.pod_ranges())
        if state.spec.plugin == "ovsnet":
            names = [f"node/{name}" for name in state.nodes]
            control.kubectl("wait", "--for=condition=Ready", f"--timeout={READY_SECONDS}s", *names)

    def link_programs(self) -> None:
        """Which programs the lab runs is decided when it is made: a newer build does not change it."""
        link = self.folder.path / "programs"
        if not (link / "kubelet").exists():
            link.unlink(missing_ok=True)
            link.symlink_to(build.built(self.say).bin)

    def check(self, seconds: float = SECONDS) -> Report:
        """Probe every path between pods, which are made for it, and from nodes; see `check`."""
        return check.check(self, seconds)

    # its parts

    @property
    def control(self) -> ControlPlane:
        return self.control_of(self.state)

    def control_of(self, state: State) -> ControlPlane:
        return ControlPlane(self.folder, state.spec)

    def make_node(self, state: State, node: NodeSpec) -> KubernetesNode:
        return KubernetesNode(self.folder, state.spec, node, state.datapath)

    def node(self, name: str) -> KubernetesNode:
        super().node(name)  # says what is there if this is not
        return self.make_node(self.state, self.state.nodes[name])

    def write_manifests(self, state: State) -> None:
        """Nodes are in the API server; agents of this lab look into no folder."""
        (self.folder.path / "cluster").mkdir(exist_ok=True)

    def kubectl(
        self, *arguments: str, input: str = "", timeout: float = 120.0, check: bool = True
    ) -> Completed:
        """Run kubectl as the administrator. With check a failure is a LabError."""
        return self.control.kubectl(*arguments, input=input, timeout=timeout, check=check)

    def kubectl_command(self, arguments: Sequence[str]) -> list[str]:
        """A command line that runs it, with terminal, input and current folder."""
        control = self.control
        return control.command([f"{lab_files.BINARIES}/kubectl", *arguments], env=environment())

    def place(self, name: str) -> tuple[Place, str]:
        """Also `control`, and the cluster's pods: POD, or NAMESPACE/POD."""
        state = self.state
        if name == CONTROL:
            return self.control_of(state), ""
        if name == OUTSIDE or name in state.nodes:
            return super().place(name)
        namespace, _, pod = name.rpartition("/")
        for node in self.nodes:
            for found in resultcache.pods([node.private("/var/lib/cni") / "results"]).pods:
                if (found.namespace, found.name) == (namespace or "default", pod):
                    return node, found.netns
        known = ", ".join([*state.nodes, CONTROL, OUTSIDE])
        raise LabError(
            f"nothing in lab {self.name} is called {name}",
            f"there are {known} and pods, as POD or NAMESPACE/POD: `ovsnet lab kubectl get pods -A`",
        )

    # changes

    def add_node(self, name: str = "") -> Node:
        added = super().add_node(name)
        self.settle(self.state)
        return added

    def remove_node(self, name: str) -> None:
        super().remove_node(name)
        self.kubectl("delete", "node", name, "--ignore-not-found")

    def add_pod(self, node: str, name: str = "", **options: Any) -> NoReturn:
        raise LabError("pods of a Kubernetes lab are made by Kubernetes", "`ovsnet lab kubectl run ...`")

    def missing(self) -> list[str]:
        """What of the control plane does not run."""
        control = self.control
        return [name for name in (INIT, *DAEMONS) if not control.daemon(name)]
