"""The configuration: defaults, every kind of mistake with its path, rules between fields."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from ovsnet import config
from ovsnet.config import Config, Datapath, Egress, LogFormat, NodeAddress
from ovsnet.errors import ConfigError
from ovsnet.model import AddressRange, Encap, Tunnels

FULL = """
nodeName: node-a
nodeAddress: {routeTo: 192.0.2.1}
ovsdb: tcp:127.0.0.1:6640
bridge: br-pods
datapath: netdev
encapsulation: geneve
tunnels: flow
vni: 4000
udpPort: 6082
podCIDRs: [10.244.1.0/24, 10.244.9.0/25, "fd00:10:244:1::/64"]
excludedAddresses: [10.244.1.10, 10.244.9.0/29, 10.244.1.20 - 10.244.1.29]
reuseAfter: 2.5
mtu: 1400
nodePortAddresses: [primary, 198.51.100.0/24, "2001:db8::/64"]
nodePortRange: 20000-22767
egress:
  masquerade: false
  noMasquerade: [10.0.0.0/8]
  randomFully: false
store: {file: /srv/nodes}
cniSocket: /run/other.sock
log: {level: debug, format: json}
"""


def test_an_empty_file_is_all_defaults() -> None:
    assert config.parse("") == config.parse("# nothing\n") == Config()


def test_every_field_arrives_typed() -> None:
    loaded = config.parse(FULL)
    assert loaded.node_address == NodeAddress(route_to=ipaddress.ip_address("192.0.2.1"))
    assert (loaded.datapath, loaded.encapsulation, loaded.tunnels) == (
        Datapath.NETDEV,
        Encap.GENEVE,
        Tunnels.FLOW,
    )
    assert loaded.pod_cidrs[2] == ipaddress.ip_network("fd00:10:244:1::/64")
    assert loaded.excluded_addresses[1:] == (
        AddressRange(first=ipaddress.ip_address("10.244.9.0"), last=ipaddress.ip_address("10.244.9.7")),
        AddressRange(first=ipaddress.ip_address("10.244.1.20"), last=ipaddress.ip_address("10.244.1.29")),
    )
    assert loaded.egress == Egress(
        masquerade=False, no_masquerade=(ipaddress.ip_network("10.0.0.0/8"),), random_fully=False
    )
    assert loaded.node_port_addresses == (
        "primary",
        ipaddress.ip_network("198.51.100.0/24"),
        ipaddress.ip_network("2001:db8::/64"),
    )
    assert (loaded.node_port_range.first, loaded.node_port_range.last) == (20000, 22767)
    assert (loaded.mtu, loaded.reuse_after, loaded.log.format) == (1400, 2.5, LogFormat.JSON)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("", 0),
        ("store: {kubernetes: {}}", 10256),
        ("store: {kubernetes: {}}\nhealthz: {port: 0}", 0),
        ("healthz: {port: 10257, address: 192.0.2.1}", 10257),
    ],
)
def test_load_balancers_are_answered_where_they_ask_on_kubernetes(text: str, port: int) -> None:
    assert config.parse(text).healthz_port == port


MISTAKES = {
    "unknown key": ("nodename: a", "nodename", "unknown key; did you mean nodeName?"),
    "unknown key below": ("egress: {masqerade: true}", "egress.masqerade", "did you mean masquerade?"),
    "unknown key like none": ("zzzz: 1", "zzzz", "unknown key"),
    "no text": ("nodeName: 12", "nodeName", "put it in quotes"),
    "upper case": ("nodeName: Node", "nodeName", "lower case letters"),
    "two ways to the address": (
        "nodeAddress: {interface: eth0, address: 192.0.2.1}",
        "nodeAddress",
        "address and interface exclude one another",
    ),
    "loopback as node address": (
        "nodeAddress: {address: 127.0.0.1}",
        "nodeAddress.address",
        "can't be reached",
    ),
    "no address": ("nodeAddress: {address: eth0}", "nodeAddress.address", "expected an IPv4 or IPv6 address"),
    "no socket": ("ovsdb: /run/db.sock", "ovsdb", "unix:/PATH or tcp:ADDRESS:PORT"),
    "long interface": ("bridge: a-name-of-16-chr", "bridge", "1 to 15 characters"),
    "gateway as bridge": ("bridge: ovsnet0", "bridge", "gateway port's name"),
    "misspelt choice": ("encapsulation: vlxan", "encapsulation", "did you mean vxlan?"),
    "out of range": ("vni: 16777216", "vni", "from 0 to 16777215"),
    "boolean as number": ("vni: true", "vni", "found true"),
    "fraction": ("vni: 1.5", "vni", "a whole number from 0 to 16777215"),
    "not a number": ("reuseAfter: .nan", "reuseAfter", "from 0 to 86400"),
    "port of gre": ("{encapsulation: gre, udpPort: 4789}", "udpPort", "GRE has no UDP port"),
    "port of another": ("udpPort: 6081", "udpPort", "6081 is that of geneve"),
    "no list": ("podCIDRs: 10.0.0.0/8", "podCIDRs", "expected a list"),
    "host bits": ("podCIDRs: [10.244.1.1/24]", "podCIDRs[0]", "did you mean 10.244.1.0/24?"),
    "no prefix length": ("podCIDRs: [10.244.1.0]", "podCIDRs[0]", "write 10.244.1.0/NN"),
    "too small": ("podCIDRs: [10.244.1.0/30]", "podCIDRs[0]", "/29 is the smallest"),
    "too small for IPv6": ('podCIDRs: ["fd00::/126"]', "podCIDRs[0]", "/125 is the smallest"),
    "multicast": ("podCIDRs: [224.0.0.0/8]", "podCIDRs[0]", "has multicast or reserved addresses"),
    "everything": ("podCIDRs: [0.0.0.0/0]", "podCIDRs[0]", "has unspecified addresses"),
    "link-local inside": ("podCIDRs: [168.0.0.0/5]", "podCIDRs[0]", "has link-local addresses"),
    "overlap": ("podCIDRs: [10.1.0.0/16, 10.0.0.0/8]", "podCIDRs[1]", "overlaps 10.1.0.0/16"),
    "node within its pods": (
        "{nodeAddress: {address: 10.244.1.1}, podCIDRs: [10.244.1.0/24]}",
        "podCIDRs[0]",
        "contains the node's own address",
    ),
    "backward range": (
        "excludedAddresses: [10.0.0.9-10.0.0.1]",
        "excludedAddresses[0]",
        "mean 10.0.0.1-10.0.0.9?",
    ),
    "mixed range": ('excludedAddresses: ["10.0.0.9-fd00::1"]', "excludedAddresses[0]", "different families"),
    "excluded elsewhere": (
        "{podCIDRs: [10.244.1.0/24], excludedAddresses: [10.244.2.1]}",
        "excludedAddresses[0]",
        "lies in none of podCIDRs",
    ),
    "small mtu": ("mtu: 575", "mtu", "auto or a whole number from 576 to 65535"),
    "mtu below IPv6": ('{mtu: 1279, podCIDRs: ["fd00::/64"]}', "mtu", "at least 1280"),
    "no list of node ports' addresses": (
        "nodePortAddresses: primary",
        "nodePortAddresses",
        "expected a list",
    ),
    "no word for addresses": (
        "nodePortAddresses: [Primary]",
        "nodePortAddresses[0]",
        "a network such as 192.0.2.0/24, or primary, found 'Primary'",
    ),
    "one address for node ports": (
        "nodePortAddresses: [primary, 192.0.2.11]",
        "nodePortAddresses[1]",
        "write 192.0.2.11/NN",
    ),
    "host bits for node ports": (
        'nodePortAddresses: ["2001:db8::1/64"]',
        "nodePortAddresses[0]",
        "did you mean 2001:db8::/64?",
    ),
    "node ports on loopback": ("nodePortAddresses: [127.0.0.0/8]", "nodePortAddresses[0]", "never answer"),
    "node ports on loopback in IPv6": (
        'nodePortAddresses: ["::1/128"]',
        "nodePortAddresses[0]",
        "never answer",
    ),
    "node ports on nobody's address": (
        'nodePortAddresses: ["::/128"]',
        "nodePortAddresses[0]",
        "write ::/0 for all",
    ),
    "node ports on multicast": ("nodePortAddresses: [224.0.0.0/4]", "nodePortAddresses[0]", "no node has"),
    "one node port": ("nodePortRange: 30080", "nodePortRange", "a range of ports such as 30000-32767"),
    "node ports backwards": ("nodePortRange: 32767-30000", "nodePortRange", "did you mean 30000-32767?"),
    "node ports that are none": ("nodePortRange: 0-65536", "nodePortRange", "from 1 to 65535"),
    "more than anybody reads": ("policy: {logDenied: 101}", "policy.logDenied", "from 0 to 100"),
    "logged and left out": (
        "{policy: {logDenied: 10}, log: {level: warning}}",
        "policy.logDenied",
        "log.level warning leaves out",
    ),
    "yes": ("egress: {masquerade: 'yes'}", "egress.masquerade", "true or false"),
    "relative": ("store: {file: cluster}", "store.file", "an absolute path"),
    "two stores": ("store: {file: /a, kubernetes: {}}", "store", "file and kubernetes exclude one another"),
    "empty optional section": (
        "store:\n  kubernetes:\n",
        "store.kubernetes",
        "found nothing; `{}` takes the defaults",
    ),
    "no URL": (
        "store: {kubernetes: {server: 192.0.2.1}}",
        "store.kubernetes.server",
        "such as https://192.0.2.1:6443",
    ),
    "relative kubeconfig": (
        "store: {kubernetes: {kubeconfig: config}}",
        "store.kubernetes.kubeconfig",
        "an absolute path",
    ),
    "empty section": ("log:", "log", "found nothing"),
    "list as document": ("- 1", "", "expected keys with values"),
    "twice": ("vni: 1\nbridge: b\nvni: 2", "vni", "stands twice, first in line 1"),
    "merge": ("<<: {vni: 1}", "<<", "unknown key"),
    "alias": ("a: &x 1\nb: *x", "", "anchors and aliases"),
    "tag": ("vni: !!python/name:os.system", "", "not supported"),
    "two documents": ("vni: 1\n---\nvni: 2", "", "not YAML"),
    "not YAML": ("a: [1\nb: 2", "", "not YAML at column"),
    "nested": ("[" * 100_000, "", "nested more than 32 deep"),
    "control character": ("a: \x00", "", "not YAML"),
    "date": ("nodeName: 2024-01-02", "nodeName", "put it in quotes"),
    "key of two": ("[a, b]: 1", "", "a key must be a word"),
}


@pytest.mark.parametrize(("text", "path", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_with_its_path(text: str, path: str, words: str) -> None:
    problem = next(problem for problem in config.check(text) if problem.path == path)
    assert words in problem.text


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = "vni: -1\nmtu: 5\nbridge: 'a b'\negress:\n  noMasquerade: [10.0.0.0/8, 10.0.0.1/8]\n  x: 1\ncniSocket: a\n"
    found = [(problem.line, problem.path) for problem in config.check(text)]
    assert found == [
        (1, "vni"),
        (2, "mtu"),
        (3, "bridge"),
        (5, "egress.noMasquerade[1]"),
        (6, "egress.x"),
        (7, "cniSocket"),
    ]


def test_a_mistake_in_a_field_brings_no_second_one_between_fields() -> None:
    text = "podCIDRs: [10.244.1.0/24x]\nexcludedAddresses: [10.244.1.1]"
    assert [problem.path for problem in config.check(text)] == ["podCIDRs[0]"]


def test_load_names_the_file_and_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("vni: x\nmtu: y\n")
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert raised.value.message == f"{path}: 2 problems"
    assert raised.value.problems[0].startswith("line 1: vni: expected a whole number")
    assert len(raised.value.problems) == 2


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00bad"])
def test_a_file_that_is_none_is_an_error_with_a_hint(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "agent.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert str(path) in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize("text", ["# nothing", "reuseAfter: 60", "reuseAfter: 60.0", "store: {}", "vni: 77"])
def test_files_that_mean_the_same_have_one_digest(text: str) -> None:
    assert config.digest(config.parse(text)) == config.digest(Config())


def test_files_that_mean_something_else_have_other_digests() -> None:
    texts = [
        "",
        "vni: 5",
        "nodeName: node-a",
        "nodeName: node-b",
        "nodeAddress: {address: 192.0.2.11}",
        "nodeAddress: {routeTo: 192.0.2.11}",
        "podCIDRs: [10.244.1.0/24]",
        "podCIDRs: [10.244.1.0/24, 10.244.3.0/24]",
        "podCIDRs: [10.244.3.0/24, 10.244.1.0/24]",
        "excludedAddresses: [10.244.1.200-10.244.1.210]",
        "excludedAddresses: [10.244.1.200-10.244.1.211]",
        "nodePortAddresses: [primary]",
        "nodePortAddresses: [192.0.2.0/24]",
        "nodePortRange: 30000-31999",
        "nodePortRange: 30000-31998",
        "store: {kubernetes: {}}",
        "store: {kubernetes: {leftoverAfter: 60}}",
        "metrics: {port: 9100}",
        "healthz: {port: 9100}",
        "log: {level: debug}",
    ]
    assert len({config.digest(config.parse(text)) for text in texts}) == len(texts)


def test_a_bom_and_windows_lines_are_fine() -> None:
    assert config.parse("\ufeffvni: 5\r\nmtu: auto\r\n").vni == 5
