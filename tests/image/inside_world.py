"""What people ask from within an agent's container, by `kubectl exec`: every command that only reads, and its answer.

The container's root can't be written and it has few capabilities. Called by test_daemonset.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from daemonset_world import AGENTS, HOME, running
from kube_world import Namespace, Object, curl, server
from lab_world import eventually

from ovsnet.lab.state import Completed

GUARDED, FRIEND, STRANGER = "guarded", "friend", "stranger"
"""Pods: the first, on the node that is asked, answers the second alone, on the same node; the third is on another."""
SERVICE = "guarded-service"
POLICY = "friends"
LISTING = """
import json, sys, tarfile
with tarfile.open(sys.argv[1]) as archive:
    print(json.dumps({e.name.partition("/")[2]: archive.extractfile(e).read().decode() for e in archive}))
"""
NOT_IN_A_CONTAINER = {
    "doctor.json",  # its own code tells of faults
    *(f"kernel/{name}.txt" for name in ("iptables", "conntrack", "modules")),
    *(f"logs/{name}" for name in ("journal-ovsnet.txt", "journal-openvswitch.txt", "kernel.txt")),
    *(f"logs/{name}.log" for name in ("ovs-vswitchd", "ovsdb-server")),
    *(f"system/{name}.txt" for name in ("units", "time")),
}
"""What a bundle may have no answer for: programs and logs that the image has not."""


class Inside:
    """The agent's container on the first node. world: has the pods from `prepare`."""

    def __init__(self, world: Namespace, nodes: Sequence[str]) -> None:
        self.world = world
        self.node, self.other = nodes
        self.names = {each: f"{world.name}/{each}" for each in (GUARDED, FRIEND, STRANGER, SERVICE, POLICY)}

    def prepare(self) -> None:
        """Pods, a Service and a policy; does nothing when they are there."""
        selector = {"podSelector": {"matchLabels": {"app": GUARDED}}, "policyTypes": ["Ingress"]}
        ingress = [
            {"from": [{"podSelector": {"matchLabels": {"app": FRIEND}}}], "ports": [{"port": 8080}]},
        ]
        service = {"selector": {"app": GUARDED}, "ports": [{"port": 80, "targetPort": 8080}]}
        self.world.start(server(GUARDED, self.node), server(FRIEND, self.node), server(STRANGER, self.other))
        self.world.apply(
            kind("networking.k8s.io/v1", "NetworkPolicy", POLICY, {**selector, "ingress": ingress}),
            kind("v1", "Service", SERVICE, service),
        )

    def run(self, *command: str) -> Completed:
        pod = running(self.world.cluster, AGENTS)[self.node]["metadata"]["name"]
        return self.world.cluster.kubectl("-n", HOME, "exec", pod, "-c", "agent", "--", *command, check=False)

    def ask(self, *arguments: str, code: int = 0) -> str:
        """What `ovsnet` prints, that ends with the code and without a warning."""
        done = self.run("ovsnet", *arguments)
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        # kubectl itself tells codes other than 0.
        told = [line for line in done.stderr.splitlines() if not line.startswith("command terminated")]
        assert not told, f"{arguments}: {told}"
        return done.stdout

    def answer(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.ask(*arguments, "-o", "json", code=code))


def kind(version: str, name: str, title: str, spec: Object) -> Object:
    return {"apiVersion": version, "kind": name, "metadata": {"name": title}, "spec": spec}


def look_at_state(inside: Inside) -> None:
    """show, show services, audit."""
    shown = inside.answer("show")
    assert shown["node"] == inside.node
    assert shown["healthy"]
    assert [peer["name"] for peer in shown["peers"]] == [inside.other]
    ports = {port["who"]: port["addresses"] for port in shown["ports"] if port["role"] == "pod"}
    assert set(ports[inside.names[GUARDED]]) == {*inside.world.addresses(GUARDED).values()}
    services = inside.ask("show", "services")
    assert inside.names[SERVICE] in services
    assert f"{inside.world.addresses(GUARDED)[4]}:8080" in services
    assert not any(inside.answer("audit").values())


def look_at_packets(inside: Inside) -> None:
    """conntrack, flows and trace: of connections, one through the Service and one that the policy denies."""
    cluster, world, names = inside.world.cluster, inside.world, inside.names
    address = world.get("service", SERVICE)["spec"]["clusterIP"]
    guarded = world.addresses(GUARDED)[4]
    eventually(lambda: curl(cluster, world.place(FRIEND), address, port=80) == GUARDED)
    eventually(lambda: refused(inside, guarded), 60)
    rows = inside.answer("conntrack", "--service", names[SERVICE])
    assert {(row["address"], row["endpoint"]) for row in rows} == {(f"{address}:80", f"{guarded}:8080")}
    assert {row["client"].partition(":")[0] for row in rows} == {world.addresses(FRIEND)[4]}
    flows = inside.answer("flows", "--pod", names[GUARDED])
    assert {flow["object"] for flow in flows} >= {f"pod {names[GUARDED]}"}
    far = world.addresses(STRANGER)[4]
    for target, port, words in ((GUARDED, 8080, f"-> pod {names[GUARDED]}"), (SERVICE, 80, names[GUARDED])):
        assert words in inside.ask("trace", names[FRIEND], names[target], "--tcp", str(port))
    assert f"node {inside.other}" in inside.ask("trace", names[FRIEND], far, "--udp", "53")
    assert "DROPPED" in inside.ask("trace", far, names[GUARDED], "--tcp", "8080", code=1)


def refused(inside: Inside, address: str) -> bool:
    """Whether the stranger, once more, gets no answer, and the drops tell of it."""
    if curl(inside.world.cluster, inside.world.place(STRANGER), address, seconds=1) is not None:
        return False
    _, _, denied = inside.ask("flows", "--drops").partition("denied by policies")
    return any(inside.names[GUARDED] in line and inside.names[POLICY] in line for line in denied.splitlines())


def look_at_policies(inside: Inside) -> None:
    """policy show, check and diff."""
    names = inside.names
    shown = inside.answer("policy", "show", names[GUARDED])
    assert shown["policies"] == [names[POLICY]]
    (rule,) = shown["directions"]["ingress"]["rules"]
    assert rule["ports"] == ["TCP 8080"]
    for source, code in ((FRIEND, 0), (STRANGER, 1)):
        checked = inside.ask("policy", "check", names[source], names[GUARDED], "--tcp", "8080", code=code)
        assert names[POLICY] in checked
        assert "DISAGREE" not in checked
    assert names[GUARDED] in inside.ask("policy", "diff", "--delete", names[POLICY], code=1)


def look_for_faults(inside: Inside) -> None:
    """doctor: none; what the container may not do, or can't see, it tells or leaves out."""
    found = inside.run("ovsnet", "doctor", "-o", "json")
    findings = {each["title"]: each for each in json.loads(found.stdout)["findings"]}
    assert found.returncode == 0, [each for each in findings.values() if each["level"] == "fault"]
    for title in ("ovsdb-server", "ovs-vswitchd", "agent", "agent's socket", "bridge", "flows", "uplink"):
        assert findings[title]["level"] == "ok", findings[title]
    for title in ("addresses", f"peer {inside.other}"):
        assert "NET_RAW" in findings[title]["seen"], findings[title]
    # Those of its own first process, which has the same number as theirs, are not theirs.
    assert "vswitchd" not in findings["open files"]["seen"]


def pack(inside: Inside) -> None:
    """support-bundle: all is in it, but what asks for programs of a node's."""
    content = packed(inside)
    for _ in range(2):
        if "did not end within" in content["INDEX.txt"]:  # the machine is busy
            content = packed(inside)
    assert json.loads(content["show.json"])["node"] == inside.node
    assert json.loads(content["doctor.json"])["node"] == inside.node
    failed = {line.split()[0] for line in content["INDEX.txt"].splitlines() if line.endswith(")")}
    assert failed <= NOT_IN_A_CONTAINER, content["INDEX.txt"]
    assert inside.names[POLICY] in content["policy.json"]
    assert f"pod {inside.names[GUARDED]}" in content["flows.txt"]
    assert "actions=" in content["ovs/ofctl-dump-flows.txt"]
    assert "table inet ovsnet" in content["kernel/nft.txt"]
    assert "kubernetes" in content["config/agent.yaml"]


def packed(inside: Inside) -> dict[str, str]:
    """A bundle's files, from the one folder that can be written."""
    done = inside.run("ovsnet", "support-bundle")
    assert done.returncode == 0, done.stderr
    path = done.stdout.splitlines()[-1].partition(":")[0]
    assert path.startswith("/tmp/")
    content: dict[str, str] = json.loads(inside.run("python3", "-c", LISTING, path).stdout)
    assert inside.run("rm", path).returncode == 0
    return content


LOOKS = (look_at_state, look_at_packets, look_at_policies, look_for_faults, pack)
