"""CNI CHECK: what an attachment must look like, and the first difference in words.

Pure: compares what others have read. Each function raises AttachmentBroken or returns.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovsnet import state
from ovsnet.cni.protocol import Request
from ovsnet.errors import AttachmentBroken
from ovsnet.host.types import IPInterface, PodInterface
from ovsnet.model import IPAddress, Pod
from ovsnet.render import Lines
from ovsnet.rows import PortRow

_AGAIN = "delete the pod and let it be made again"


def row(pod: Pod, found: PortRow | None) -> None:
    """The Port row is there, says what it shall, and vswitchd has the port."""
    if found is None:
        raise AttachmentBroken(f"pod {pod.title}: port {pod.port} is not on the bridge", _AGAIN)
    if state.pod(found) != pod:
        raise AttachmentBroken(
            f"pod {pod.title}: the Port row of {pod.port} names another pod or address", _AGAIN
        )
    if found.ofport is None or found.ofport < 1:
        reason = found.error or "vswitchd has not looked at it"
        raise AttachmentBroken(f"pod {pod.title}: port {pod.port} does not work: {reason}", _AGAIN)


def flows(pod: Pod, installed: Lines | None, wanted: Lines) -> None:
    if installed != wanted:
        raise AttachmentBroken(
            f"pod {pod.title}: its flows are not installed", "the agent is writing them; repeat"
        )


def interface(
    pod: Pod, addresses: Iterable[IPInterface], gateways: Iterable[IPAddress], seen: PodInterface | None
) -> None:
    """The interface in the pod's namespace is up, with its MAC, addresses and default routes.

    gateways: none when another interface of the container may hold the default route.
    """
    if seen is None:
        raise AttachmentBroken(f"pod {pod.title}: {pod.netns} has no interface {pod.ifname}", _AGAIN)
    if not seen.up:
        raise AttachmentBroken(
            f"pod {pod.title}: {pod.ifname} is down", f"ip link set {pod.ifname} up, in the pod"
        )
    if seen.mac != pod.mac:
        raise AttachmentBroken(f"pod {pod.title}: {pod.ifname} has MAC {seen.mac}, not {pod.mac}", _AGAIN)
    for address in addresses:
        if address not in seen.addresses:
            raise AttachmentBroken(f"pod {pod.title}: {pod.ifname} has lost {address}", _AGAIN)
    for gateway in gateways:
        if gateway not in seen.gateways:
            raise AttachmentBroken(f"pod {pod.title}: no default route by {gateway}", _AGAIN)


def previous(pod: Pod, request: Request) -> None:
    """What the runtime remembers of the ADD is what we know."""
    if request.previous is None:
        return
    if not request.previous.has(pod.ifname):
        raise AttachmentBroken(f"pod {pod.title}: prevResult has no interface {pod.ifname}", _AGAIN)
    missing = set(pod.ips) - request.previous.addresses(pod.ifname)
    if missing:
        words = ", ".join(sorted(map(str, missing)))
        raise AttachmentBroken(f"pod {pod.title}: prevResult lacks its address {words}", _AGAIN)
