"""Commands that are about more than policies, on nodes that have some."""

from __future__ import annotations

import json
import tarfile
from functools import partial
from pathlib import Path

import yaml
from cni_world import Cni
from lab_world import eventually, reconfigure
from policy_commands_world import (
    WEB,
    answer,
    ask,
    lab,
    live,
    node,
    policed,
    policy,
)

from ovsnet import names
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node

__all__ = ["lab", "live", "node"]


def test_trace_names_the_policies_that_deny(lab: Lab, node: Node) -> None:
    done = ask(node, "trace", "a2", "a1", "--tcp", "80")
    assert done.returncode == 1
    assert (
        "denied: egress of pod default/a2 is isolated by NetworkPolicy default/out, and no rule allows this"
        in done.stdout.splitlines()[0]
    )
    done = ask(node, "trace", str(lab.pod("b1").addresses[0]), "a1", "--tcp", "81")
    assert "denied: ingress of pod default/a1 is isolated by NetworkPolicy default/web" in done.stdout
    done = ask(node, "trace", str(lab.pod("b1").addresses[1]), "a1", "--tcp", str(WEB))
    assert done.returncode == 0, done.stdout
    assert "rule ingress from pods app in (b1) of namespace default" in done.stdout


def test_every_flow_has_its_object_and_audit_is_clean(node: Node) -> None:
    objects = {flow["object"] for flow in answer(node, "flows")}
    assert not [each for each in objects if each.startswith("unknown")]
    assert {"policedpod default/a1", "policedpod default/a2"} <= objects
    done = ask(node, "audit")
    assert done.returncode == 0, done.stdout


def test_audit_tells_of_a_policy_s_flow_that_is_gone(lab: Lab, live: Node) -> None:
    live.kill(AGENT)
    try:
        Cni(live).tool("ovs-ofctl", "del-flows", "br-int", "table=48,ip")
        done = ask(live, "audit")
        assert done.returncode == 1
        assert "flow of policedpod default/a1 in table verdict deleted" in done.stdout
    finally:
        live.start(AGENT)
    eventually(lambda: ask(live, "audit").returncode == 0)


def test_drops_are_counted_for_pods_and_directions(lab: Lab, live: Node) -> None:
    def denied() -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for flow in answer(live, "flows", "--drops"):
            if flow["denied"]:
                who = flow["denied"]["pod"], flow["denied"]["direction"]
                found[who] = found.get(who, 0) + flow["packets"]
        return found

    def counted(who: tuple[str, str], packets: int) -> bool:
        return denied().get(who, 0) >= packets

    before = denied()
    # The first packet through a userspace tunnel may wait for a neighbour.
    lab.exec("b1", ["ping", "-c5", "-i0.1", "-W1", str(lab.pod("a1").addresses[0])])
    lab.exec("a2", ["ping", "-c2", "-i0.1", "-W1", str(lab.pod("b1").addresses[1])])
    for who, packets in ((("default/a1", "ingress"), 3), (("default/a2", "egress"), 2)):
        eventually(partial(counted, who, before.get(who, 0) + packets))
    done = ask(live, "flows", "--drops")
    assert "denied by policies" in done.stdout
    assert "pod default/a1               ingress" in done.stdout
    assert "pod default/a1               ingress" in ask(live, "flows", "--drops", "--pod", "a1").stdout
    assert "pod default/a1  " not in ask(live, "flows", "--drops", "--pod", "a2").stdout
    # A look at policies that ends without a rule drops nothing.
    assert {flow["table"] for flow in answer(live, "flows", "--drops", "--all")}.isdisjoint(
        {"egress", "ingress"}
    )


def test_while_the_store_is_away_policies_have_no_names(lab: Lab) -> None:
    """They stay in force all the same."""
    node = lab.node("node-b")
    known = yaml.safe_load(node.private("/etc/ovsnet/agent.yaml").read_text())
    before = policy_flows(node)
    reconfigure(node, store={"file": "/nowhere"})
    try:
        node.await_agent(30)
        assert policy_flows(node) == before
        objects = {flow["object"] for flow in answer(node, "flows")}
        assert "policedpod ?" in objects
        assert not [each for each in objects if each.startswith("unknown")]
        assert "flows of policies" in answer(node, "audit")["leftOut"]
        for arguments, code in ((["show", "b1"], 1), (["check", "b1", "b2"], 2)):
            done = ask(node, "policy", *arguments)
            assert done.returncode == code, done.stdout
            assert "error: store /nowhere" in done.stderr
    finally:
        reconfigure(node, store=known["store"])
    eventually(lambda: policed(node) and policy_flows(node) == before)


def policy_flows(node: Node) -> list[str]:
    """Those that serve policies, without counters."""
    return sorted(
        f"{flow['table']} {flow['priority']} {flow['match']} {flow['actions']}"
        for flow in answer(node, "flows")
        if names.kind_of(int(flow["cookie"], 16)) in names.POLICIES
    )


def test_a_support_bundle_has_them(lab: Lab, live: Node, tmp_path: Path) -> None:
    done = ask(live, "support-bundle", "--output", str(tmp_path / "bundle.tar.gz"))
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        members = {Path(name).name: name for name in archive.getnames()}
        texts = {
            name: file.read().decode()
            for name in ("policy.json", "flows.txt")
            if (file := archive.extractfile(members[name])) is not None
        }
    assert [each["pod"] for each in json.loads(texts["policy.json"])] == ["default/a1", "default/a2"]
    assert "policedpod default/a1" in texts["flows.txt"]
    assert "unknown" not in texts["flows.txt"]


def test_render_shows_what_policies_come_to(lab: Lab, live: Node) -> None:
    """Of the lab's own manifests, what is installed for them."""
    done = ask(
        live,
        "render",
        "--state",
        "/etc/ovsnet/cluster",
        "--node",
        "node-a",
        "--config",
        "/etc/ovsnet/agent.yaml",
    )
    assert done.returncode == 0, done.stderr
    installed = {
        flow["cookie"]
        for flow in answer(live, "flows")
        if names.kind_of(int(flow["cookie"], 16)) in names.POLICIES
    }
    rendered = {line.partition(",")[0].removeprefix("cookie=") for line in done.stdout.splitlines()}
    assert installed
    assert installed <= rendered


def test_render_of_a_policy_that_is_wrong(lab: Lab, live: Node, tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text((lab.folder.path / "cluster" / "node-a.yaml").read_text())
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**policy("wrong", {}), "spec": "nonsense"}))
    done = ask(live, "render", "--state", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stderr
    assert "wrong.yaml: NetworkPolicy default/wrong: spec" in done.stderr
    nameless = {**policy("nameless", {}), "metadata": {}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(nameless))
    done = ask(live, "render", "--state", str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert "wrong.yaml: metadata.name: is missing; every NetworkPolicy has a name" in done.stderr
