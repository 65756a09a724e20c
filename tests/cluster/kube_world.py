"""What the tests of a Kubernetes cluster share: objects, ways to wait for them, and requests from anywhere to anywhere.

A place that asks is named as in the lab: a node, `outside`, `control`, or a pod as NAMESPACE/POD; there curl of this
machine runs in the pod's network namespace, so that a question costs no kubectl.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import probe
from lab_world import SLOWER, eventually, left_over

from ovsnet.lab.kubernetes import plan
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.kubernetes.images import AGNHOST
from ovsnet.lab.kubernetes.node import KUBELET
from ovsnet.lab.spec import LabSpec

Object = dict[str, Any]
Made = TypeVar("Made", bound=Cluster)
NODES = ("node-a", "node-b", "node-c")
PORT = 8080
"""Of agnhost's netexec, over TCP; it answers /hostname, /clientip and /echo?msg=..."""
READY_SECONDS = 60.0
EVERY = 0.02
"""Seconds between two datagrams of `traffic`. Open vSwitch's datapath in user space has room for some 300 packets while
ovs-vswitchd does something else; a busy machine keeps it from its work for a third of a second."""
PROBE = ["env", f"OVSNET_PROBE_EVERY={EVERY}", sys.executable, "-I", "-S", probe.__file__]


@contextlib.contextmanager
def running_cluster(**options: Any) -> Iterator[Cluster]:
    """A cluster with a name of its own, all nodes Ready; gone afterwards, however far it got."""
    with running_kind(Cluster, **options) as cluster:
        yield cluster


@contextlib.contextmanager
def running_kind(kind: type[Made], **options: Any) -> Iterator[Made]:
    """The same of another kind of cluster."""
    spec = msgspec.convert({"kubernetes": True, "pods": 0, "nodes": len(NODES), **options}, LabSpec)
    cluster = kind(f"t-{uuid.uuid4().hex[:8]}", spec)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


class Namespace:
    """A namespace of the cluster for one test, or some."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def apply(self, *objects: Object) -> None:
        """Make or change the objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--filename=-", input=text)

    def kubectl(self, *arguments: str, input: str = "", timeout: float = 120.0) -> str:
        """What kubectl prints. timeout: seconds beyond those that it is told to wait on a slow machine."""
        timeout *= SLOWER
        done = self.cluster.kubectl(f"--namespace={self.name}", *arguments, input=input, timeout=timeout + 30)
        return done.stdout

    def get(self, kind: str, name: str = "") -> Object:
        found: Object = json.loads(self.kubectl("get", kind, *([name] if name else []), "--output=json"))
        return found

    def start(self, *pods: Object, seconds: float = READY_SECONDS) -> None:
        """Make the pods and wait until they are ready."""
        self.apply(*pods)
        self.await_ready(*(f"pod/{pod['metadata']['name']}" for pod in pods), seconds=seconds)

    def await_ready(self, *names: str, seconds: float = READY_SECONDS) -> None:
        self.kubectl("wait", "--for=condition=Ready", f"--timeout={seconds * SLOWER:.0f}s", *names)

    def place(self, pod: str) -> str:
        """The pod's name as one that asks."""
        return f"{self.name}/{pod}"

    def addresses(self, pod: str) -> dict[int, str]:
        """The pod's addresses by family, as Kubernetes tells them."""
        return by_family(each["ip"] for each in self.get("pod", pod)["status"]["podIPs"])


def begin_anew(cluster: Cluster) -> None:
    """Controllers, scheduler and kubelets: who missed the API server asks again after up to minutes, who starts anew
    asks at once."""
    for daemon in (plan.CONTROLLERS, plan.SCHEDULER):
        cluster.control.kill(daemon)
        cluster.control.start(daemon)
    for name in NODES:
        node = cluster.node(name)
        node.kill(KUBELET)
        node.start(KUBELET)
    cluster.kubectl("wait", "--for=condition=Ready", f"--timeout={60 * SLOWER:.0f}s", "nodes", "--all")


def await_calm(cluster: Cluster) -> None:
    """Until no pod comes or goes, such as those of the module before. In user space Open vSwitch may lose packets of
    others when a link of the node comes or goes, whosever."""

    def items(kind: str) -> list[Object]:
        found = cluster.kubectl("get", kind, "--all-namespaces", "--output=json").stdout
        return list(json.loads(found)["items"])

    def moving() -> list[str]:
        # A namespace has its pods for some moments before they are told to go.
        going = [each for each in items("namespaces") if each["status"]["phase"] == "Terminating"]
        pods = [
            each
            for each in items("pods")
            if "deletionTimestamp" in each["metadata"] or each["status"]["phase"] == "Pending"
        ]
        return [each["metadata"]["name"] for each in (*going, *pods)]

    assert not left_over(moving, 2 * READY_SECONDS)


def by_family(addresses: Any) -> dict[int, str]:
    return {6 if ":" in address else 4: address for address in addresses}


@contextlib.contextmanager
def namespace(cluster: Cluster, prefix: str) -> Iterator[Namespace]:
    """One that is removed with all that is in it, without waiting for that."""
    name = f"{prefix}-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    account = ("-n", name, "get", "serviceaccount", "default")
    # A pod is refused until the controller-manager has made it, which may have missed the API server just now.
    eventually(lambda: not cluster.kubectl(*account, check=False).returncode, READY_SECONDS)
    try:
        yield Namespace(cluster, name)
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)


def server(
    name: str,
    node: str = "",
    *,
    labels: Mapping[str, str] | None = None,
    arguments: Sequence[str] = ("netexec",),
    spec: Mapping[str, Any] | None = None,
    **container: Any,
) -> Object:
    """A pod with agnhost, by default its web server; spec and container are put over what stands here."""
    main = {"name": "main", "image": AGNHOST, "args": [*arguments], **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name, **(labels or {})}},
        "spec": {
            "containers": [main],
            "terminationGracePeriodSeconds": 0,
            **({"nodeName": node} if node else {}),
            **(spec or {}),
        },
    }


def url(address: str, path: str, port: int = PORT) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/{path}"


def curl(
    cluster: Cluster,
    source: str,
    address: str,
    path: str = "hostname",
    *,
    port: int = PORT,
    seconds: float = 3.0,
) -> str | None:
    """What the server answers to the place that asks; None if it does not."""
    argv = ["curl", "--silent", "--fail", "--globoff", "--max-time", str(seconds * SLOWER)]
    done = cluster.exec(source, [*argv, url(address, path, port)])
    return done.stdout if done.returncode == 0 else None


def client_seen(cluster: Cluster, source: str, address: str, port: int = PORT) -> str | None:
    """The address that the server saw the place's request come from."""
    answer = curl(cluster, source, address, "clientip", port=port)
    return answer.rpartition(":")[0].strip("[]") if answer else None


class Loss:
    """What a probe saw, by address: see `probe`."""

    def __init__(self) -> None:
        self.by_host: dict[str, dict[str, Any]] = {}

    def __str__(self) -> str:
        parts = ("sent", "lost", "outage", "tries", "failed")
        return "; ".join(
            f"{host}: {', '.join(f'{part} {seen[part]}' for part in parts)}"
            for host, seen in self.by_host.items()
        )

    @property
    def none(self) -> bool:
        """Whether not one datagram was lost and not one new connection failed."""
        return bool(self.by_host) and not any(
            each["lost"] or each["failed"] for each in self.by_host.values()
        )


@contextlib.contextmanager
def traffic(world: Namespace, source: str, *targets: str) -> Iterator[Loss]:
    """Datagrams, and new connections, from one pod to others over both families meanwhile."""
    cluster, loss = world.cluster, Loss()
    await_calm(cluster)
    hosts = [address for pod in targets for address in world.addresses(pod).values()]
    with contextlib.ExitStack() as stack:
        for pod in targets:
            stack.enter_context(started(cluster.command(world.place(pod), [*PROBE, "serve"])))
        command = cluster.command(world.place(source), [*PROBE, "probe", str(20 * SLOWER), *hosts])
        process = stack.enter_context(started(command))
        yield loss
        process.send_signal(signal.SIGINT)
        loss.by_host = json.loads(process.communicate(timeout=60 * SLOWER)[0])


@contextlib.contextmanager
def started(command: list[str], word: str = "ready", **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready; ended afterwards. word: how it says so."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{word}\n"
        yield process
    finally:
        process.kill()
        process.wait()
