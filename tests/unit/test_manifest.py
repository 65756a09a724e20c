"""`ovsnet manifest`: what it refuses, and what must hold in the objects that it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import ovsnet
from ovsnet import config, deployment
from ovsnet.cli.manifest import rendered
from ovsnet.errors import ConfigError
from ovsnet.lab.kubernetes import files
from ovsnet.lab.spec import LabSpec
from ovsnet.store.kubernetes.store import RESOURCES, SELECTED


def objects(*settings: str, path: Path | None = None) -> dict[str, dict[str, Any]]:
    """By KIND/NAME."""
    documents = list(yaml.safe_load_all(rendered(settings, path)))
    found = {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}
    assert len(found) == len(documents)
    return found


def pod(daemon_set: dict[str, Any]) -> dict[str, Any]:
    return dict(daemon_set["spec"]["template"]["spec"])


def containers(daemon_set: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod(daemon_set).get("initContainers", []), *pod(daemon_set)["containers"]]


def added(daemon_set: dict[str, Any], name: str) -> set[str]:
    (one,) = (each for each in containers(daemon_set) if each["name"] == name)
    return set(one["securityContext"]["capabilities"].get("add", []))


def problems(*settings: str, text: str = "") -> list[str]:
    with pytest.raises(ConfigError) as error:
        deployment.values(settings, text, "agent.yaml")
    return list(error.value.problems)


def test_all_that_is_deployed() -> None:
    assert list(objects()) == [
        "Namespace/ovsnet",
        "ServiceAccount/ovsnet-agent",
        "ClusterRole/ovsnet-agent",
        "ClusterRoleBinding/ovsnet-agent",
        "ValidatingAdmissionPolicy/ovsnet-agent",
        "ValidatingAdmissionPolicyBinding/ovsnet-agent",
        "DaemonSet/openvswitch",
        "ConfigMap/ovsnet-agent",
        "DaemonSet/ovsnet-agent",
    ]
    fewer = objects("openvswitch=node", "admissionPolicy=false")
    gone = {"DaemonSet/openvswitch", "ValidatingAdmissionPolicy/ovsnet-agent"}
    assert set(objects()) - set(fewer) == {*gone, "ValidatingAdmissionPolicyBinding/ovsnet-agent"}


def test_the_kind_of_cluster_policies_is_installed_when_asked() -> None:
    more = objects("clusterNetworkPolicy=true")
    (name,) = more.keys() - objects().keys()
    assert name == "CustomResourceDefinition/clusternetworkpolicies.policy.networking.k8s.io"
    spec = more[name]["spec"]
    (version,) = spec["versions"]
    followed = next(each for each in RESOURCES if each.optional)
    path = f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}"
    assert (followed.path, followed.reader.kind) == (path, spec["names"]["kind"])
    assert problems("clusterNetworkPolicy=yes")


def test_every_object_is_in_the_chosen_namespace() -> None:
    found = objects("namespace=net")
    assert {each["metadata"].get("namespace", "net") for each in found.values()} == {"net"}
    binding = found["ClusterRoleBinding/net-agent"]
    assert binding["subjects"][0]["namespace"] == "net"
    assert f"ClusterRole/{binding['roleRef']['name']}" in found
    policy = found["ValidatingAdmissionPolicy/net-agent"]["spec"]
    assert "system:serviceaccount:net:ovsnet-agent" in policy["matchConditions"][0]["expression"]


def test_an_agent_may_write_nodes_and_events_alone() -> None:
    rules = objects()["ClusterRole/ovsnet-agent"]["rules"]
    may = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    writing = {(resource, verb) for resource, verb in may if verb not in ("list", "watch")}
    assert writing == {
        ("nodes", "patch"),
        ("nodes/status", "patch"),
        ("events", "create"),
        ("events", "patch"),
    }
    seen = {
        "nodes",
        "services",
        "endpointslices",
        "networkpolicies",
        "clusternetworkpolicies",
        "namespaces",
        "pods",
    }
    assert {resource for resource, _ in may - writing} == seen
    assert {(resource, verb) for resource in seen for verb in ("list", "watch")} <= may


def test_agents_of_the_lab_may_do_the_same() -> None:
    """So that the tests on its cluster are of these rights."""
    documents = yaml.safe_load_all(files.manifests(LabSpec(kubernetes=True, pods=0)))
    (rules,) = (
        each["rules"] for each in documents if each["metadata"]["name"] == "ovsnet-agent" and "rules" in each
    )
    assert rules == objects()["ClusterRole/ovsnet-agent"]["rules"]


def test_an_agent_may_list_what_the_store_follows() -> None:
    rules = objects()["ClusterRole/ovsnet-agent"]["rules"]
    may = {(group, each) for rule in rules for group in rule["apiGroups"] for each in rule["resources"]}
    for resource in (*RESOURCES, *SELECTED):
        group = resource.path.split("/")[2] if resource.path.startswith("/apis/") else ""
        assert (group, resource.plural) in may


def test_no_container_has_more_than_it_uses() -> None:
    found = objects()
    for name in ("DaemonSet/openvswitch", "DaemonSet/ovsnet-agent"):
        for container in containers(found[name]):
            context = container["securityContext"]
            assert context["capabilities"]["drop"] == ["ALL"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert "privileged" not in context
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert pod(found[name])["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod(found[name])["priorityClassName"] == "system-node-critical"
        assert pod(found[name])["tolerations"] == [{"operator": "Exists"}]
        assert "hostPID" not in pod(found[name])
    agent, switch = found["DaemonSet/ovsnet-agent"], found["DaemonSet/openvswitch"]
    assert added(agent, "install-cni") == set()
    assert added(agent, "agent") == {"NET_ADMIN", "SYS_ADMIN"}
    assert added(switch, "ovsdb-server") == set()
    assert added(switch, "ovs-vswitchd") == {"NET_ADMIN", "NET_BROADCAST", "NET_RAW"}
    assert not pod(switch)["automountServiceAccountToken"]
    own = objects("openvswitch=node")["DaemonSet/ovsnet-agent"]
    assert added(own, "agent") == {"NET_ADMIN", "SYS_ADMIN", "DAC_OVERRIDE"}


def test_the_agent_is_granted_what_the_unit_grants() -> None:
    unit = (Path(__file__).parents[2] / "templates/ovsnet.service.j2").read_text()
    (line,) = (line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet="))
    granted = {name.removeprefix("CAP_") for name in line.partition("=")[2].split()}
    assert added(objects("openvswitch=node")["DaemonSet/ovsnet-agent"], "agent") == granted


def test_an_upgrade_of_the_agent_leaves_open_vswitch_alone() -> None:
    assert objects()["DaemonSet/openvswitch"]["spec"]["updateStrategy"] == {"type": "OnDelete"}
    strategy = objects("maxUnavailable=3")["DaemonSet/ovsnet-agent"]["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 3}}


def test_choices_arrive() -> None:
    found = objects(
        "image=registry.example:5000/net/ovsnet@sha256:" + "0" * 64,
        "imagePullPolicy=Always",
        "apiServer=https://[fd00::1]:6443",
        "cniBinDir=/var/lib/rancher/bin",
        "cniConfDir=/var/lib/rancher/net.d",
        "cniResultDir=/var/lib/other",
        "stateDir=/data/ovs",
    )
    agent, switch = found["DaemonSet/ovsnet-agent"], found["DaemonSet/openvswitch"]
    every = containers(agent) + containers(switch)
    assert {each["image"] for each in every} == {"registry.example:5000/net/ovsnet@sha256:" + "0" * 64}
    assert {each["imagePullPolicy"] for each in every} == {"Always"}
    shared = yaml.safe_load(found["ConfigMap/ovsnet-agent"]["data"]["agent.yaml"])
    assert shared == {"store": {"kubernetes": {"server": "https://[fd00::1]:6443"}}}
    volumes = pod(agent)["volumes"] + pod(switch)["volumes"]
    paths = {each["hostPath"]["path"] for each in volumes if "hostPath" in each}
    assert paths >= {"/var/lib/rancher/bin", "/var/lib/rancher/net.d", "/var/lib/other", "/data/ovs"}


def test_mounts_and_volumes_belong_together() -> None:
    for name, daemon_set in objects().items():
        if not name.startswith("DaemonSet/"):
            continue
        mounted = {mount["name"] for each in containers(daemon_set) for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod(daemon_set)["volumes"]}


def test_the_shared_configuration_arrives_whole(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    text = "encapsulation: geneve\nexcludedAddresses: [10.0.0.1]\nlog:\n  level: debug\nbridge: br-k8s\n"
    path.write_text(text)
    found = objects(path=path)
    shared = yaml.safe_load(found["ConfigMap/ovsnet-agent"]["data"]["agent.yaml"])
    assert shared.pop("store") == {"kubernetes": {"server": None}}
    assert config.parse(yaml.safe_dump(shared)) == config.parse(text)
    agent = found["DaemonSet/ovsnet-agent"]
    assert "del-br br-k8s/kept" in pod(agent)["containers"][0]["args"][0]
    digests = {
        each["spec"]["template"]["metadata"]["annotations"]["ovsnet.io/configuration"]
        for each in (agent, objects()["DaemonSet/ovsnet-agent"])
    }
    assert len(digests) == 2, "another configuration is no rollout"


def test_user_space_needs_tun(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("datapath: netdev\n")
    assert any(v["name"] == "tun" for v in pod(objects(path=path)["DaemonSet/openvswitch"])["volumes"])
    assert not any(v["name"] == "tun" for v in pod(objects()["DaemonSet/openvswitch"])["volumes"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("imag=x", "imag: unknown key; did you mean image?; known: namespace, image, "),
        ("image", "image: no value; write image=VALUE"),
        ("image=", "image: expected an image's name"),
        ("image=a b", "image: expected an image's name"),
        ("image=a\n", "image: expected an image's name"),
        ("namespace=Net", "namespace: expected a name that is not Kubernetes' own, found 'Net'"),
        ("namespace=kube-system", "namespace: expected a name that is not Kubernetes' own"),
        ("namespace=default", "namespace: expected a name that is not Kubernetes' own"),
        ("openvswitch=host", "openvswitch: expected daemonset or node, found 'host'"),
        ("apiServer=http://x", "apiServer: expected https://HOST or https://HOST:PORT, found 'http://x'"),
        ("cniBinDir=opt", "cniBinDir: expected an absolute path"),
        ("cniBinDir=/opt/../etc", "cniBinDir: expected an absolute path"),
        ("maxUnavailable=0", "maxUnavailable: expected a number of nodes"),
        ("maxUnavailable=101%", "maxUnavailable: expected a number of nodes"),
        ("admissionPolicy=yes", "admissionPolicy: expected true or false, found 'yes'"),
    ],
)
def test_a_wrong_choice_is_told(setting: str, words: str) -> None:
    (problem,) = problems(setting)
    assert problem.startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodeName: a", "nodeName: every node has its own"),
        ("podCIDRs: [10.0.0.0/24]", "podCIDRs: every node has its own"),
        ("store: {file: /x}", "store: it is the Kubernetes API"),
        ("cniSocket: /run/x/y", "cniSocket: the manifests mount /run/ovsnet"),
        ("ovsdb: 'tcp:127.0.0.1:6640'", "ovsdb: the manifests mount /run/openvswitch"),
        ("nodeAddress: {address: 192.0.2.1}", "nodeAddress.address: every node has its own"),
        ("vni: x", "line 1: vni: expected a whole number"),
        ("store: {kubernetes: {}}", "store: it is the Kubernetes API"),
    ],
)
def test_a_configuration_that_can_not_be_shared_is_told(text: str, words: str) -> None:
    (problem,) = problems(text=text)
    assert problem.startswith(words)


def test_every_mistake_is_told_at_once() -> None:
    assert len(problems("imag=x", "namespace=A", "image=")) == 3


def test_every_default_is_allowed_and_in_the_help() -> None:
    chosen = deployment.chosen([f"{key.name}={key.default}" for key in deployment.KEYS])
    assert chosen == deployment.chosen([])
    done = subprocess.run(
        [sys.executable, "-m", "ovsnet", "manifest", "--help"], capture_output=True, text=True, check=True
    )
    for key in deployment.KEYS:
        assert f"  {key.name}={key.default}" in done.stdout


def test_every_key_is_in_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs/kubernetes.md").read_text()
    for key in deployment.KEYS:
        default = key.default.replace(ovsnet.__version__, "VERSION")
        assert f"| `{key.name}` | {f'`{default}`' if default else 'none'} |" in text


def test_a_missing_file_is_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ovsnet", "manifest", "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path}/none.yaml: No such file or directory")
