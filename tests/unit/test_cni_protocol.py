"""CNI requests: what is required, what is refused with which code, what is understood."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ovsnet.cni import netconf, protocol
from ovsnet.cni.netconf import Attachment
from ovsnet.cni.protocol import Command, Request
from ovsnet.errors import OvsnetError, RequestError

CONTAINER = {
    "CNI_CONTAINERID": "c0ffee",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/a",
    "CNI_PATH": "/opt/cni/bin",
}
PREVIOUS = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "veth1"},
        {"name": "eth0", "mac": "0A:58:0A:F4:01:05", "sandbox": "/run/netns/a"},
    ],
    "ips": [
        {"address": "10.244.1.5/24", "gateway": "10.244.1.1", "interface": 1},
        {"address": "10.9.9.9/32"},
    ],
}


def config(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "ovsnet", "type": "ovsnet", **keys}


def ask(
    command: str, variables: dict[str, str] | None = None, stdin: Any = None, fd: int | None = 9
) -> Request:
    """A request with sound variables but those given; stdin: bytes or what is to be JSON."""
    data = stdin if isinstance(stdin, bytes) else json.dumps(config() if stdin is None else stdin).encode()
    merged = {name: value for name, value in (CONTAINER | (variables or {})).items() if value}
    return protocol.parse({"CNI_COMMAND": command, **merged}, data, fd)


def refusal(
    command: str, variables: dict[str, str] | None = None, stdin: Any = None, fd: int | None = 9
) -> OvsnetError:
    with pytest.raises(RequestError) as caught:
        ask(command, variables, stdin, fd)
    return caught.value


def test_an_add_is_understood() -> None:
    request = ask(
        "ADD",
        {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=;FOO=bar"},
        config(
            dns={"nameservers": ["10.96.0.10"]}, runtimeConfig={"portMappings": [{"hostPort": 80}]}, mtu=9
        ),
    )
    assert (request.command, request.container, request.ifname) == (Command.ADD, "c0ffee", "eth0")
    assert (request.netns, request.netns_fd, request.path) == ("/run/netns/a", 9, ("/opt/cni/bin",))
    assert (request.args.pod_namespace, request.args.pod_name, request.args.pod_uid) == ("shop", "web-0", "")
    assert request.title == "shop/web-0 (eth0)"
    assert request.config.dns is not None
    assert request.config.dns.nameservers == ("10.96.0.10",)
    assert (request.addresses, request.mac, request.previous) == ((), None, None)


ENVIRONMENT = [
    ("", {}, "CNI_COMMAND"),
    ("FROB", {}, "CNI_COMMAND"),
    ("add", {}, "CNI_COMMAND"),
    (
        "ADD",
        {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""},
        "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME",
    ),
    ("CHECK", {"CNI_NETNS": ""}, "CNI_NETNS"),
    (
        "DEL",
        {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""},
        "CNI_CONTAINERID, CNI_IFNAME: missing",
    ),
    ("GC", {"CNI_PATH": ""}, "CNI_PATH"),
    ("ADD", {"CNI_CONTAINERID": "../etc"}, "CNI_CONTAINERID"),
    ("ADD", {"CNI_CONTAINERID": "-x"}, "CNI_CONTAINERID"),
    ("DEL", {"CNI_CONTAINERID": "a b"}, "CNI_CONTAINERID"),
    ("ADD", {"CNI_CONTAINERID": "a\n"}, "CNI_CONTAINERID"),
    ("ADD", {"CNI_IFNAME": "0123456789abcdef"}, "CNI_IFNAME"),
    ("ADD", {"CNI_IFNAME": "a/b"}, "CNI_IFNAME"),
    ("ADD", {"CNI_IFNAME": "a:b"}, "CNI_IFNAME"),
    ("ADD", {"CNI_IFNAME": "a b"}, "CNI_IFNAME"),
    ("ADD", {"CNI_IFNAME": "eth0\n"}, "CNI_IFNAME"),
    ("ADD", {"CNI_IFNAME": "eth%d"}, "CNI_IFNAME"),
    ("ADD", {"CNI_IFNAME": "."}, "CNI_IFNAME"),
    ("ADD", {"CNI_IFNAME": ".."}, "CNI_IFNAME"),
    ("ADD", {"CNI_IFNAME": "\udcff"}, "CNI_IFNAME"),
    (
        "ADD",
        {"CNI_CONTAINERID": "-x", "CNI_IFNAME": "a/b"},
        "CNI_CONTAINERID: '-x' is not a container ID; CNI_IFNAME",
    ),
    ("ADD", {"CNI_NETNS": "run/netns/a"}, "CNI_NETNS"),
    ("ADD", {"CNI_NETNS": "/run/\udcff"}, "CNI_NETNS"),
    ("ADD", {"CNI_ARGS": "FOO"}, "CNI_ARGS"),
    ("ADD", {"CNI_ARGS": "=1"}, "CNI_ARGS"),
    ("ADD", {"CNI_ARGS": "A=1;;"}, "CNI_ARGS"),
    ("ADD", {"CNI_ARGS": "K8S_POD_NAME=a\nb"}, "CNI_ARGS"),
    ("ADD", {"CNI_ARGS": "FOO=BAR"}, "unknown FOO"),
    ("ADD", {"CNI_ARGS": "IP=10.1.2"}, "CNI_ARGS: IP"),
    ("ADD", {"CNI_ARGS": "MAC=01:00:00:00:00:01"}, "CNI_ARGS: MAC"),
]


@pytest.mark.parametrize(("command", "variables", "said"), ENVIRONMENT)
def test_a_fault_in_the_environment_is_code_4_and_names_the_variable(
    command: str, variables: dict[str, str], said: str
) -> None:
    error = refusal(command, variables)
    assert error.cni_code == 4
    assert said in error.message


@pytest.mark.parametrize(
    ("command", "stdin", "code", "said"),
    [
        ("ADD", b"", 6, "no network configuration"),
        ("ADD", b"{", 6, "malformed|truncated"),
        ("ADD", b"[]", 6, "not a JSON object"),
        ("ADD", b'{"cniVersion": "\xff"}', 6, ""),
        ("DEL", b'{"x": ' + b"[" * 100_000, 6, "nested too deeply"),
        ("ADD", {"name": "a", "type": "ovsnet"}, 1, "0.1.0.*0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        ("ADD", config(cniVersion="0.2.0"), 1, "'0.2.0'.*0.3.1"),
        ("DEL", config(cniVersion="2.0.0"), 1, "'2.0.0'"),
        ("CHECK", config(cniVersion="0.3.1"), 1, "CHECK.*0.4.0"),
        ("GC", config(cniVersion="1.0.0"), 1, "GC.*1.1.0"),
        ("STATUS", config(cniVersion="1.0.0"), 1, "STATUS.*1.1.0"),
        ("ADD", config(ipam={"type": "host-local"}), 2, "ipam.*host-local"),
        ("STATUS", config(ipam={"type": "host-local"}), 2, "ipam.*host-local"),
        ("ADD", config(name=""), 7, "name"),
        ("ADD", config(name="a/b"), 7, "name"),
        ("ADD", config(name=5), 7, "^name: "),
        ("ADD", config(dns={"search": [1]}), 7, r"^dns.search\[0\]: "),
        ("ADD", config(agentSocket=7), 7, "^agentSocket: "),
        ("ADD", config(runtimeConfig={"ips": "10.1.1.1"}), 7, "^runtimeConfig.ips: "),
        (
            "ADD",
            config(runtimeConfig={"ips": ["10.1.1.1", "10.1.1.300"]}),
            7,
            r"^runtimeConfig.ips\[1\]: '10.1.1.300'",
        ),
        ("ADD", config(runtimeConfig={"ips": ["fe80::1%eth0"]}), 7, r"^runtimeConfig.ips\[0\]: "),
        ("ADD", config(runtimeConfig={"ips": ["10.1.1.1", "10.1.1.1/24"]}), 7, "twice"),
        ("ADD", config(runtimeConfig={"mac": "nonsense"}), 7, "^runtimeConfig.mac: 'nonsense'"),
        ("ADD", config(runtimeConfig={"mac": "01:00:5e:00:00:01"}), 7, "^runtimeConfig.mac: "),
        ("ADD", config(runtimeConfig=[]), 7, "^runtimeConfig: "),
        ("ADD", config(args={"cni": {"ips": [4]}}), 7, r"^args.cni.ips\[0\]: "),
        ("ADD", config(prevResult=[]), 7, "^prevResult: "),
        ("ADD", config(prevResult={"interfaces": [{}]}), 7, r"^prevResult\.?.*name"),
        ("ADD", config(prevResult={"ips": [{"address": "x"}]}), 7, r"^prevResult.ips\[0\].address: "),
        ("ADD", config(prevResult={"ips": [{"address": "10.1.1.1/24", "interface": 0}]}), 7, "interface: 0"),
        ("CHECK", config(), 7, "^prevResult: missing"),
        ("GC", config(), 7, "cni.dev/valid-attachments: missing; nothing was removed"),
        ("GC", config(**{"cni.dev/valid-attachments": None}), 7, "missing"),
        ("GC", config(**{"cni.dev/valid-attachments": [{"containerID": "a"}]}), 7, "ifname"),
        ("GC", config(**{"cni.dev/valid-attachments": {}}), 7, "cni.dev/valid-attachments"),
    ],
)
def test_a_fault_in_the_configuration(command: str, stdin: Any, code: int, said: str) -> None:
    error = refusal(command, stdin=stdin)
    assert error.cni_code == code, error
    with pytest.raises(type(error), match=f"(?s){said}"):
        raise error


LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("variables", "keys"),
    [
        ({"CNI_ARGS": LONG}, {}),
        ({"CNI_ARGS": f"{LONG}=1"}, {}),
        ({"CNI_ARGS": f"IP={LONG}"}, {}),
        ({"CNI_ARGS": f"MAC={LONG}"}, {}),
        ({"CNI_COMMAND": LONG}, {}),
        ({"CNI_CONTAINERID": f"/{LONG}"}, {}),
        ({"CNI_IFNAME": LONG}, {}),
        ({"CNI_NETNS": LONG}, {}),
        ({"CNI_NETNS": f"/{LONG}", "OVSNET_NETNS_ERROR": LONG}, {}),
        ({}, {"cniVersion": LONG}),
        ({}, {"name": f"/{LONG}"}),
        ({}, {"ipam": {"type": LONG}}),
        ({}, {"runtimeConfig": {"ips": [LONG]}}),
        ({}, {"runtimeConfig": {"mac": LONG}}),
        ({}, {"prevResult": {"ips": [{"address": LONG}]}}),
    ],
)
def test_of_what_is_long_an_error_repeats_the_beginning(
    variables: dict[str, str], keys: dict[str, Any]
) -> None:
    """It goes into the runtime's Events and into the log."""
    document = config(**keys)
    error = refusal("ADD", variables, document, 9 if "OVSNET_NETNS_ERROR" not in variables else None)
    assert "x" * 90 in error.message
    assert re.search(r"\.\.\. \(10000\d characters\)", error.message)
    assert len(error.message) < 400
    assert len(netconf.version_of(json.dumps(document).encode())) < 10


def test_a_title_is_as_long_as_a_pods_name_may_be() -> None:
    names = {"K8S_POD_NAMESPACE": "n" * 63, "K8S_POD_NAME": "p" * 253}
    args = ";".join(f"{name}={value}" for name, value in names.items())
    assert ask("ADD", {"CNI_ARGS": args}).title == f"{'/'.join(names.values())} (eth0)"
    assert len(ask("ADD", {"CNI_ARGS": f"K8S_POD_NAME={LONG}"}).title) < 400
    assert len(ask("STATUS", stdin=config(name=LONG)).title) < 400


def test_a_namespace_that_could_not_be_opened_says_why() -> None:
    error = refusal("ADD", {"OVSNET_NETNS_ERROR": "No such file or directory"}, fd=None)
    assert error.cni_code == 4
    assert error.message == "CNI_NETNS: /run/netns/a: No such file or directory"


def test_a_del_needs_no_more_than_the_attachment() -> None:
    request = ask("DEL", {"CNI_NETNS": ""}, config(runtimeConfig=[], prevResult=7, args=""), fd=None)
    assert (request.netns, request.netns_fd) == ("", None)
    assert ask("DEL", {"CNI_NETNS": "/gone"}, fd=None).netns == ""


def test_a_status_needs_nothing_but_a_configuration() -> None:
    nothing = dict.fromkeys(CONTAINER, "")
    assert ask("STATUS", nothing).command is Command.STATUS


@pytest.mark.parametrize(
    ("keys", "args", "wanted"),
    [
        ({"runtimeConfig": {"ips": ["10.1.1.9/24", "fd00::9"]}}, "", [("10.1.1.9", 24), ("fd00::9", None)]),
        ({"args": {"cni": {"ips": ["10.1.1.8"]}}}, "", [("10.1.1.8", None)]),
        ({}, "IP=10.1.1.7/24,fd00::7/64", [("10.1.1.7", 24), ("fd00::7", 64)]),
        (
            {"runtimeConfig": {"ips": ["10.1.1.9"]}, "args": {"cni": {"ips": ["10.1.1.8"]}}},
            "",
            [("10.1.1.9", None)],
        ),
        (
            {"runtimeConfig": {"ips": []}, "args": {"cni": {"ips": ["10.1.1.8"]}}},
            "IP=10.1.1.7",
            [("10.1.1.8", None)],
        ),
        ({"runtimeConfig": None, "args": None, "dns": None, "ipam": None}, "", []),
    ],
)
def test_addresses_asked_for(keys: dict[str, Any], args: str, wanted: list[tuple[str, int | None]]) -> None:
    request = ask("ADD", {"CNI_ARGS": args}, config(**keys))
    assert [(str(each.address), each.prefix) for each in request.addresses] == wanted


@pytest.mark.parametrize(
    ("keys", "args"),
    [
        ({"runtimeConfig": {"mac": "0A-58-0a-f4-01-09"}, "args": {"cni": {"mac": "0a:00:00:00:00:01"}}}, ""),
        ({"args": {"cni": {"mac": "0a:58:0a:f4:01:09"}}}, "MAC=0a:00:00:00:00:01"),
        ({}, "MAC=0a:58:0a:f4:01:09"),
    ],
)
def test_the_mac_asked_for(keys: dict[str, Any], args: str) -> None:
    request = ask("ADD", {"CNI_ARGS": args}, config(**keys))
    assert request.mac is not None
    assert request.mac.mac == "0a:58:0a:f4:01:09"


def test_check_knows_what_add_answered() -> None:
    previous = ask("CHECK", stdin=config(prevResult=PREVIOUS)).previous
    assert previous is not None
    assert {str(ip) for ip in previous.addresses("eth0")} == {"10.244.1.5"}
    assert previous.has("eth0")
    assert not previous.has("veth1"), "it is on the node, not in the container"
    assert previous.raw == PREVIOUS


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_keeps_what_is_listed(key: str) -> None:
    request = ask(
        "GC", dict.fromkeys(("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"), ""), config(**{key: []})
    )
    assert request.valid == frozenset()
    listed = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]
    valid = ask("GC", stdin=config(**{key: listed})).valid
    assert valid == {Attachment(container="a", ifname="eth0"), Attachment(container="b", ifname="net1")}


def test_gc_keeps_what_either_spelling_lists() -> None:
    one, other = [{"containerID": "a", "ifname": "eth0"}], [{"containerID": "b", "ifname": "eth0"}]
    keys = {"cni.dev/valid-attachments": one, "cni.dev/attachments": other}
    assert {each.container for each in ask("GC", stdin=config(**keys)).valid} == {"a", "b"}


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "0.4.0", "name": 5}', "0.4.0"),
        (b"{", "1.1.0"),
        (b'{"cniVersion": 4}', "1.1.0"),
        (b"", "1.1.0"),
    ],
)
def test_an_error_is_in_the_configurations_version(stdin: bytes, version: str) -> None:
    assert netconf.version_of(stdin) == version


VARIABLES = st.dictionaries(
    st.sampled_from([*CONTAINER, "CNI_COMMAND", "CNI_ARGS", "OVSNET_NETNS_ERROR"]), st.text(max_size=20)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "name",
    "type",
    "dns",
    "ipam",
    "runtimeConfig",
    "args",
    "prevResult",
    "agentSocket",
    "cni.dev/valid-attachments",
]


@given(command=st.sampled_from(Command), variables=VARIABLES, stdin=st.binary(max_size=60))
@example(Command.ADD, {}, b'{"cniVersion": "1.1.0", "name": "\\ud800"}')
def test_any_bytes_make_a_request_or_a_clear_error(
    command: Command, variables: dict[str, str], stdin: bytes
) -> None:
    with contextlib.suppress(RequestError):
        protocol.parse({"CNI_COMMAND": command.value} | CONTAINER | variables, stdin, 9)


@given(command=st.sampled_from(Command), keys=st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_values_make_a_request_or_a_clear_error(command: Command, keys: dict[str, Any]) -> None:
    with contextlib.suppress(RequestError):
        ask(command.value, stdin=config(**keys))
    with contextlib.suppress(RequestError):
        ask(command.value, stdin=config(prevResult=keys, runtimeConfig=keys, args={"cni": keys}))
