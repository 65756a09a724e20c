"""The configuration checker under arbitrary documents and single mutations of valid ones."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from ovsnet import config
from ovsnet.config import Config

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
KEYS = [
    "nodeAddress",
    "podCIDRs",
    "egress",
    "noMasquerade",
    "mtu",
    "log",
    "excludedAddresses",
    "nodePortAddresses",
    "nodePortRange",
    "address",
    "vni",
]
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=25,
)

ranges = st.lists(
    st.sampled_from(["10.244.1.0/24", "10.245.0.0/16", "192.168.4.0/29", "fd00:1::/64", "fd00:2::/112"]),
    unique=True,
    max_size=5,
)
valid = st.fixed_dictionaries(
    {"podCIDRs": ranges, "egress": st.fixed_dictionaries({}, optional={"masquerade": st.booleans()})},
    optional={
        "nodeName": st.from_regex(r"[a-z][a-z0-9]{0,20}", fullmatch=True),
        "nodeAddress": st.sampled_from(
            [{}, {"address": "192.0.2.1"}, {"interface": "eth0"}, {"routeTo": "2001:db8::1"}]
        ),
        "encapsulation": st.sampled_from(["vxlan", "geneve"]),
        "tunnels": st.sampled_from(["ports", "flow"]),
        "nodePortAddresses": st.lists(st.sampled_from(["primary", "192.0.2.0/24", "fe80::/10", "::/0"])),
        "nodePortRange": st.sampled_from(["1-65535", "30000-30000"]),
        "vni": st.integers(0, 2**24 - 1),
        # Not the other encapsulation's own port, which is refused.
        "udpPort": st.none() | st.integers(1, 65535).filter(lambda port: port not in (4789, 6081)),
        "reuseAfter": st.floats(0, 86400),
        "mtu": st.just("auto") | st.integers(1280, 65535),
        "log": st.sampled_from([{}, {"level": "debug"}, {"format": "json"}]),
    },
)


@given(documents)
def test_any_document_is_checked_without_a_crash(document: Any) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    for problem in config.check(text):
        assert problem.text
        assert "\n" not in str(problem).replace(problem.path, "")


@given(st.text(max_size=200) | st.text(alphabet="[]{}:-,&*!|>'\"%@`# \n\tab01.<", max_size=200))
def test_any_text_is_checked_without_a_crash(text: str) -> None:
    config.check(text)


@given(valid)
def test_what_is_valid_loads(document: dict[str, Any]) -> None:
    loaded = config.parse(yaml.safe_dump(document))
    assert [str(network) for network in loaded.pod_cidrs] == document["podCIDRs"]
    assert loaded.vni == document.get("vni", Config().vni)


WRONG = [{"an": "object"}, "\x07", -1, 1e300, True]
NEVER_A_MAPPING = WRONG[1:]


@given(valid, st.data())
def test_a_single_mutation_is_told_with_its_path(document: dict[str, Any], data: st.DataObject) -> None:
    document = copy.deepcopy(document)
    choice = data.draw(st.sampled_from([*document, "a new key", "a new key below", "a new range"]))
    if choice == "a new key":
        document["another"], path = 1, "another"
    elif choice == "a new key below":
        document["egress"]["another"], path = 1, "egress.another"
    elif choice == "a new range":
        document["podCIDRs"].append(data.draw(st.sampled_from(["10.0.0.1/8", "x", 7, None, [], "::/127"])))
        path = f"podCIDRs[{len(document['podCIDRs']) - 1}]"
    else:
        wrong = NEVER_A_MAPPING if isinstance(document[choice], dict) else WRONG
        document[choice], path = data.draw(st.sampled_from(wrong)), choice
    assert {problem.path for problem in config.check(yaml.safe_dump(document))} == {path}
