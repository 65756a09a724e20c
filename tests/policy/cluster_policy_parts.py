"""Hypothesis strategies of ClusterNetworkPolicies: `clusters` puts them into clusters.

Of the same small alphabets as `policy_parts`, and few priorities, so that several policies have one. Everything is what
the API server accepts.
"""

from __future__ import annotations

from hypothesis import strategies as st
from policy_parts import BLOCKS, NAMES, NUMBERS, namespace_selectors, pod_selectors
from policy_world import Object

PRIORITIES = (0, 1, 1, 7, 1000)


def _pods() -> st.SearchStrategy[Object]:
    return st.one_of(
        st.fixed_dictionaries({"namespaces": namespace_selectors}),
        st.fixed_dictionaries(
            {
                "pods": st.fixed_dictionaries(
                    {"podSelector": pod_selectors}, optional={"namespaceSelector": namespace_selectors}
                )
            }
        ),
    )


def _places() -> st.SearchStrategy[Object]:
    """Peers that are no pods, of egress rules only."""
    networks = st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3, unique=True)
    return st.one_of(
        st.fixed_dictionaries({"networks": networks}), st.fixed_dictionaries({"nodes": pod_selectors})
    )


def _numbered() -> st.SearchStrategy[Object]:
    ranges = ((80, 81), (81, 8080), (1, 65535), (79, 8081))
    port = st.one_of(
        st.sampled_from(NUMBERS).map(lambda number: {"number": number}),
        st.sampled_from(ranges).map(lambda each: {"range": {"start": each[0], "end": each[1]}}),
    )
    return st.tuples(st.sampled_from(("tcp", "udp", "sctp")), port).map(
        lambda made: {made[0]: {"destinationPort": made[1]}}
    )


@st.composite
def _rules(draw: st.DrawFn, direction: str) -> Object:
    made: Object = {"action": draw(st.sampled_from(("Accept", "Deny", "Pass")))}
    peers = _pods() if direction == "ingress" else _pods() | _places()
    found = draw(st.lists(peers, min_size=1, max_size=2))
    made["from" if direction == "ingress" else "to"] = found
    if draw(st.booleans()):
        protocols = _numbered()
        if all(each.keys() <= {"namespaces", "pods"} for each in found):
            protocols |= st.sampled_from(NAMES).map(lambda name: {"destinationNamedPort": name})
        made["protocols"] = draw(st.lists(protocols, min_size=1, max_size=2))
    if draw(st.booleans()):
        made["name"] = "why"
    return made


def cluster_specs() -> st.SearchStrategy[Object]:
    return st.fixed_dictionaries(
        {
            "tier": st.sampled_from(("Admin", "Baseline")),
            "priority": st.sampled_from(PRIORITIES),
            "subject": _pods(),
        },
        optional={
            "ingress": st.lists(_rules("ingress"), max_size=3),
            "egress": st.lists(_rules("egress"), max_size=3),
        },
    )


def cluster_policy(name: str, spec: Object) -> Object:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
