"""The control plane: etcd, API server, controller-manager and scheduler, in a place of its own on the underlay.

It is no node: nothing of ovsnet runs there, and it reaches pods by routes over their nodes, as any host beside a
cluster does. `ControlPlane.up` makes what is missing and leaves the rest alone. Called by `cluster`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from ovsnet.lab import files as lab_files
from ovsnet.lab.kubernetes import files, plan, tools
from ovsnet.lab.kubernetes.pki import FRONT_PROXY_CA, Pki
from ovsnet.lab.namespaces import Place
from ovsnet.lab.node import shared_files
from ovsnet.lab.spec import CONTROL, CONTROL_HOST, LabError, LabSpec, NodeSpec, in_range, outside_interface
from ovsnet.lab.state import Completed, Folder, wait_for, write_atomically
from ovsnet.lab.underlay import UPLINK, Underlay, nodad

DAEMONS = (plan.ETCD, plan.APISERVER, plan.CONTROLLERS, plan.SCHEDULER)
START_SECONDS = 90.0
"""The API server takes 7 s on an idle machine with two processors."""


def environment() -> dict[str, str]:
    """PATH for daemons: whoever started the lab may have had none for administrators."""
    return {"PATH": f"{lab_files.BINARIES}:{tools.PATH}"}


def programs(folder: Folder) -> Path:
    """The folder with the programs that this lab runs, which are those that it was made with."""
    return (folder.path / "programs").resolve()


class ControlPlane(Place):
    """The place called `control`."""

    daemons: tuple[str, ...] = DAEMONS
    """Those that are to run in it, in the order in which they start."""

    def __init__(self, folder: Folder, spec: LabSpec) -> None:
        super().__init__(folder, CONTROL)
        self.spec = spec
        self.pki = Pki(folder.path / "pki")

    def up(self, underlay: Underlay, changed: Callable[[str], None]) -> None:
        """Start or repair it; it serves when this returns."""
        if not self.init:
            changed(f"{self.name}: namespaces")
            self.make_namespaces()
        addresses = [in_range(version, CONTROL_HOST) for version in self.spec.underlay_families]
        if underlay.plug(self, CONTROL) or not self.addressed(UPLINK, [each.ip for each in addresses]):
            ways = [outside_interface(version).ip for version in self.spec.underlay_families]
            self.ip(
                [f"link set {UPLINK} up"]
                + [f"address replace {each} dev {UPLINK} {nodad(each.version)}" for each in addresses]
                # Nothing leaves the lab; without a default route an address of a Service is no address at all.
                + [f"route replace default via {way} dev {UPLINK}" for way in ways]
            )
        missing = [name for name in self.daemons if not self.daemon(name)]
        for name in missing:
            changed(f"{self.name}: {name}")
            self.start(name)

    def prepare(self) -> None:
        """Certificates and kubeconfigs, before anything else: nodes have theirs from the same authority."""
        self.pki.prepare()
        url = plan.api_url(self.spec)
        self.pki.certificate("apiserver", "/CN=kube-apiserver", plan.api_names(self.spec))
        self.pki.certificate("apiserver-kubelet", "/O=system:masters/CN=apiserver-kubelet")
        self.pki.certificate("front-proxy-client", "/CN=front-proxy-client", authority=FRONT_PROXY_CA)
        users = {
            "admin": "/O=system:masters/CN=admin",
            plan.CONTROLLERS: f"/CN=system:{plan.CONTROLLERS}",
            plan.SCHEDULER: f"/CN=system:{plan.SCHEDULER}",
            plan.AGENT_USER: f"/CN={plan.AGENT_USER}",
        }
        for name, subject in users.items():
            text = self.pki.kubeconfig(name, subject, url)
            write_atomically(self.pki.folder / f"{name}.kubeconfig", text, 0o600)

    def make_namespaces(self) -> None:
        data = self.lab.disk / self.name / "etcd"
        data.mkdir(parents=True, exist_ok=True)
        commands = self.lab.place(self.name) / "bin"
        commands.mkdir(exist_ok=True)
        write_atomically(commands / "kubectl", files.kubectl(programs(self.lab) / "kubectl"), 0o755)
        binds = [
            (str(self.pki.folder), plan.FILES),
            (str(data), plan.ETCD_DATA),
            (str(commands), lab_files.BINARIES),
            *shared_files(self.lab),
        ]
        self.hold(binds=binds, run=["ovsnet"])

    # daemons

    def start(self, name: str) -> None:
        """Start one of its programs; the API server and etcd serve when this returns."""
        commands = {
            plan.ETCD: plan.etcd(),
            plan.APISERVER: plan.apiserver(self.spec),
            plan.CONTROLLERS: plan.controllers(self.spec),
            plan.SCHEDULER: plan.scheduler(),
        }
        if name not in commands:
            raise LabError(f"the control plane has no program {name}", ", ".join(commands))
        if self.daemon(name):
            return
        program, *arguments = commands[name]
        self.launch(name, [str(programs(self.lab) / program), *arguments], env=environment())
        if name == plan.APISERVER:
            self.await_api()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one of its programs."""
        self.stop(name, number)

    def await_api(self, seconds: float = START_SECONDS) -> None:
        """Wait until the API server says that it is ready. Raises LabError with its last words."""

        def answered() -> bool:
            alive = self.daemon(plan.APISERVER) is not None
            return not alive or self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0

        if not wait_for(answered, seconds, 0.2) or not self.daemon(plan.APISERVER):
            raise LabError(
                f"{plan.APISERVER} does not get ready: {self.last_words(plan.APISERVER)}",
                f"its log: {self.log(plan.APISERVER)}",
            )

    # using it

    def kubectl(
        self, *arguments: str, input: str = "", timeout: float = 120.0, check: bool = True
    ) -> Completed:
        """Run kubectl as the cluster's administrator. With check a failure is a LabError with what it says."""
        argv = [f"{lab_files.BINARIES}/kubectl", *arguments]
        return self.run(argv, input=input, timeout=timeout, env=environment(), check=check)

    def route_pods(self, ranges: Iterable[tuple[NodeSpec, str]]) -> None:
        """Reach each node's range of pods over that node."""
        lines = [
            f"route replace {pods} via {node.address(6 if ':' in pods else 4)} dev {UPLINK}"
            for node, pods in ranges
            if (6 if ":" in pods else 4) in self.spec.underlay_families
        ]
        self.ip(lines)
