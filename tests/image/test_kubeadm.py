"""kubeadm makes a cluster of two nodes without kube-proxy, and ovsnet is its network: what docs/kubernetes.md shows.

The control plane is kubeadm's static pods on the first node, so the API server is on a node of the network here. Open
vSwitch is the nodes' own, as in test_daemonset.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from daemonset_world import agents, await_agents, deploy, look_around
from image_world import made
from kube_world import Namespace, client_seen, curl, namespace, running_kind, server
from kubeadm_world import FIRST, IGNORED, SECOND, KubeadmCluster, init, join, shown
from lab_world import eventually

from ovsnet.lab.kubernetes.build import KUBERNETES
from ovsnet.lab.kubernetes.pki import CA, Pki
from ovsnet.lab.state import Completed

pytestmark = pytest.mark.slow
NODES = (FIRST, SECOND)
AUTHORITY = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeadmCluster]:
    """Two that are what kubeadm wants them to be, and have the image."""
    assert os.geteuid() == 0, "needs root"
    archive = made(tmp_path_factory.mktemp("image"))
    with running_kind(KubeadmCluster, nodes=len(NODES), plugin="none") as cluster:
        for name in NODES:
            node = cluster.node(name)
            node.ctr("image", "import", str(archive))
            if name == FIRST:
                node.import_control_plane()
            node.name_images()
        yield cluster


@pytest.fixture(scope="module")
def initialised(nodes: KubeadmCluster) -> Completed:
    node = nodes.node(FIRST)
    return node.kubeadm("init", IGNORED, "--config", node.put(init()), check=False)


@pytest.fixture(scope="module")
def joined(nodes: KubeadmCluster, initialised: Completed) -> Completed:
    assert initialised.returncode == 0
    command = nodes.node(FIRST).kubeadm("token", "create", "--print-join-command").stdout
    node = nodes.node(SECOND)
    return node.kubeadm("join", "--config", node.put(join(command)), check=False)


@pytest.fixture(scope="module")
def manifest(nodes: KubeadmCluster, joined: Completed, tmp_path_factory: pytest.TempPathFactory) -> str:
    """That of ovsnet, applied."""
    assert joined.returncode == 0
    endpoint = shown("join.yaml")[0]["discovery"]["bootstrapToken"]["apiServerEndpoint"]
    return deploy(nodes, tmp_path_factory.mktemp("config"), f"https://{endpoint}", "openvswitch=node")


@pytest.fixture(scope="module")
def cluster(nodes: KubeadmCluster, manifest: str) -> KubeadmCluster:
    """With ovsnet."""
    return nodes


@pytest.fixture(scope="module")
def world(cluster: KubeadmCluster) -> Iterator[Namespace]:
    """A server on each node."""
    with namespace(cluster, "kubeadm") as made:
        made.start(*(server(f"on-{name}", name, labels={"web": "yes"}) for name in NODES))
        yield made


def condition(cluster: KubeadmCluster, node: str, kind: str) -> str:
    found = json.loads(cluster.kubectl("get", "node", node, "--output=json").stdout)
    status = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    return str(status.get(kind, "none"))


def available(cluster: KubeadmCluster, node: str) -> bool:
    return condition(cluster, node, "NetworkUnavailable") == "False"


def said(cluster: KubeadmCluster, node: str, done: Completed) -> str:
    return "\n".join((done.stdout, done.stderr, cluster.node(node).last_words("kubelet", 40)))


def test_kubeadm_makes_a_control_plane(nodes: KubeadmCluster, initialised: Completed) -> None:
    assert initialised.returncode == 0, said(nodes, FIRST, initialised)
    found = ("-n", "kube-system", "get", "daemonsets,pods", "-o", "name")
    # The kubelet makes objects of static pods once it may.
    eventually(lambda: f"pod/kube-apiserver-{FIRST}" in nodes.kubectl(*found).stdout, 60)
    assert "kube-proxy" not in nodes.kubectl(*found).stdout


def test_a_node_joins_and_both_wait_for_a_network(nodes: KubeadmCluster, joined: Completed) -> None:
    assert joined.returncode == 0, said(nodes, SECOND, joined)
    assert [condition(nodes, name, "Ready") for name in NODES] == ["False", "False"]


def test_nodes_become_ready(cluster: KubeadmCluster) -> None:
    await_agents(cluster)
    assert len(agents(cluster)) == len(NODES)
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "node", *NODES)
    for name in NODES:
        eventually(partial(available, cluster, name))


def test_coredns_becomes_ready(cluster: KubeadmCluster) -> None:
    """kubeadm's own, which finds the API server by a Service."""
    cluster.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=100s")


def test_pods_reach_one_another(cluster: KubeadmCluster, world: Namespace) -> None:
    for one, other in (NODES, NODES[::-1]):
        source = world.place(f"on-{one}")
        for version, address in world.addresses(f"on-{other}").items():
            assert curl(cluster, source, address) == f"on-{other}"
            assert client_seen(cluster, source, address) == world.addresses(f"on-{one}")[version]


@pytest.mark.parametrize("host", ["kubernetes.default.svc", "$KUBERNETES_SERVICE_HOST"])
@pytest.mark.parametrize("node", NODES)
def test_pods_reach_the_api_server_by_its_service(world: Namespace, node: str, host: str) -> None:
    """On their own node, or on another."""
    ask = f"curl --silent --show-error --fail --max-time 5 --cacert {AUTHORITY} https://{host}/version"
    assert json.loads(world.kubectl("exec", f"on-{node}", "--", "sh", "-c", ask))["gitVersion"] == KUBERNETES


def test_services_are_served_to_pods_and_nodes(cluster: KubeadmCluster, world: Namespace) -> None:
    ports = [{"port": 80, "targetPort": 8080}]
    spec = {"selector": {"web": "yes"}, "ipFamilyPolicy": "RequireDualStack", "ports": ports}
    world.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
    servers = {f"on-{name}" for name in NODES}
    for address in world.get("service", "web")["spec"]["clusterIPs"]:
        for source in (*NODES, *map(world.place, servers)):
            eventually(partial(reaches, cluster, source, address, servers), 20)


def reaches(cluster: KubeadmCluster, source: str, address: str, servers: set[str]) -> bool:
    """Whether twelve requests have answers, and every server has answered one."""
    return {curl(cluster, source, address, port=80) for _ in range(12)} == servers


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path)
    made.prepare()
    return made


def test_the_api_server_is_a_client_of_a_service(cluster: KubeadmCluster, world: Namespace, pki: Pki) -> None:
    """A pod in its node's network, which calls a webhook of the other node by its ClusterIP."""
    pki.certificate("tls", "/CN=webhook", [f"DNS:webhook.{world.name}.svc"])
    files = {name: base64.b64encode(pki.read(name)).decode() for name in ("tls.crt", "tls.key")}
    world.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls"}, "data": files})
    arguments = ["webhook", "--tls-cert-file=/tls/tls.crt", "--tls-private-key-file=/tls/tls.key"]
    volumes = [{"name": "tls", "secret": {"secretName": "tls"}}]
    mounts = [{"name": "tls", "mountPath": "/tls"}]
    pod = server("webhook", SECOND, arguments=arguments, spec={"volumes": volumes}, volumeMounts=mounts)
    spec = {"selector": {"app": "webhook"}, "ports": [{"port": 443}]}
    world.start(pod)
    world.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "webhook"}, "spec": spec})
    cluster.kubectl("apply", "--filename=-", input=json.dumps(denying(world, pki)))

    def refused() -> bool:
        done = cluster.kubectl(
            "-n", world.name, "create", "configmap", "any", "--dry-run=server", check=False
        )
        return "this webhook denies all requests" in done.stderr

    try:
        eventually(refused, 20)
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", world.name)


def denying(world: Namespace, pki: Pki) -> dict[str, Any]:
    """ConfigMaps of the namespace are what agnhost's webhook is asked about."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    service = {"name": "webhook", "namespace": world.name, "path": "/always-deny"}
    authority = base64.b64encode(pki.read(f"{CA}.crt")).decode()
    webhook = {
        "name": "webhook.example.com",
        "clientConfig": {"service": service, "caBundle": authority},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.name}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": world.name},
        "webhooks": [webhook],
    }


def test_the_node_of_the_control_plane_comes_back(cluster: KubeadmCluster, world: Namespace) -> None:
    """After it lost power. Its kubelet knows of static pods alone until the API server tells it of ovsnet's."""
    cluster.node(FIRST).destroy()
    cluster.up()
    source, web = world.place(f"on-{SECOND}"), f"on-{FIRST}"

    def back() -> bool:
        # Its address may be another one, or none for a moment.
        address = world.get("pod", web)["status"].get("podIP")
        return bool(address) and curl(cluster, source, address) == web

    eventually(back, 180)
    await_agents(cluster)


def test_what_is_installed_is_what_agents_want(cluster: KubeadmCluster, world: Namespace) -> None:
    look_around(cluster)


def test_it_can_be_taken_away(cluster: KubeadmCluster, world: Namespace, manifest: str) -> None:
    """From a node that was drained, as docs/kubernetes.md says."""
    drain = ("drain", SECOND, "--ignore-daemonsets", "--delete-emptydir-data", "--force")
    cluster.kubectl(*drain)
    cluster.kubectl("delete", "--timeout=90s", "--filename=-", input=manifest)
    node = cluster.node(SECOND)
    for command in (
        "rm /opt/cni/bin/ovsnet /etc/cni/net.d/10-ovsnet.conflist",
        "nft delete table inet ovsnet",
        "ovs-vsctl del-br br-int",
    ):
        node.run(command.split(), check=True)
    assert node.interfaces() <= {"lo", "eth0", "br-phy", "ovs-netdev"}
    for command in ("ip route", "ip -6 route", "ip rule", "nft list ruleset", "ovs-vsctl show"):
        said = node.run(command.split(), check=True).stdout
        assert "ovsnet" not in said
        assert "0x1000" not in said
    assert node.run(["ovs-vsctl", "get", "Open_vSwitch", ".", "other_config"]).stdout == "{}\n"
    eventually(lambda: condition(cluster, SECOND, "Ready") == "False", 60)
