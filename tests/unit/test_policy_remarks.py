"""What is remarked on policies whose parts mean nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec

from ovsnet.policies import Policies
from ovsnet.policymodel import (
    Block,
    LabelledPod,
    NamedPort,
    Namespace,
    NetworkPolicy,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Selector,
)
from ovsnet.policyremarks import remarks

HTTP = PolicyPort(name="http")
EVERYBODY = PolicyPeer(pods=Selector())
BLOCK = PolicyPeer(block=Block(cidr=ipaddress.ip_network("192.0.2.0/24")))


def pod(name: str, number: int, *ports: str) -> LabelledPod:
    return LabelledPod(
        namespace="shop",
        name=name,
        ips=(ipaddress.ip_address(f"10.244.1.{number}"),),
        ports=tuple(NamedPort(name=each, port=8000 + number) for each in ports),
    )


def said(
    *pods: LabelledPod,
    ingress: Iterable[PolicyRule] | None = None,
    egress: Iterable[PolicyRule] | None = None,
    local: str = "shop/web",
) -> dict[str, tuple[str, ...]]:
    policy = NetworkPolicy(
        namespace="shop",
        name="p",
        pods=Selector(),
        ingress=None if ingress is None else tuple(ingress),
        egress=None if egress is None else tuple(egress),
    )
    policies, every, known = Policies(), {policy.key: policy}, {each.key: each for each in pods}
    here = {local: known[local].ips} if local in known else {}
    policies.update(every, {"shop": Namespace(name="shop")}, known, here, {})
    return remarks(policies, every, here, known)


def test_a_name_that_no_pod_has() -> None:
    rule = PolicyRule(ports=(PolicyPort(first=80, last=80), HTTP))
    assert said(pod("web", 2), ingress=[PolicyRule(), rule]) == {
        "shop/p": (
            "spec.ingress[1].ports: of the pods that the policy selects none has a port called http over TCP, or it "
            "stands for several; it allows nothing",
        )
    }
    assert said(pod("web", 2, "http"), ingress=[rule]) == {}
    assert said(pod("web", 2), pod("other", 3, "http"), ingress=[rule]) == {}, "a pod of another node has it"
    assert said(pod("web", 2), ingress=[rule], local="shop/elsewhere") == {}, "it is none of this node's pods"


def test_a_name_that_stands_for_several_numbers() -> None:
    ports = tuple(NamedPort(name="http", port=each, several=True) for each in (80, 81))
    web = msgspec.structs.replace(pod("web", 2), ports=ports)
    far = PolicyRule(peers=(EVERYBODY,), ports=(HTTP,))
    found = said(web, ingress=[PolicyRule(ports=(HTTP,))], egress=[far])["shop/p"]
    assert [line.split(".ports: ")[0] for line in found] == ["spec.egress[0]", "spec.ingress[0]"]
    assert all("or it stands for several; it allows nothing" in line for line in found)
    assert said(web, pod("other", 3, "http"), ingress=[PolicyRule(ports=(HTTP,))], egress=[far]) == {}


def test_a_name_that_nobody_at_the_other_end_has() -> None:
    rule = PolicyRule(peers=(EVERYBODY,), ports=(HTTP,))
    assert (
        "spec.egress[0].ports: no pod that the rule means" in said(pod("web", 2), egress=[rule])["shop/p"][0]
    )
    assert said(pod("web", 2, "http"), egress=[rule]) == {}
    assert said(pod("web", 2, "http"), egress=[PolicyRule(peers=(BLOCK,), ports=(HTTP,))]) != {}


def test_a_block_that_comes_to_thousands_of_ranges() -> None:
    block = ipaddress.ip_network("10.0.0.0/8")
    holes = tuple(ipaddress.ip_network(f"10.{each}.7.1/32") for each in range(150))
    peer = PolicyPeer(block=Block(cidr=block, excepts=holes))
    (line,) = said(pod("web", 2), ingress=[PolicyRule(peers=(peer,))])["shop/p"]
    assert line.startswith("spec.ingress[0].from: the ipBlock 10.0.0.0/8 with 150 exceptions comes to ")
    few = PolicyPeer(block=Block(cidr=block, excepts=holes[:9]))
    assert said(pod("web", 2), ingress=[PolicyRule(peers=(few,))]) == {}


def test_more_than_a_few_are_counted() -> None:
    rules = [PolicyRule(ports=(PolicyPort(name=f"p{each}"),)) for each in range(9)]
    lines = said(pod("web", 2), ingress=rules)["shop/p"]
    assert len(lines) == 6
    assert lines[-1] == "spec: and 4 more of this kind"
