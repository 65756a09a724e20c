"""Hypothesis strategies of NetworkPolicies and of what they are made of: `clusters` puts them into clusters.

Small alphabets, so that things meet: four labels for pods and namespaces alike, few ports, networks that overlap
around the addresses that `clusters` gives. Everything is what the API server accepts. The simplest comes first, which
is what hypothesis shrinks to.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from hypothesis import strategies as st
from policy_world import Object

NAMESPACES = ("red", "blue", "green")
NUMBERS = (80, 81, 8080)
NAMES = ("http", "dns")
BLOCKS = (
    *("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "10.1.0.0/24", "10.2.0.0/24", "10.1.0.0/29"),
    *(
        "10.1.0.4/30",
        "10.1.0.2/31",
        "10.2.0.0/30",
        "10.1.0.1/32",
        "10.1.0.3/32",
        "10.2.0.1/32",
        "10.2.0.2/32",
    ),
    *("192.168.0.0/24", "192.168.0.1/32", "192.168.0.2/32", "203.0.113.0/24", "203.0.113.7/32"),
    *("::/0", "::/1", "fd00::/8", "fd00::/16", "fd00:1::/64", "fd00:2::/64", "fd00:1::/125", "fd00:1::4/126"),
    *("fd00:1::2/127", "fd00:2::/126", "fd00:1::1/128", "fd00:1::3/128", "fd00:2::1/128", "fd00:2::2/128"),
    *("fd99::/64", "fd99::1/128", "fd99::2/128", "2001:db8::/32", "2001:db8::7/128"),
)


def labels() -> st.SearchStrategy[dict[str, str]]:
    """Of pods and of namespaces: who confuses the two is found out."""
    return st.fixed_dictionaries(
        {}, optional={"app": st.sampled_from(("web", "db")), "tier": st.sampled_from(("web", "db"))}
    )


def _expressions(values: tuple[str, ...], *keys: str) -> st.SearchStrategy[Object]:
    key = st.sampled_from(keys)
    some = st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)
    return st.one_of(
        st.fixed_dictionaries({"key": key, "operator": st.sampled_from(("Exists", "DoesNotExist"))}),
        st.fixed_dictionaries({"key": key, "operator": st.sampled_from(("In", "NotIn")), "values": some}),
    )


def _selectors(named: bool) -> st.SearchStrategy[Object]:
    """named: of namespaces, which have their names as labels as well."""
    expressions = _expressions(("web", "db", "none"), "app", "tier")
    if named:
        expressions |= _expressions(NAMESPACES, "kubernetes.io/metadata.name")
    return st.one_of(
        st.builds(dict),
        st.fixed_dictionaries({"matchLabels": labels()}),
        st.fixed_dictionaries({"matchExpressions": st.lists(expressions, min_size=1, max_size=2)}),
        st.fixed_dictionaries(
            {"matchLabels": labels(), "matchExpressions": st.lists(expressions, min_size=1, max_size=1)}
        ),
    )


pod_selectors = _selectors(named=False)
namespace_selectors = _selectors(named=True)


def _inside(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    """The API takes no `except` that is all of the block."""
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner != outer and inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner != outer and inner.subnet_of(outer)
    return False


PARTS = {
    block: tuple(each for each in BLOCKS if _inside(ip_network(each), ip_network(block))) for block in BLOCKS
}
"""What may be excepted from each."""


@st.composite
def blocks(draw: st.DrawFn) -> Object:
    made: Object = {"cidr": draw(st.sampled_from(BLOCKS))}
    parts = PARTS[made["cidr"]]
    if draw(st.booleans()) and parts:
        made["except"] = draw(st.lists(st.sampled_from(parts), max_size=3, unique=True))
    return made


def peers() -> st.SearchStrategy[Object]:
    return st.one_of(
        st.fixed_dictionaries({"podSelector": pod_selectors}),
        st.fixed_dictionaries({"namespaceSelector": namespace_selectors}),
        st.fixed_dictionaries({"podSelector": pod_selectors, "namespaceSelector": namespace_selectors}),
        st.fixed_dictionaries({"ipBlock": blocks()}),
    )


def _protocol() -> dict[Any, st.SearchStrategy[str]]:
    return {"protocol": st.sampled_from(("TCP", "UDP", "SCTP"))}


def ports() -> st.SearchStrategy[Object]:
    """Of rules: any port, a number, a name, a range."""
    ranges = ((80, 81), (80, 80), (81, 8080), (1, 65535), (79, 8081), (8080, 8081))
    return st.one_of(
        st.fixed_dictionaries({"port": st.sampled_from(NUMBERS)}, optional=_protocol()),
        st.fixed_dictionaries({"port": st.sampled_from(NAMES)}, optional=_protocol()),
        st.fixed_dictionaries({}, optional=_protocol()),
        st.tuples(st.sampled_from(ranges), st.fixed_dictionaries({}, optional=_protocol())).map(
            lambda made: {"port": made[0][0], "endPort": made[0][1], **made[1]}
        ),
    )


def _some(each: st.SearchStrategy[Object]) -> st.SearchStrategy[list[Object] | None]:
    """Mostly one or two; now and then an empty list, and None for a field that is not there."""
    few = st.lists(each, min_size=1, max_size=2)
    return st.one_of(st.none(), few, few, few, st.builds(list))


def _present(**fields: Any) -> Object:
    return {name.rstrip("_"): value for name, value in fields.items() if value is not None}


def rules(direction: str) -> st.SearchStrategy[Object]:
    """Without peers or ports: all of them, and so with an empty list."""
    field = "from_" if direction == "ingress" else "to"
    return st.tuples(_some(peers()), _some(ports())).map(
        lambda made: _present(**{field: made[0]}, ports=made[1])
    )


def specs() -> st.SearchStrategy[Object]:
    """Of policies. Where policyTypes has no Egress, or there is none at all, `egress` may still be there."""
    types: tuple[list[str] | None, ...] = (
        None,
        [],
        ["Ingress"],
        ["Egress"],
        ["Ingress", "Egress"],
        ["Egress", "Ingress"],
    )
    return st.builds(
        _present,
        podSelector=pod_selectors,
        policyTypes=st.sampled_from(types).map(lambda each: None if each is None else list(each)),
        ingress=_some(rules("ingress")),
        egress=_some(rules("egress")),
    )


def policy(namespace: str, name: str, spec: Object) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
