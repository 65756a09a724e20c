"""An API server and its etcd that a test may stop and restore, and a store that follows it over a wire."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from api_store_world import NODES, PODS, POLICIES, SERVICES, SLICES, Cluster, node, service, slice_
from api_wire import HOST, PORT, Wire
from kube_world import running_kind

from ovsnet.cli.manifest import rendered
from ovsnet.lab.kubernetes import cluster, plan
from ovsnet.lab.state import State, wait_for
from ovsnet.store import Snapshot
from ovsnet.store.kubernetes.access import Source
from ovsnet.store.kubernetes.store import RESOURCES, SELECTED, KubernetesStore

TIERS = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
TIER = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
POD = {
    "schedulerName": "nobody",
    "automountServiceAccountToken": False,
    "containers": [{"name": "c", "image": "i"}],
}
KINDS = {each.plural for each in (*RESOURCES, *SELECTED)}
NUMBERS = itertools.count(1)
"""Of Nodes: each has a range of its own."""
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
ROLES = "/apis/rbac.authorization.k8s.io/v1"


class ApiServer(cluster.Cluster):
    """etcd and an API server in a network namespace that has nothing but `lo`; no node and no controller."""

    def raise_all(self, state: State, changed: Callable[[str], None]) -> None:
        self.link_programs()
        control = self.control_of(state)
        control.prepare()
        control.make_namespaces()
        control.ip([f"address replace {plan.api_address(state.spec)}/32 dev lo"])
        self.start()

    def start(self) -> None:
        """What is not running of the two; they serve when this returns."""
        for name in (plan.ETCD, plan.APISERVER):
            self.control.start(name)

    def stop(self) -> None:
        """Kill the API server."""
        self.control.kill(plan.APISERVER)

    async def resume(self) -> None:
        """Start it again; others go on meanwhile."""
        await asyncio.to_thread(self.start)

    def restore(self, backup: Path) -> None:
        """Move that to the place of etcd's folder. The API server is stopped."""
        self.control.kill(plan.ETCD)
        for path in self.data.iterdir():
            shutil.rmtree(path)
        shutil.copytree(backup, self.data, dirs_exist_ok=True)
        shutil.rmtree(backup)

    @property
    def data(self) -> Path:
        """etcd's folder."""
        return self.folder.disk / self.control.name / "etcd"

    def back_up(self, to: Path) -> None:
        """Copy etcd's folder as it is at one moment: what a crash would leave, which etcd starts from."""
        etcd = self.control.daemon(plan.ETCD)
        assert etcd is not None
        etcd.kill(signal.SIGSTOP, wait=0)
        try:
            stat = Path(f"/proc/{etcd.pid}/stat")
            assert wait_for(lambda: ") T " in stat.read_text(), 10)
            shutil.copytree(self.data, to, ignore=shutil.ignore_patterns("*.tmp"))
        finally:
            etcd.kill(signal.SIGCONT, wait=0)

    def upstream(self, user: str = "") -> ssl.SSLContext:
        """How to connect to the API server: as the user of that certificate; as nobody, else."""
        folder = self.control.pki.folder
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        if user:
            context.load_cert_chain(folder / f"{user}.crt", folder / f"{user}.key")
        return context


@pytest.fixture(scope="module")
def api_server() -> Iterator[ApiServer]:
    """With the kind ClusterNetworkPolicy. A module that calls it `kubernetes` has its administrator's `kubeconfig`."""
    with running_kind(ApiServer) as server:
        documents = yaml.safe_load_all(rendered(("clusterNetworkPolicy=true",), None))
        (crd,) = (each for each in documents if each["kind"] == "CustomResourceDefinition")
        server.kubectl("create", "--filename=-", input=json.dumps(crd))
        server.kubectl("wait", "--for=condition=Established", f"crd/{crd['metadata']['name']}")
        server.kubectl("create", "serviceaccount", "default")
        yield server


@pytest.fixture
async def admin(kubeconfig: Path) -> AsyncIterator[Cluster]:
    """What it makes goes."""
    made = Cluster(kubeconfig)
    try:
        yield made
    finally:
        await made.clean()


async def agent_account(admin: Cluster, name: str) -> None:
    """A service account of that name with an agent's rights."""
    await admin.create(ACCOUNTS, {"metadata": {"name": name}})
    documents = yaml.safe_load_all(rendered((), None))
    (rules,) = (each["rules"] for each in documents if each["kind"] == "ClusterRole")
    await admin.create(f"{ROLES}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
    binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
    await admin.create(f"{ROLES}/clusterrolebindings", binding)


async def token_of(admin: Cluster, name: str, bound: dict[str, Any] | None = None) -> str:
    """One of the service account. bound: the object that it ends with."""
    spec = {"expirationSeconds": 600, "audiences": [], "boundObjectRef": bound}
    answer = await admin.admin.send("create", "POST", f"{ACCOUNTS}/{name}/token", {"spec": spec})
    return str(json.loads(answer)["status"]["token"])


async def answered(
    server: ApiServer, status: int, token: str = "", user: str = "", seconds: float = 30
) -> None:
    """Wait until the API server answers so to whoever shows the token, or the user's certificate.

    It remembers a good token for ten seconds.
    """
    url = f"https://{HOST}:{PORT}/api/v1/namespaces?limit=1"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(verify=server.upstream(user), trust_env=False) as http:
        deadline = time.monotonic() + seconds
        while (answer := await http.get(url, headers=headers)).status_code != status:
            assert time.monotonic() < deadline, answer.text
            await asyncio.sleep(0.1)


async def advance(revisions: int, forget: bool = False) -> int:
    """Has etcd write something that is no object so many times; its revision after that.

    forget: what was before that one can't be asked for any more. Keys and values are base64 to etcd's JSON gateway.
    """
    async with httpx.AsyncClient(base_url=plan.ETCD_CLIENTS, trust_env=False) as etcd:
        for _ in range(revisions):
            written = await etcd.post("/v3/kv/put", json={"key": "dGVzdA==", "value": ""})
        revision = int(written.json()["header"]["revision"])
        if forget:
            done = await etcd.post("/v3/kv/compaction", json={"revision": revision, "physical": True})
            assert done.status_code == 200, done.text
    return revision


class World(Cluster):
    """An administrator, and a store whose requests go over a wire; of each kind there is an object for it."""

    def __init__(self, kubeconfig: Path, source: Source, wire: Wire) -> None:
        super().__init__(kubeconfig)
        self.wire = wire
        self.store = KubernetesStore(source)
        self.key = f"default/{self.name}"
        self.published: list[Snapshot] = []
        self.store.subscribe(lambda: self.published.append(self.now))

    async def populate(self) -> None:
        spec = {"podSelector": {"matchLabels": {"test": self.name}}}
        tier = {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}}
        await self.create(NODES, node(self.name, next(NUMBERS)))
        await self.create(SERVICES, service(self.name))
        await self.create(SLICES, slice_(self.name))
        await self.create(PODS, {"metadata": {"name": self.name}, "spec": POD})
        await self.create(POLICIES, {"metadata": {"name": self.name}, "spec": spec})
        await self.create(TIERS, {**TIER, "metadata": {"name": self.name}, "spec": tier})

    def lacks(self, snapshot: Snapshot) -> set[str]:
        """Those of which it does not have the object."""
        found: dict[str, bool] = {
            "nodes": self.name in snapshot.nodes,
            "services": self.key in snapshot.services,
            "endpointslices": f"{self.key}-x" in snapshot.slices,
            "networkpolicies": self.key in snapshot.policies,
            "clusternetworkpolicies": self.name in snapshot.cluster_policies,
            "pods": self.key in snapshot.pods,
            "namespaces": "default" in snapshot.namespaces,
        }
        return {kind for kind in KINDS if not found[kind]}

    async def point(self, port: int) -> None:
        """Change the Service, and wait until the store has it."""
        await self.patch(f"{SERVICES}/{self.name}", {"spec": {"ports": [{"name": "http", "port": port}]}})
        await self.until(lambda: self.port == port)

    @property
    def port(self) -> int:
        return self.now.services[self.key].ports[0].port

    def watching(self, since: int = 0) -> bool:
        """Whether of each kind a watch was taken on, among the requests from that on."""
        some = [each for each in self.wire.asked[since:] if (each.verb, each.status) == ("watch", 200)]
        return {each.kind for each in some if not each.told("ERROR")} == KINDS


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    """The store follows, and has all of its objects first."""
    await world.populate()
    task = asyncio.create_task(world.store.run())
    try:
        await world.until(lambda: bool(world.published), 30)
        assert not world.lacks(world.now)
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await world.wire.leave()
        await world.clean()


@contextlib.asynccontextmanager
async def following(
    server: ApiServer, kubeconfig: Path, folder: Path, token: str = ""
) -> AsyncIterator[World]:
    """token: that of a service account, which comes to a file; the administrator asks else."""
    wire = Wire(server.upstream("" if token else "admin"))
    await wire.open()
    (folder / "token").write_text(token)
    user = {"tokenFile": "token"} if token else {}
    (folder / "kubeconfig").write_text(kubeconfig_text(f"http://{HOST}:{wire.port}", {}, user))
    world = World(kubeconfig, Source(str(folder / "kubeconfig")), wire)
    async with running(world):
        await world.until(world.watching)
        yield world


def kubeconfig_text(url: str, cluster: dict[str, str], user: dict[str, str]) -> str:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(config)
