"""The kubernetes store with a real API server.

`kubeconfig`: the path of a kubeconfig of a cluster's administrator, whose API server is there for the whole session.
Objects have names of their own in every test and are removed at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_store_world import (
    NODES,
    PODS,
    POLICIES,
    SERVICES,
    SLICES,
    Cluster,
    cluster,
    node,
    service,
    slice_,
)

from ovsnet.cli.manifest import rendered
from ovsnet.model import Encap
from ovsnet.store import Facts
from ovsnet.store.kubernetes.access import Source
from ovsnet.store.kubernetes.client import Client, Refused
from ovsnet.store.kubernetes.events import Events
from ovsnet.store.kubernetes.store import KubernetesStore
from ovsnet.store.kubernetes.writer import OwnNode
from ovsnet.store.policies import PolicyReader

__all__ = ["cluster"]


async def test_the_cluster_has_its_own_service(cluster: Cluster) -> None:
    found = cluster.now.services["default/kubernetes"]
    assert [(each.name, each.port) for each in found.ports] == [("https", 443)]
    assert found.created


async def test_services_and_slices_come_change_and_go(cluster: Cluster) -> None:
    name = cluster.name
    key = f"default/{name}"
    made = await cluster.create(SERVICES, service(name, type="NodePort", sessionAffinity="ClientIP"))
    await cluster.until(lambda: key in cluster.now.services)
    found = cluster.now.services[key]
    assert str(found.cluster_ips[0]) == made["spec"]["clusterIP"]
    assert found.ports[0].node_port == made["spec"]["ports"][0]["nodePort"]
    assert found.affinity == 10800
    await cluster.create(SLICES, slice_(name))
    await cluster.until(lambda: f"{key}-x" in cluster.now.slices)
    assert cluster.now.slices[f"{key}-x"].service == name
    await cluster.patch(f"{SERVICES}/{name}", {"spec": {"externalTrafficPolicy": "Local"}})
    await cluster.until(lambda: cluster.now.services[key].external_local)
    await cluster.delete(f"{SLICES}/{name}-x")
    await cluster.delete(f"{SERVICES}/{name}")
    await cluster.until(lambda: key not in cluster.now.services and f"{key}-x" not in cluster.now.slices)
    assert not cluster.now.problems


async def test_what_the_server_does_not_send_at_all(cluster: Cluster) -> None:
    """Those of another proxy are sorted out by the server, and told as gone when they become such."""
    name = cluster.name
    await cluster.create(SERVICES, service(f"{name}-h", clusterIP="None"))
    await cluster.create(
        SERVICES, {"metadata": {"name": f"{name}-e"}, "spec": {"type": "ExternalName", "externalName": "x.y"}}
    )
    await cluster.create(SERVICES, service(name))
    await cluster.until(lambda: f"default/{name}" in cluster.now.services)
    assert {key for key in cluster.now.services if name in key} == {f"default/{name}"}
    label = {"service.kubernetes.io/service-proxy-name": "other"}
    await cluster.patch(f"{SERVICES}/{name}", {"metadata": {"labels": label}})
    await cluster.until(lambda: f"default/{name}" not in cluster.now.services)


POLICY_SPECS: list[dict[str, Any]] = [
    {"podSelector": {"matchLabels": {"test": "none"}}},
    {"egress": [{}]},
    {"egress": []},
    {"policyTypes": [], "ingress": [{"from": [], "ports": []}, {}]},
    {
        "policyTypes": ["Egress"],
        "egress": [
            {
                "to": [
                    {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.9.0.0/16"]}},
                    {"podSelector": {}, "namespaceSelector": {}},
                ],
                "ports": [{}, {"port": 80}, {"protocol": "UDP", "port": 1, "endPort": 9}, {"port": "http"}],
            }
        ],
    },
]


async def test_policies_mean_the_same_before_and_after_the_api_server_has_filled_them_in(
    cluster: Cluster,
) -> None:
    """In a folder of manifests they have not been through it."""
    for number, spec in enumerate(POLICY_SPECS):
        chosen = {"podSelector": {"matchLabels": {"test": cluster.name}}, **spec}
        item = {"metadata": {"name": f"{cluster.name}-{number}", "namespace": "default"}, "spec": chosen}
        key = f"default/{cluster.name}-{number}"
        written = PolicyReader(copy.deepcopy(item), "", f"NetworkPolicy {key}")
        expected = written.read()
        assert not written.remarks
        await cluster.create(POLICIES, item)
        await cluster.until(lambda key=key: key in cluster.now.policies)  # type: ignore[misc]
        assert cluster.now.policies[key] == expected
        assert cluster.now.namespaces["default"].labels["kubernetes.io/metadata.name"] == "default"
    assert not cluster.now.problems


async def test_pods_come_get_an_address_and_end(cluster: Cluster) -> None:
    name, key = cluster.name, f"default/{cluster.name}"
    await cluster.create(
        POLICIES,
        {"metadata": {"name": name}, "spec": {"podSelector": {"matchLabels": {"test": name}}}},
    )
    spec = {
        "schedulerName": "nobody",
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}],
    }
    await cluster.create(PODS, {"metadata": {"name": name, "labels": {"app": "a"}}, "spec": spec})
    await cluster.until(lambda: key in cluster.now.pods)
    found = cluster.now.pods[key]
    assert (dict(found.labels), found.ips, len(found.ports), bool(found.uid)) == ({"app": "a"}, (), 1, True)
    running = {"phase": "Running", "podIP": "10.199.0.5", "podIPs": [{"ip": "10.199.0.5"}]}
    await cluster.patch(f"{PODS}/{name}/status", {"status": running})
    await cluster.until(lambda: bool(cluster.now.pods[key].ips))
    before = cluster.now.pods[key]
    condition = {"type": "ContainersReady", "status": "True"}
    await cluster.patch(f"{PODS}/{name}/status", {"status": {"conditions": [condition]}})
    await cluster.create(PODS, {"metadata": {"name": f"{name}-2"}, "spec": spec})
    await cluster.until(lambda: f"{key}-2" in cluster.now.pods)
    assert cluster.now.pods[key] is before
    await cluster.patch(f"{PODS}/{name}", {"metadata": {"labels": {"app": "b"}}})
    await cluster.until(lambda: cluster.now.pods[key].labels["app"] == "b")
    await cluster.patch(f"{PODS}/{name}/status", {"status": {"phase": "Succeeded"}})
    await cluster.until(lambda: key not in cluster.now.pods)
    assert not cluster.now.problems


async def test_the_pods_of_one_node(cluster: Cluster, kubeconfig: Path) -> None:
    """One comes when it is bound; neither its end nor the start of its deletion is that it is gone."""
    name = cluster.name
    key, own = f"default/{name}", KubernetesStore(Source(str(kubeconfig)), pods_of=f"node-{name}")
    task = asyncio.create_task(own.run())

    def addresses() -> list[str] | None:
        """None: it is not there."""
        found = own.own_pods()
        pod = found.pods.get(key) if found is not None else None
        return [str(each) for each in pod.ips] if pod is not None else None

    try:
        await cluster.until(lambda: (found := own.own_pods()) is not None and not found.pods)
        spec: dict[str, Any] = {
            "schedulerName": "nobody",
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "i"}],
        }
        metadata = {"name": name, "finalizers": ["test.example/x"]}
        await cluster.create(PODS, {"metadata": metadata, "spec": spec})
        binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": f"node-{name}"}}
        await cluster.create(f"{PODS}/{name}/binding", binding)
        await cluster.until(lambda: addresses() == [])
        requests, began = dict(own.requests), time.monotonic()
        running = {"phase": "Running", "podIP": "10.199.0.5", "podIPs": [{"ip": "10.199.0.5"}]}
        await cluster.patch(f"{PODS}/{name}/status", {"status": running})
        await cluster.until(lambda: addresses() == ["10.199.0.5"])
        await cluster.delete(f"{PODS}/{name}")
        await cluster.until(lambda: addresses() == [])
        await cluster.patch(f"{PODS}/{name}/status", {"status": {"phase": "Failed"}})
        await asyncio.sleep(0.1)
        assert addresses() == []
        await cluster.patch(f"{PODS}/{name}", {"metadata": {"finalizers": None}})
        await cluster.admin.send("delete", "DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})
        await cluster.until(lambda: addresses() is None)
        nothing_was_asked(own, requests, began)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_two_load_balancers_with_one_address(cluster: Cluster) -> None:
    name = cluster.name
    for each in (f"{name}-a", f"{name}-b"):
        await cluster.create(SERVICES, service(each, type="LoadBalancer"))
        ingress = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.99"}]}}}
        await cluster.patch(f"{SERVICES}/{each}/status", ingress)
    await cluster.until(lambda: f"Service default/{name}-b" in cluster.now.problems)
    assert "192.0.2.99 port 80/TCP is Service" in cluster.now.problems[f"Service default/{name}-b"]
    assert len(cluster.now.services[f"default/{name}-b"].withheld) == 1
    assert not cluster.now.services[f"default/{name}-a"].withheld
    await cluster.delete(f"{SERVICES}/{name}-a")
    await cluster.until(lambda: not cluster.now.services[f"default/{name}-b"].withheld)


async def test_a_node_port_outside_of_the_range_is_refused_by_the_server(cluster: Cluster) -> None:
    """So no agent has to know the range, which may be any: what the server took is served."""
    for spec in ({"ports": [{"port": 80, "nodePort": 22}]}, {"healthCheckNodePort": 22}):
        local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", **spec}
        with pytest.raises(Refused, match=r"provided port is not in the valid range.*30000-32767"):
            await cluster.create(SERVICES, service(cluster.name, **local))
    await cluster.create(SERVICES, service(cluster.name))
    await cluster.until(lambda: f"default/{cluster.name}" in cluster.now.services)
    assert not cluster.now.problems


async def test_an_external_address_of_pods_is_refused_as_soon_as_there_is_the_node(cluster: Cluster) -> None:
    """Anybody may write it who may make a Service."""
    name, key = cluster.name, f"default/{cluster.name}"
    await cluster.create(SERVICES, service(name, externalIPs=["10.199.77.5", "192.0.2.99"]))
    await cluster.until(lambda: key in cluster.now.services)
    before = cluster.now.services[key]
    assert len(before.outer_ips) == 2
    await cluster.create(NODES, node(name, 77))
    await cluster.until(lambda: f"Service {key}" in cluster.now.problems)
    assert cluster.now.problems[f"Service {key}"] == (
        f"10.199.77.5 lies in 10.199.77.0/24, a range of pods of node {name} (Node {name}); the rest of the Service "
        "works without it"
    )
    assert [str(each) for each in cluster.now.services[key].outer_ips] == ["192.0.2.99"]
    await cluster.delete(f"{NODES}/{name}")
    await cluster.until(lambda: not cluster.now.problems)
    assert cluster.now.services[key] == before


async def test_the_largest_slice_that_the_api_takes(cluster: Cluster) -> None:
    name = cluster.name
    endpoints = [
        {"addresses": [f"10.210.{n // 250}.{n % 250 + 1}"], "nodeName": f"node-{n}", "zone": "z"}
        for n in range(1000)
    ]
    await cluster.create(SLICES, slice_(name, endpoints=endpoints))
    await cluster.until(lambda: f"default/{name}-x" in cluster.now.slices)
    assert len(cluster.now.slices[f"default/{name}-x"].endpoints) == 1000


async def test_six_hundred_services_take_two_pages(cluster: Cluster, kubeconfig: Path) -> None:
    name = cluster.name
    requests, began = dict(cluster.store.requests), time.monotonic()
    for start in range(0, 600, 20):
        some = [service(f"{name}-{n}") for n in range(start, start + 20)]
        await asyncio.gather(*(cluster.create(SERVICES, each) for each in some))
    await cluster.until(lambda: sum(name in key for key in cluster.now.services) == 600, 30)
    nothing_was_asked(cluster.store, requests, began)
    await what_changes_is_all_that_is_sent(cluster, f"{name}-7")
    other = KubernetesStore(Source(str(kubeconfig)))
    assert sum(name in key for key in (await other.look()).services) == 600
    assert other.requests["list"] >= 4


def nothing_was_asked(store: KubernetesStore, before: dict[str, int], began: float) -> None:
    """But for the kind that the server does not have: once more at the start, then every 20 seconds at most."""
    more = Counter(store.requests) - Counter(before)
    assert more.keys() <= {"list"}
    assert more["list"] <= 1 + (time.monotonic() - began) / 20


async def what_changes_is_all_that_is_sent(cluster: Cluster, name: str, changes: int = 20) -> None:
    """Of all that there is: no request, and the bytes of the object for each change of it."""
    requests, began = dict(cluster.store.requests), time.monotonic()
    received = cluster.store.received
    for number in range(changes):
        port = 1000 + number
        await cluster.patch(f"{SERVICES}/{name}", {"spec": {"ports": [{"name": "http", "port": port}]}})
        await cluster.until(lambda: cluster.now.services[f"default/{name}"].ports[0].port == port)  # noqa: B023
    size = len(json.dumps(await cluster.get(f"{SERVICES}/{name}")))
    each = (cluster.store.received - received) / changes
    print(f"{each:.0f} bytes for each change of an object of {size}")
    nothing_was_asked(cluster.store, requests, began)
    # Kubelets change their Nodes now and then, of 10 kB each.
    assert each < 1.5 * size + 30_000 / changes


async def test_a_service_account_may_do_what_the_documents_say_and_no_more(
    cluster: Cluster, kubeconfig: Path, tmp_path: Path
) -> None:
    """The token of a pod, in its folder; and without the rights, the error says which are missing."""
    name = cluster.name
    accounts, roles = "/api/v1/namespaces/default/serviceaccounts", "/apis/rbac.authorization.k8s.io/v1"
    await cluster.create(accounts, {"metadata": {"name": name}})
    body = {"spec": {"expirationSeconds": 600, "audiences": []}}
    token = json.loads(await cluster.admin.send("create", "POST", f"{accounts}/{name}/token", body))
    (tmp_path / "token").write_text(token["status"]["token"])
    access = Source(str(kubeconfig)).load()
    (tmp_path / "ca.crt").write_text(access.authority)
    source = Source(server=access.server, environment={}, service_account=str(tmp_path))
    store = KubernetesStore(source)
    with pytest.raises(Refused, match=r"403 .*cannot list.*give the agent the rights"):
        await store.look()
    documents = yaml.safe_load_all(rendered((), None))
    (rules,) = (each["rules"] for each in documents if each["kind"] == "ClusterRole")
    await cluster.create(f"{roles}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    await cluster.create(
        f"{roles}/clusterrolebindings",
        {
            "metadata": {"name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        },
    )
    await cluster.create(NODES, node(name, 3))
    await asyncio.sleep(1)
    assert name in (await store.look()).nodes
    client = Client(source)
    await OwnNode(client, name, lambda: None, lambda: (True, None)).publish(
        Facts(encap=Encap.VXLAN, address="192.0.2.7", mtu=1450)
    )
    events = Events(client, name, lambda: ["it is wrong"])
    events.look()
    await events.write()
    assert client.requests == {"patch": 2, "create": 1}
    await client.close()


async def test_an_authority_that_is_replaced(cluster: Cluster, kubeconfig: Path, tmp_path: Path) -> None:
    """A server that shows another certificate than we expect is not believed; when the file is right, it is."""
    access = Source(str(kubeconfig)).load()
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made = ["openssl", "req", "-x509", *curve, "-nodes", "-subj", "/CN=other", "-keyout"]
    run = await asyncio.create_subprocess_exec(
        *made,
        str(tmp_path / "other.key"),
        "-out",
        str(tmp_path / "ca.crt"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await run.wait() == 0
    (tmp_path / "client.crt").write_text(access.certificate)
    (tmp_path / "client.key").write_text(access.key)
    config = {
        "clusters": [{"name": "c", "cluster": {"server": access.server, "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": {"client-certificate": "client.crt", "client-key": "client.key"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    store = KubernetesStore(Source(str(tmp_path / "kubeconfig")))
    task = asyncio.create_task(store.run())
    try:
        await asyncio.sleep(2)
        assert store.snapshot() is None
        (tmp_path / "ca.crt").write_text(access.authority)
        await cluster.until(lambda: store.snapshot() is not None)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
