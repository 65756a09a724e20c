"""Manifests of policies, namespaces and pods, and what is read in them."""

from __future__ import annotations

import json
from typing import Any

from ovsnet.policymodel import LabelledPod, Namespace, NetworkPolicy
from ovsnet.store import manifest
from ovsnet.store.labelledpods import PodReader
from ovsnet.store.namespaces import NamespaceReader
from ovsnet.store.policies import PolicyReader

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector:
    matchLabels: {app: web, app.kubernetes.io/part-of: shop}
    matchExpressions:
    - {key: tier, operator: In, values: [front, edge]}
    - {key: canary, operator: DoesNotExist}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: proxy}}
    - namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [x]}]}
    - podSelector: {}
      namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: mon}}
    - ipBlock: {cidr: 10.1.2.3/8, except: [10.9.0.0/16, 10.1.0.0/16]}
    ports:
    - {port: 80}
    - {protocol: TCP, port: 8000, endPort: 8010}
    - {protocol: UDP, port: dns}
    - {protocol: SCTP}
  egress:
  - {}
  - to: [{ipBlock: {cidr: "2001:db8::/32"}}]
"""


def policies(*objects: object) -> tuple[list[NetworkPolicy], list[str]]:
    """Of manifests without a problem, and the remarks."""
    found = _contents(*objects)
    return list(manifest.of(found.objects, PolicyReader).values()), list(found.remarks)


def policy(spec: object, *expected: str) -> NetworkPolicy:
    """What is read of a policy with this spec; what it is told of has one of these texts each."""
    document = {"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec}
    if spec is None:
        del document["spec"]
    (found,), remarks = policies(document)
    assert len(remarks) == len(expected), remarks
    for remark, text in zip(remarks, expected, strict=True):
        assert remark.startswith("NetworkPolicy default/p: ")
        assert text in remark
    return found


def namespace(metadata: object, *expected: str) -> Namespace:
    """The same of a Namespace."""
    found = _contents({"kind": "Namespace", "metadata": metadata})
    assert list(found.remarks) == list(expected)
    (item,) = manifest.of(found.objects, NamespaceReader).values()
    return item


def pods(document: object) -> tuple[list[LabelledPod], list[str]]:
    found = _contents(document)
    return list(manifest.of(found.objects, PodReader).values()), list(found.remarks)


def problems(document: object) -> tuple[str, ...]:
    found = manifest.read(json.dumps(document), "a.yaml")
    assert not any(found.objects.values())
    return found.problems


def _contents(*objects: Any) -> manifest.Contents:
    # Not yaml.safe_dump, which writes aliases for what stands in there twice.
    found = manifest.read("\n---\n".join(json.dumps(each) for each in objects), "a.yaml")
    assert not found.problems
    return found
