"""A lab whose agents follow a real API server, with etcd behind it and nothing else of Kubernetes.

No controller, scheduler or kubelet runs: what the benchmarks make is all that there is, and nobody else takes
processor time. Pods are those of every other lab. Called by `bench_services`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml
from kube_requests import Requests

from ovsnet.lab import files as lab_files
from ovsnet.lab.kubernetes import files, plan
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.kubernetes.control import ControlPlane
from ovsnet.lab.lab import Lab
from ovsnet.lab.namespaces import Place
from ovsnet.lab.node import Node
from ovsnet.lab.spec import CONTROL, NodeSpec
from ovsnet.lab.state import State, write_atomically
from ovsnet.lab.underlay import Underlay

KUBECONFIG = "/etc/ovsnet/agent.kubeconfig"


class Server(ControlPlane):
    daemons = (plan.ETCD, plan.APISERVER)


class ApiNode(Node):
    """A node without a kubelet, whose agent asks the API server."""

    def write_agent_files(self) -> None:
        super().write_agent_files()
        text = (self.lab.path / "pki" / f"{plan.AGENT_USER}.kubeconfig").read_bytes()
        write_atomically(self.private(KUBECONFIG), text, 0o600)

    def agent_config(self) -> str:
        # The server has none of the lab's pods: they are compared, and not told of while figures are taken.
        store: dict[str, Any] = {"kubernetes": {"kubeconfig": KUBECONFIG, "leftoverAfter": 86400}}
        return lab_files.agent_config(self.spec, self.node, self.datapath, store)


class ApiLab(Cluster):
    """Its options are a lab's without Kubernetes."""

    def raise_all(self, state: State, changed: Callable[[str], None]) -> None:
        self.link_programs()
        server = self.control_of(state)
        server.prepare()
        underlay = Underlay(self.folder, state.spec)
        underlay.up()
        server.up(underlay, changed)
        rights = "\n---\n".join(
            yaml.safe_dump(each)
            for each in yaml.safe_load_all(files.manifests(state.spec))
            if each["metadata"]["name"] == plan.AGENT_USER
        )
        server.kubectl("apply", "--filename=-", input=rights)
        nodes = [yaml.safe_load(lab_files.manifest(state.spec, each)) for each in state.nodes.values()]
        Requests(server).create(nodes)
        Lab.raise_all(self, state, changed)

    def control_of(self, state: State) -> ControlPlane:
        return Server(self.folder, state.spec)

    def make_node(self, state: State, node: NodeSpec) -> Any:
        return ApiNode(self.folder, state.spec, node, state.datapath)

    def place(self, name: str) -> tuple[Place, str]:
        if name == CONTROL:
            return self.control, ""
        return Lab.place(self, name)
