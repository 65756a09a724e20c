"""CNI against the real agent, through the installed executable: what the specification asks for, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cni_node import addresses_in, cni, inside, nothing_leaks
from cni_world import Answer, Cni, launch_agent, path
from lab_world import eventually, ovsnet_json

from ovsnet import state
from ovsnet.lab.node import AGENT
from ovsnet.lab.state import write_atomically

__all__ = ["cni", "nothing_leaks"]
VERSIONS = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


# --- what must work ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_the_specification(cni: Cni, version: str) -> None:
    with cni.pod(version=version) as (container, answer):
        result = answer.document
        assert result["cniVersion"] == version
        assert set(answer.addresses) == addresses_in(cni, container)
        index = [each["name"] for each in result["interfaces"]].index("eth0")
        assert [entry["interface"] for entry in result["ips"]] == [index, index]
        assert [entry["gateway"] for entry in result["ips"]] == ["10.244.1.1", "fd00:10:244:1::1"]
        assert ("version" in result["ips"][0]) == (version < "1.0.0")
        assert ("mtu" in result["interfaces"][index]) == (version >= "1.1.0")
        assert inside(cni, container, "ping", "-c1", "-W2", "10.244.1.1")
        checked = cni.check(container, result, version=version)
        assert checked.code == (1 if version == "0.3.1" else 0), checked
        assert cni.call("DEL", container, version=version, netns=path(container)) == Answer(0, None)
        assert "eth0" not in inside(cni, container, "ip", "-o", "link")


def test_version_tells_all_of_them(cni: Cni) -> None:
    answer = cni.call("VERSION")
    assert answer.status == 0
    assert answer.document["supportedVersions"] == VERSIONS


@pytest.mark.parametrize("version", ["0.2.0", "2.0.0", "1.0", "none"])
def test_another_version_is_refused(cni: Cni, version: str) -> None:
    with cni.namespaces("c1"):
        answer = cni.call("ADD", "c1", netns=path("c1"), version=version)
    assert answer.code == 1
    assert version in answer.words


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_commands_of_1_1_0_are_refused_before(cni: Cni, command: str) -> None:
    assert cni.call(command, version="1.0.0").code == 1


def test_two_interfaces_in_one_pod(cni: Cni) -> None:
    with cni.pod() as (container, first):
        second = cni.add(container, ifname="net1")
        assert addresses_in(cni, container) == set(first.addresses)
        assert addresses_in(cni, container, "net1") == set(second.addresses)
        assert cni.check(container, first.document).code == 0
        assert cni.check(container, second.document, ifname="net1").code == 0
        assert inside(cni, container, "ping", "-c1", "-W2", "-I", "net1", "10.244.1.1")
        cni.delete(container)
        assert addresses_in(cni, container, "net1") == set(second.addresses)
        assert cni.attached() == {(container, "net1")}


def test_fixed_addresses_and_mac_by_capability(cni: Cni) -> None:
    mac = "02:00:00:00:00:77"
    fixed = {"ips": ["10.244.1.77/24", "fd00:10:244:1::77/64"], "mac": mac}
    with cni.pod(config={"runtimeConfig": fixed}) as (container, answer):
        assert answer.addresses == ["10.244.1.77", "fd00:10:244:1::77"]
        assert answer.document["interfaces"][1]["mac"] == mac
        assert addresses_in(cni, container) == set(answer.addresses)
        assert mac in inside(cni, container, "ip", "link", "show", "eth0")
        assert inside(cni, container, "ping", "-c1", "-W2", "10.244.1.1")
        assert cni.check(container, answer.document).code == 0


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("10.244.1.1", "gateway"),
        ("10.244.1.0", "network"),
        ("10.244.1.255", "broadcast"),
        ("10.244.1.205", "exclu"),
        ("10.244.9.5", "10.244.9.5"),
        ("192.0.2.99", "192.0.2.99"),
    ],
)
def test_an_address_that_is_not_ours_to_give(cni: Cni, address: str, word: str) -> None:
    with cni.namespaces("c1"):
        answer = cni.call("ADD", "c1", netns=path("c1"), config={"runtimeConfig": {"ips": [address]}})
    assert answer.code == 101, answer
    assert address in answer.words
    assert word in answer.words


def test_an_address_that_another_pod_has(cni: Cni) -> None:
    with cni.pod() as (container, answer), cni.namespaces("c2"):
        wanted = {"runtimeConfig": {"ips": [answer.addresses[0]]}}
        refused = cni.call("ADD", "c2", netns=path("c2"), config=wanted)
        assert refused.code == 101
        assert container in refused.words
        cni.delete(container)
        # A fixed address needs no cool-down: who asks for it knows what it was.
        assert cni.add("c2", config=wanted).addresses[0] == answer.addresses[0]


# --- requests that are at fault ------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_missing_variable_is_named(cni: Cni, command: str, variable: str) -> None:
    answer = cni.call(command, "c1", netns="/run/netns/c1", variables={variable: ""})
    assert answer.code == 4
    assert variable in answer.words


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_IFNAME"])
def test_what_a_del_needs(cni: Cni, variable: str) -> None:
    answer = cni.call("DEL", "c1", variables={variable: ""})
    assert answer.code == 4
    assert variable in answer.words


@pytest.mark.parametrize("command", ["", "add", "FORMAT"])
def test_an_unknown_command(cni: Cni, command: str) -> None:
    answer = cni.call(command, "c1", netns="/run/netns/c1")
    assert answer.code == 4
    assert "CNI_COMMAND" in answer.words


@pytest.mark.parametrize(
    "netns",
    ["/run/netns/none", "/etc/hostname", "/proc/1/ns/net", "/proc/1/ns/mnt", "/run", "none", "/dev/null"],
)
def test_a_namespace_that_is_none_or_the_nodes_own(cni: Cni, netns: str) -> None:
    answer = cni.call("ADD", "c1", netns=netns)
    assert answer.code == 4, answer
    assert "CNI_NETNS" in answer.words
    assert netns in answer.words


@pytest.mark.parametrize(
    "ifname", ["sixteenletters00", "a/b", "a b", "a:b", ".", "..", "eth%d", "a\tb", "lo"]
)
def test_an_interface_name_that_is_none(cni: Cni, ifname: str) -> None:
    with cni.namespaces("c1"):
        answer = cni.call("ADD", "c1", netns=path("c1"), ifname=ifname)
    assert answer.code == (100 if ifname == "lo" else 4), answer


def test_an_interface_name_of_15_characters_works(cni: Cni) -> None:
    with cni.pod(ifname="fifteenletters0") as (container, answer):
        assert addresses_in(cni, container, "fifteenletters0") == set(answer.addresses)


def test_the_longest_names_that_kubernetes_has(cni: Cni) -> None:
    """With these kubelets come to grief before they ask for a network: a folder's name has at most 255 bytes."""
    space, name = "s" * 63, f"{'p' * 200}.{'q' * 52}"
    args = {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={space};K8S_POD_NAME={name}"}
    with cni.pod("c" * 64, variables=args) as (container, answer):
        assert addresses_in(cni, container) == set(answer.addresses)
        assert cni.check(container, answer.document, variables=args).code == 0
        assert {pod.name for pod in state.pods(cni.rows()) if pod.namespace == space} == {name}
        assert f"{space}/{name}" in {port["who"] for port in ovsnet_json(cni.node, "show")["ports"]}
        cni.delete(container, variables=args)
        assert not cni.attached()


@pytest.mark.parametrize("container", ["-c", "a/b", "a b", "../x"])
def test_a_container_id_that_is_none(cni: Cni, container: str) -> None:
    with cni.namespaces("c1"):
        answer = cni.call("ADD", container, netns=path("c1"))
    assert answer.code == 4
    assert "CNI_CONTAINERID" in answer.words


@pytest.mark.parametrize("stdin", ["", "{", "[]", "null", '{"cniVersion": 1}', "\0", "{}"])
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_configuration_that_is_none(cni: Cni, command: str, stdin: str) -> None:
    with cni.namespaces("c1"):
        answer = cni.call(command, "c1", netns=path("c1"), stdin=stdin)
    assert answer.code in (1, 6, 7), answer


def test_a_second_add_is_refused_and_the_first_stays(cni: Cni) -> None:
    with cni.pod() as (container, answer):
        again = cni.call("ADD", container, netns=path(container))
        assert again.code == 100
        assert cni.check(container, answer.document).code == 0
        assert inside(cni, container, "ping", "-c1", "-W2", "10.244.1.1")


def test_an_interface_of_that_name_in_the_pod(cni: Cni) -> None:
    with cni.namespaces("c1"):
        inside(cni, "c1", "ip", "link", "add", "eth0", "type", "veth", "peer", "other")
        answer = cni.call("ADD", "c1", netns=path("c1"))
        assert answer.code == 100
        assert "eth0" in answer.words
        assert "eth0@other" in inside(cni, "c1", "ip", "-o", "link")
        inside(cni, "c1", "ip", "link", "delete", "eth0")
        cni.add("c1")


# --- DEL -----------------------------------------------------------------------------------------


def test_del_twice_and_without_namespace(cni: Cni) -> None:
    with cni.pod() as (container, _):
        assert cni.call("DEL", container) == Answer(0, None)
        cni.delete(container)
        assert "eth0" not in inside(cni, container, "ip", "-o", "link")


def test_del_when_the_namespace_is_destroyed(cni: Cni) -> None:
    with cni.pod() as (container, answer):
        cni.remove_namespace(container)
        cni.delete(container)
        assert (container, "eth0") not in cni.attached()
        assert answer.document["interfaces"][0]["name"] not in cni.rows()


def test_del_when_a_regular_file_is_where_the_namespace_was(cni: Cni) -> None:
    with cni.pod() as (container, _):
        cni.remove_namespace(container)
        cni.tool("touch", path(container))
        cni.delete(container)
        cni.tool("rm", "-f", path(container))


def test_del_of_an_unknown_container(cni: Cni) -> None:
    cni.delete("unknown")
    assert cni.call("DEL", "unknown") == Answer(0, None)


# --- CHECK ---------------------------------------------------------------------------------------

Damage = Callable[[Cni, str, str], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "address": (lambda cni, c, _: inside(cni, c, "ip", "addr", "flush", "dev", "eth0"), "10.244.1."),
    "IPv6 address": (
        lambda cni, c, _: inside(cni, c, "ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global"),
        "fd00:10:244:1",
    ),
    "route": (lambda cni, c, _: inside(cni, c, "ip", "route", "del", "default"), "default route"),
    "IPv6 route": (lambda cni, c, _: inside(cni, c, "ip", "-6", "route", "del", "default"), "default route"),
    "down": (lambda cni, c, _: inside(cni, c, "ip", "link", "set", "eth0", "down"), "down"),
    "MAC": (
        lambda cni, c, _: inside(cni, c, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:01"),
        "MAC",
    ),
    "renamed": (
        lambda cni, c, _: inside(
            cni, c, "sh", "-c", "ip link set eth0 down; ip link set eth0 name x; ip link set x up"
        ),
        "no interface",
    ),
    "deleted": (lambda cni, c, _: inside(cni, c, "ip", "link", "delete", "eth0"), "no interface"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_finds_what_is_damaged(cni: Cni, damage: str) -> None:
    do, words = DAMAGES[damage]
    with cni.pod() as (container, answer):
        assert cni.check(container, answer.document).code == 0
        do(cni, container, answer.document["interfaces"][0]["name"])

        # vswitchd tells of a port whose interface is gone before the pod is looked at.
        def found() -> bool:
            checked = cni.check(container, answer.document)
            return checked.code == 102 and (words in checked.words or damage == "deleted")

        eventually(found)


def test_check_of_an_unknown_container(cni: Cni) -> None:
    with cni.pod() as (container, answer), cni.namespaces("c2"):
        assert cni.check("c2", answer.document).code == 3
        assert cni.check(container, answer.document, ifname="net1").code == 3


def test_check_without_the_result(cni: Cni) -> None:
    with cni.pod() as (container, _):
        assert cni.call("CHECK", container, netns=path(container)).code == 7


def test_check_with_the_result_of_another(cni: Cni) -> None:
    with cni.pod() as (container, _), cni.pod() as (_, other):
        assert cni.check(container, other.document).code == 102


def test_a_port_row_deleted_by_hand_comes_back(cni: Cni) -> None:
    """The pod keeps address and connectivity; CHECK is content when it is done."""
    with cni.pod() as (container, answer):
        port = answer.document["interfaces"][0]["name"]
        cni.tool("ovs-vsctl", "del-port", "br-int", port)
        eventually(lambda: cni.check(container, answer.document).code == 0)
        assert (container, "eth0") in cni.attached()
        assert inside(cni, container, "ping", "-c1", "-W2", "10.244.1.1")


# --- GC and STATUS -------------------------------------------------------------------------------


def collect(cni: Cni, *valid: tuple[str, str], **config: Any) -> Answer:
    attachments = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
    return cni.call("GC", config={"cni.dev/valid-attachments": attachments, **config})


def test_gc_keeps_and_removes_exactly(cni: Cni) -> None:
    with cni.pod() as (kept, _), cni.pod() as (half, answer), cni.pod() as (gone, _):
        cni.add(half, ifname="net1")
        assert collect(cni, (kept, "eth0"), (half, "net1"), ("unknown", "eth0")) == Answer(0, None)
        assert cni.attached() == {(kept, "eth0"), (half, "net1")}
        assert cni.call("CHECK", gone, netns=path(gone), config={"prevResult": answer.document}).code == 3
        assert collect(cni) == Answer(0, None)
        assert cni.attached() == set()


@pytest.mark.parametrize("attachments", [None, "all", {}, [{}], [{"containerID": "c1"}]])
def test_gc_without_a_list_removes_nothing(cni: Cni, attachments: Any) -> None:
    config = {} if attachments is None else {"cni.dev/valid-attachments": attachments}
    with cni.pod() as (container, answer):
        refused = cni.call("GC", config=config)
        assert refused.code in (6, 7), refused
        assert cni.check(container, answer.document).code == 0


def test_gc_of_another_network_removes_nothing(cni: Cni) -> None:
    with cni.pod() as (container, answer):
        assert collect(cni, name="another").status == 0
        assert cni.check(container, answer.document).code == 0


def test_status_while_the_agent_is_not_ready_and_after(cni: Cni) -> None:
    assert cni.call("STATUS") == Answer(0, None)
    cni.node.kill(AGENT)
    away = cni.call("STATUS")
    assert away.code == 50
    assert "agent.sock" in away.words
    config = cni.node.private("/etc/ovsnet/agent.yaml")
    before = config.read_text()
    config.write_text(before.replace("nodeName: node-a", "nodeName: node-z"))
    manifest = cni.node.lab.path / "cluster" / "node-a.yaml"
    text = manifest.read_text()
    try:
        launch_agent(cni.node)
        eventually(lambda: "node-z has no pod ranges" in cni.call("STATUS").words)
        assert cni.call("STATUS").code == 50
        with cni.namespaces("c1"):
            assert cni.call("ADD", "c1", netns=path("c1")).code == 11
        write_atomically(manifest, text.replace("node-a", "node-z"))
        eventually(lambda: cni.call("STATUS") == Answer(0, None))
    finally:
        config.write_text(before)
        write_atomically(manifest, text)
        cni.node.kill(AGENT)
        cni.node.start(AGENT)


def test_no_agent_is_code_11(cni: Cni) -> None:
    with cni.pod() as (container, answer):
        cni.node.kill(AGENT)
        assert cni.call("ADD", container, netns=path(container), ifname="net1").code == 11
        assert cni.call("DEL", container).code == 11
        assert inside(cni, container, "ping", "-c1", "-W2", "10.244.1.1")
        cni.node.start(AGENT)
        assert cni.check(container, answer.document).code == 0
