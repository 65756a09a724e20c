"""A node of the cluster: a lab's node with containerd, a kubelet and an agent that follows the API server.

Adds to `lab.node` what makes it Kubernetes': cgroups of its own, containerd with our images, the kubelet; and the
order in which they come. Pods are the kubelet's business. Called by `cluster` and by tests that break nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovsnet.lab import files as lab_files
from ovsnet.lab.kubernetes import files, images, plan
from ovsnet.lab.kubernetes.control import environment, programs
from ovsnet.lab.kubernetes.pki import Pki
from ovsnet.lab.node import AGENT, PRIVATE, RUN_FOLDERS, START_SECONDS, Node
from ovsnet.lab.spec import LabError
from ovsnet.lab.state import Completed, wait_for, write_atomically
from ovsnet.lab.underlay import Underlay

CONTAINERD, KUBELET = "containerd", "kubelet"
ON_DISK = ("/var/lib/containerd", "/var/lib/kubelet")
"""Hundreds of megabytes: not below /run, which may be memory."""
IMPORT_SECONDS = 120.0
KUBELET_STARTS = 2
"""Nobody else starts it again, and 1.34.1 may end right at its start: it reads a map of the node's resources while it
fills it, "fatal error: concurrent map iteration and map write"."""


class KubernetesNode(Node):
    """One node; its name in Kubernetes is that in the lab."""

    folders: tuple[str, ...] = (*PRIVATE, "/var/lib/kubelet")

    def up(self, underlay: Underlay, changed: Callable[[str], None]) -> None:
        """Start or repair everything; the node is about to be Ready when this returns."""
        self.up_runtime(underlay, changed)
        self.up_kubernetes(changed)

    def up_runtime(self, underlay: Underlay, changed: Callable[[str], None]) -> None:
        """The part that needs no API server."""
        self.up_switch(underlay, changed)
        if not self.daemon(CONTAINERD):
            changed(f"{self.name}: {CONTAINERD}")
            self.start(CONTAINERD)

    def up_kubernetes(self, changed: Callable[[str], None]) -> None:
        """The part that does."""
        if not self.daemon(KUBELET):
            changed(f"{self.name}: {KUBELET}")
            self.start(KUBELET)
        if self.spec.plugin != "ovsnet":
            return
        if not self.daemon(AGENT):
            changed(f"{self.name}: agent")
            self.start(AGENT)
        else:
            self.await_agent(START_SECONDS)
        # Last: with this file containerd takes the network for ready.
        self.write_conflist()

    @property
    def daemons(self) -> list[str]:
        return [CONTAINERD, KUBELET, *super().daemons]

    # what the node is made of

    def private(self, folder: str) -> Path:
        if folder in ON_DISK:
            return self.lab.disk / self.name / Path(folder).name
        return super().private(folder)

    def write_files(self) -> None:
        super().write_files()
        own = self.path / "kubernetes"
        own.mkdir(mode=0o700, exist_ok=True)
        for name, text in {"containerd.toml": files.containerd(), **self.kubernetes_files()}.items():
            write_atomically(own / name, text, 0o600)
        kubectl = files.kubectl(programs(self.lab) / "kubectl")
        write_atomically(self.path / "bin" / "kubectl", kubectl, 0o755)
        for name, value in files.KERNEL_SETTINGS.items():
            write_atomically(self.kernel_setting(name), f"{value}\n")

    def kubernetes_files(self) -> dict[str, bytes | str]:
        """What the kubelet, the agent and people read, by name in plan.FILES."""
        pki = Pki(self.lab.path / "pki")
        url = plan.api_url(self.spec)
        names = [f"DNS:{self.name}", *(f"IP:{each}" for each in plan.node_addresses(self.spec, self.node))]
        subject = f"/O=system:nodes/CN=system:node:{self.name}"
        pki.certificate(f"kubelet-{self.name}", subject, names)
        return {
            "ca.crt": pki.read("ca.crt"),
            "kubelet.crt": pki.read(f"kubelet-{self.name}.crt"),
            "kubelet.key": pki.read(f"kubelet-{self.name}.key"),
            "kubelet.kubeconfig": pki.kubeconfig(f"kubelet-{self.name}", subject, url),
            "kubelet.yaml": files.kubelet(self.spec),
            "agent.kubeconfig": pki.read(f"{plan.AGENT_USER}.kubeconfig"),
            "admin.kubeconfig": pki.read("admin.kubeconfig"),
        }

    def write_agent_files(self) -> None:
        self.write_config()
        write_atomically(self.private("/opt/cni/bin/ovsnet"), lab_files.cni_executable(), 0o755)

    def agent_config(self) -> str:
        store: dict[str, Any] = {"kubernetes": {"kubeconfig": f"{plan.FILES}/agent.kubeconfig"}}
        return lab_files.agent_config(self.spec, self.node, self.datapath, store)

    def kernel_setting(self, name: str) -> Path:
        folder = self.path / "sysctl"
        folder.mkdir(exist_ok=True)
        return folder / name.replace("/", ".")

    def make_namespaces(self) -> None:
        self.hold(binds=self.binds(), run=(*RUN_FOLDERS, "containerd"), cgroups=self.own_cgroups())

    def binds(self) -> list[tuple[str, str]]:
        settings = [(str(self.kernel_setting(name)), f"/proc/sys/{name}") for name in files.KERNEL_SETTINGS]
        return [*super().binds(), (str(self.path / "kubernetes"), plan.FILES), *settings]

    # daemons

    def starters(self) -> dict[str, Callable[[], None]]:
        return {**super().starters(), CONTAINERD: self.start_containerd, KUBELET: self.start_kubelet}

    def start_containerd(self) -> None:
        socket = self.root / plan.CONTAINERD_SOCKET.lstrip("/")
        socket.unlink(missing_ok=True)
        command = ["containerd", "--config", f"{plan.FILES}/containerd.toml"]
        self.launch(CONTAINERD, command, env=environment())
        self.await_daemon(CONTAINERD, socket, START_SECONDS)
        present = self.ctr("images", "list", "--quiet").stdout.split()
        if not {images.PAUSE, images.AGNHOST, images.COREDNS} <= set(present):
            self.ctr("images", "import", str(programs(self.lab).parent / "images.tar"))

    def ctr(self, *arguments: str) -> Completed:
        """containerd's own tool, in the namespace of Kubernetes."""
        command = ["ctr", "--namespace", "k8s.io", *arguments]
        return self.run(command, timeout=IMPORT_SECONDS, env=environment(), check=True)

    def start_kubelet(self) -> None:
        """Start the kubelet and wait until the API server knows the node with its ranges."""
        program, *arguments = plan.kubelet(self.spec, self.node)
        registered = False
        for _attempt in range(KUBELET_STARTS):
            self.launch(KUBELET, [str(programs(self.lab) / program), *arguments], env=environment())
            registered = wait_for(
                lambda: bool(self.pod_ranges()) or not self.daemon(KUBELET), START_SECONDS, 0.3
            )
            if self.daemon(KUBELET):
                break
        if not registered or not self.daemon(KUBELET):
            raise LabError(
                f"the kubelet of {self.name} does not register its node: {self.last_words(KUBELET)}",
                f"its log: {self.log(KUBELET)}",
            )

    def pod_ranges(self) -> list[str]:
        """Those that the cluster has given to the node; none as long as it has not."""
        path = "jsonpath={.spec.podCIDRs[*]}"
        argv = [f"{lab_files.BINARIES}/kubectl", "get", "node", self.name, "--output", path]
        return self.run(argv, env=environment()).stdout.split()
