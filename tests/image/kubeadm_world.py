"""A cluster that kubeadm makes, on nodes such as those of every Kubernetes lab: namespaces with containerd.

The lab makes nodes, underlay and Open vSwitch; all of Kubernetes is kubeadm's, by the files that docs/kubernetes.md
shows. What is put over them is what this place is not: it has no registry, no systemd, and maybe cgroups of version 1.
Called by test_kubeadm.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ovsnet.lab import files as lab_files
from ovsnet.lab import limits
from ovsnet.lab.kubernetes import files, images, plan
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.kubernetes.control import environment, programs
from ovsnet.lab.kubernetes.node import KUBELET, KubernetesNode
from ovsnet.lab.node import shared_files
from ovsnet.lab.spec import NodeSpec
from ovsnet.lab.state import ROOT, Completed, State, write_atomically
from ovsnet.lab.underlay import Outside, Underlay

HOW_TO = Path(__file__).parents[2] / "docs/kubernetes.md"
FIRST, SECOND = "node-a", "node-b"
ADMIN = "/etc/kubernetes/admin.conf"
REPOSITORY = "localhost"
OF_THE_PROGRAMS = ("kubeadm", "kubelet")
UNIT = """
until [ -e /var/lib/kubelet/config.yaml ] && [ -e /var/lib/kubelet/kubeadm-flags.env ]; do sleep 0.2; done
. /var/lib/kubelet/kubeadm-flags.env
while sleep 1; do
  kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
    --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS || true
done
"""
"""What systemd does by the unit of kubelet's package: start kubelet once kubeadm has written its files, and again when
it ends. Now and then 1.34.1 does, right at its start: "fatal error: concurrent map iteration and map write"."""
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.default.forwarding")
IGNORED = "--ignore-preflight-errors=HTTPProxyCIDR"
"""Of kubeadm 1.34 built with a newer Go: it looks for proxies of https://[10.96.0.1], which is no URL any more."""
KUBEADM_SECONDS = 280.0
"""kubeadm itself gives the control plane four minutes."""


class KubeadmNode(KubernetesNode):
    """Of Kubernetes it has programs and containerd alone."""

    folders = (*KubernetesNode.folders, "/etc/kubernetes", plan.ETCD_DATA)

    def private(self, folder: str) -> Path:
        if folder == plan.ETCD_DATA:
            return self.lab.disk / self.name / "etcd"
        return super().private(folder)

    def kubernetes_files(self) -> dict[str, bytes | str]:
        # CoreDNS asks it for names outside the cluster; nobody answers there, nor refuses at once.
        return {"resolv.conf": "nameserver 192.0.2.1\n"}

    def write_files(self) -> None:
        super().write_files()
        for name in OF_THE_PROGRAMS:
            link = self.path / "bin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(programs(self.lab) / name)

    def start_kubelet(self) -> None:
        """Or rather what starts it."""
        self.launch(KUBELET, ["/bin/sh", "-ceu", UNIT], env=environment())

    def kubeadm(self, *arguments: str, check: bool = True) -> Completed:
        return self.run(["kubeadm", *arguments], env=environment(), timeout=KUBEADM_SECONDS, check=check)

    def boot(self) -> None:
        """What follows containerd when the node starts: its sysctls, and somebody who starts kubelet."""
        self.run(["sysctl", "-w", *(f"{name}=1" for name in FORWARDING)], check=True)
        self.start(KUBELET)

    def import_control_plane(self) -> None:
        archive = self.lab.disk / f"{self.name}.tar"
        images.write_control_plane(programs(self.lab), archive)
        self.ctr("images", "import", str(archive))
        archive.unlink()

    def name_images(self) -> None:
        """Give the images that the node has the names by which kubeadm asks for them."""
        present = self.ctr("images", "list", "--quiet").stdout.split()
        source = {"coredns": images.COREDNS, "pause": images.PAUSE}
        for name in self.kubeadm("config", "images", "list", "--config", self.put(init())).stdout.split():
            program = name.rpartition("/")[2].partition(":")[0]
            if (image := source.get(program, images.KUBERNETES)) in present:
                self.ctr("images", "tag", image, name)

    def put(self, documents: list[dict[str, Any]]) -> str:
        """A configuration for kubeadm; where it is on the node."""
        text = yaml.safe_dump_all(documents, sort_keys=False)
        write_atomically(self.path / "kubernetes/kubeadm.yaml", text, 0o600)
        return f"{plan.FILES}/kubeadm.yaml"


class KubeadmCluster(Cluster):
    """Up, it is nodes without Kubernetes; the first is to be its control plane."""

    def raise_all(self, state: State, changed: Callable[[str], None]) -> None:
        self.link_programs()
        limits.claim(ROOT, self.name)
        underlay, outside = Underlay(self.folder, state.spec), Outside(self.folder, state.spec)
        underlay.up()
        outside.up(underlay, shared_files(self.folder))
        self.write_hosts(state)
        nodes = [self.make_node(state, node) for node in state.nodes.values()]
        self.each(lambda node: node.up_runtime(underlay, changed), nodes)
        self.each(KubeadmNode.boot, nodes)

    def make_node(self, state: State, node: NodeSpec) -> KubeadmNode:
        return KubeadmNode(self.folder, state.spec, node, state.datapath)

    def node(self, name: str) -> KubeadmNode:
        return self.make_node(self.state, self.state.nodes[name])

    def kubectl(
        self, *arguments: str, input: str = "", timeout: float = 120.0, check: bool = True
    ) -> Completed:
        """On the first node, as people do it there."""
        argv = [f"{lab_files.BINARIES}/kubectl", *arguments]
        env = {**environment(), "KUBECONFIG": ADMIN}
        return self.node(FIRST).run(argv, input=input, timeout=timeout, env=env, check=check)


def shown(name: str) -> list[dict[str, Any]]:
    """A file that the how-to shows: an indented block with its name as a comment on top."""
    lines = iter(HOW_TO.read_text().splitlines())
    first = next(line for line in lines if line.strip() == f"# {name}")
    margin = first.partition("#")[0]
    block = itertools.takewhile(lambda line: line.startswith(margin), lines)
    return list(yaml.safe_load_all(textwrap.dedent("\n".join(block))))


def init() -> list[dict[str, Any]]:
    """init.yaml, and what this place needs."""
    documents = {each["kind"]: each for each in shown("init.yaml")}
    documents["ClusterConfiguration"] |= {
        "imageRepository": REPOSITORY,
        "controllerManager": {
            # As in KUBELET_HERE: of itself it is no folder of the node's own.
            "extraArgs": [{"name": "flex-volume-plugin-dir", "value": files.KUBELET_HERE["volumePluginDir"]}]
        },
    }
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "resolvConf": f"{plan.FILES}/resolv.conf",
        **files.KUBELET_HERE,
    }
    return [*documents.values(), kubelet]


def join(command: str) -> list[dict[str, Any]]:
    """join.yaml. command: what `kubeadm token create --print-join-command` printed."""
    words = command.split()
    documents = shown("join.yaml")
    token: dict[str, Any] = documents[0]["discovery"]["bootstrapToken"]
    assert token["apiServerEndpoint"] == words[2]
    token["token"] = words[words.index("--token") + 1]
    token["caCertHashes"] = [words[words.index("--discovery-token-ca-cert-hash") + 1]]
    return documents
