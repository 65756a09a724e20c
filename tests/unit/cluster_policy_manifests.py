"""Manifests of ClusterNetworkPolicies, and what is read in them."""

from __future__ import annotations

import json
from typing import Any

from ovsnet.policymodel import ClusterNetworkPolicy
from ovsnet.store import manifest
from ovsnet.store.clusterpolicies import ClusterPolicyReader

POLICY = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: lockdown}
spec:
  tier: Admin
  priority: 10
  subject:
    pods:
      namespaceSelector: {matchLabels: {team: shop}}
      podSelector: {matchLabels: {app: web}}
  ingress:
  - name: monitoring
    action: Accept
    from:
    - namespaces: {matchLabels: {team: mon}}
    - pods: {podSelector: {matchLabels: {app: proxy}}}
    protocols:
    - tcp: {destinationPort: {number: 80}}
    - udp: {destinationPort: {range: {start: 53, end: 54}}}
    - destinationNamedPort: http
  - action: Deny
    from: [{namespaces: {}}]
  egress:
  - action: Pass
    to:
    - nodes: {matchLabels: {role: infra}}
    - networks: [10.0.0.0/8, "fd00::/8"]
"""
SPEC: dict[str, Any] = {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}}
"""Without rules."""


def read(document: object) -> tuple[ClusterNetworkPolicy | None, list[str]]:
    """Of a manifest without a problem, and the remarks."""
    found = manifest.read(json.dumps(document), "a.yaml")
    assert not found.problems
    policies = list(manifest.of(found.objects, ClusterPolicyReader).values())
    return (policies[0] if policies else None), list(found.remarks)


def cluster_policy(spec: object, *expected: str) -> ClusterNetworkPolicy:
    """What is read of a policy with this spec; what it is told of has one of these texts each."""
    found, remarks = read({"kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
    assert found is not None
    assert len(remarks) == len(expected), remarks
    for remark, text in zip(remarks, expected, strict=True):
        assert remark.startswith("ClusterNetworkPolicy p: spec")
        assert text in remark
    return found


def problems(document: object) -> tuple[str, ...]:
    found = manifest.read(json.dumps(document), "a.yaml")
    assert not any(found.objects.values())
    return found.problems
