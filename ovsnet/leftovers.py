"""This node's ports against the Pods that the API server says are its own: what one has and the other does not.

Pure. The sandbox of a Pod is the container that has its addresses: others under its name are earlier ones, of a Pod
that had the name before or of the same one, which no UID would tell from it. Attachments without Kubernetes' arguments
are nobody's business here. Called by `agent.leftovers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ovsnet.model import Frozen, IPAddress, OwnPod, Pod

_CONTAINER = 13
"""Characters of a container's ID, as crictl shows and takes it."""


class Stray(Frozen):
    """subject: port or Pod. what: is not right, in words. todo: against that."""

    subject: str
    what: str
    todo: str

    @property
    def words(self) -> str:
        return f"{self.subject} {self.what}; {self.todo}"


class Strays(Frozen):
    """ports: attachments of Pods that are not there, by port. pods: Pods without an attachment, by key."""

    ports: Mapping[str, Stray] = {}
    pods: Mapping[str, Stray] = {}


def strays(attached: Iterable[Pod], pods: Mapping[str, OwnPod | None]) -> Strays:
    """attached: all attachments of this node. pods: all Pods of this node by key; None of one that can't be read."""
    by_key: dict[str, list[Pod]] = {}
    for each in attached:
        if each.namespace:
            by_key.setdefault(each.pod_key, []).append(each)
    left = [
        _left(each, "the API server has no Pod of that name on this node")
        for key, found in by_key.items()
        if key not in pods
        for each in found
    ]
    without: dict[str, Stray] = {}
    for key, pod in pods.items():
        if pod is None or not pod.ips:
            continue
        found = by_key.get(key, [])
        missing = [ip for ip in pod.ips if all(ip not in each.ips for each in found)]
        if missing:
            without[key] = _without(pod, missing, found)
        else:
            why = f"the Pod's sandbox is another one, with {_text(pod.ips)}"
            left += [_left(each, why) for each in _earlier(pod, found)]
    return Strays(ports=dict(left), pods=without)


def _earlier(pod: OwnPod, found: Sequence[Pod]) -> list[Pod]:
    """Attachments of containers that are not the Pod's, which has an address of its own."""
    sandboxes = {each.container for each in found if set(each.ips) & set(pod.ips)}
    return [each for each in found if each.container not in sandboxes]


def _left(pod: Pod, why: str) -> tuple[str, Stray]:
    return pod.port, Stray(
        subject=f"pod {pod.title}: port {pod.port} with {_text(pod.ips)}",
        what=f"is left over: {why}",
        todo=f"if its sandbox is there, crictl rmp --force {pod.container[:_CONTAINER]} ends it; else "
        "docs/troubleshooting.md, A pod's port that is left over",
    )


def _without(pod: OwnPod, missing: Sequence[IPAddress], found: Sequence[Pod]) -> Stray:
    others = [ip for each in found for ip in each.ips]
    instead = f", but the pod's have {_text(others)}" if others else ""
    return Stray(
        subject=f"pod {pod.key}",
        what=f"runs on this node with {_text(pod.ips)} by the API server's word, and no port here has {_text(missing)}"
        + instead,
        todo="delete the pod, so that it is made anew",
    )


def _text(ips: Iterable[IPAddress]) -> str:
    return " ".join(map(str, ips))
