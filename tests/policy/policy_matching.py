"""What selectors, blocks and ports' names mean, on manifests: what the oracles of all kinds of policies share.

Imports nothing of ovsnet.
"""

from __future__ import annotations

from ipaddress import ip_network

from policy_world import Cluster, End, Node, Object, parsed, same_address

NAME_LABEL = "kubernetes.io/metadata.name"


def block_matches(block: Object, other: End) -> bool:
    if in_block(block, other.address):
        return True
    if not isinstance(other.who, Node) or not same_address(other.address, other.who.gateways):
        return False
    if any(parsed(other.address) in ip_network(each, strict=False) for each in block.get("except") or ()):
        return False
    family = parsed(other.address).version
    own = [each for each in other.who.addresses if parsed(each).version == family]
    return any(in_block(block, each) for each in own)


def in_block(block: Object, address: str) -> bool:
    it = parsed(address)
    return it in ip_network(block["cidr"], strict=False) and not any(
        it in ip_network(each, strict=False) for each in block.get("except") or ()
    )


def labels(manifest: Object) -> dict[str, str]:
    return manifest["metadata"].get("labels") or {}


def namespace_labels(cluster: Cluster, name: str) -> dict[str, str]:
    """With its name as a label, which the API server gives to every namespace."""
    for namespace in cluster.namespaces:
        if namespace["metadata"]["name"] == name:
            return {**labels(namespace), NAME_LABEL: name}
    raise ValueError(
        f"namespace {name!r}: a pod is there, but the cluster doesn't have it; add the Namespace"
    )


def selects(selector: Object, of: dict[str, str]) -> bool:
    """Everything in it must hold; an empty one selects all."""
    return all(
        of.get(label) == value for label, value in (selector.get("matchLabels") or {}).items()
    ) and all(_holds(each, of) for each in selector.get("matchExpressions") or ())


def _holds(expression: Object, of: dict[str, str]) -> bool:
    """What has no such label is NotIn anything."""
    label, operator, values = expression["key"], expression["operator"], expression.get("values") or ()
    match operator:
        case "In":
            return label in of and of[label] in values
        case "NotIn":
            return label not in of or of[label] not in values
        case "Exists":
            return label in of
        case "DoesNotExist":
            return label not in of
    raise ValueError(f"matchExpressions: operator {operator!r}; give In, NotIn, Exists or DoesNotExist")


def named_port(pod: Object, name: str, protocol: str) -> int | None:
    """The number behind a name in this pod. None: it has no such port, or one name for several numbers."""
    numbers = named_ports(pod, name, protocol)
    return next(iter(numbers)) if len(numbers) == 1 else None


def named_ports(pod: Object, name: str, protocol: str) -> set[int]:
    """All numbers behind a name in this pod: in each container a name is another.

    Init containers count if they go on running beside the others (restartPolicy: Always).
    """
    spec = pod["spec"]
    sidecars = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    return {
        port["containerPort"]
        for container in (*(spec.get("containers") or ()), *sidecars)
        for port in container.get("ports") or ()
        if port.get("name") == name and (port.get("protocol") or "TCP") == protocol
    }
