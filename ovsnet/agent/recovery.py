"""Rows of pods that were lost while no agent ran, given back from what the container runtime has cached of their ADDs.

A cached result is a file: it may be old, restored from elsewhere, or wrong. The interface in the pod is not, so that is
asked whether the file is true. Owns nothing but what it complains of. Called by the agent's loop, once at its start.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence

from ovsnet import names, plan
from ovsnet.agent.complaints import Complaints
from ovsnet.cni.resultcache import Cached
from ovsnet.errors import HostFailure, OvsnetError, SwitchUnavailable
from ovsnet.host.pod import index_of
from ovsnet.host.worker import LinkWorker
from ovsnet.model import Pod
from ovsnet.rows import AddPort, PortRow, PortSpec, SetIdentity
from ovsnet.state import Topology
from ovsnet.switch.ovsdb import Ovsdb

log = logging.getLogger("ovsnet.pods")


class Recovery:
    """read: what the container runtime has cached of pods."""

    def __init__(self, *, ovsdb: Ovsdb, links: LinkWorker, read: Callable[[], Cached]) -> None:
        self._ovsdb = ovsdb
        self._links = links
        self._read = read
        self._complaints = Complaints(log)

    async def give_back(self, topo: Topology) -> None:
        """Gives rows to pods that have none, or an unmarked one, although their interface is there: the bridge was
        deleted while no agent ran, or the whole database is a new one, or somebody cleared external_ids.

        Whose an interface is only the runtime can tell then. To be called before the rows are read: afterwards all is
        as if they had never been away. What is wrong in the cache is told of and costs only its own pod the row.
        """
        rows = self._ovsdb.ports()
        marked = {name for name, row in rows.items() if row.role is not None}
        orphans = {names.host_interface(token) for token in await self._links.list_ours()} - marked
        if not orphans:
            return
        cached = self._read()
        true, refused = await self._verified([pod for pod in cached.pods if pod.port in orphans])
        refused += cached.refused
        lost = plan.lost_ports(rows, orphans, true, topo)
        for change in lost.changes:
            log.warning("port %s has lost its row; restoring it: %s", change.spec.name, _who(change.spec))
        refused += [*lost.refused, *await self._give([_again(change.spec, rows) for change in lost.changes])]
        given = {change.spec.name for change in lost.changes}
        refused += [
            f"port {name} has lost its mark, and nothing tells whose it is; delete the pod, then: "
            f"ovs-vsctl del-port {name}, and restart the agent"
            for name in sorted(orphans & rows.keys() - given)
        ]
        self._complaints.only("cached result", refused)

    async def _verified(self, cached: Sequence[Pod]) -> tuple[list[Pod], list[str]]:
        """Those that are as they are cached, or may be where none is known to be, and what is wrong with the others."""
        true: list[Pod] = []
        unsure: list[Pod] = []
        refused: list[str] = []
        for pod in dict.fromkeys(cached):
            try:
                words = await contradiction(pod, self._links)
            except PermissionError:
                unsure.append(pod)
                continue
            if words:
                what = f"pod {pod.title} does not get port {pod.port} by the runtime's cached result"
                refused.append(f"{what}: {words}")
            else:
                true.append(pod)
        known = {pod.port for pod in true}
        return true + [pod for pod in unsure if pod.port not in known], refused

    async def _give(self, changes: Sequence[AddPort | SetIdentity]) -> list[str]:
        """Rows for pods; what OVSDB refuses, in words. Raises OvsnetError while it can't take any."""
        try:
            if changes:
                await self._ovsdb.apply(changes)
        except SwitchUnavailable:
            raise
        except OvsnetError as error:
            if self._ovsdb.bridge() is None:
                raise
            if len(changes) == 1:
                (change,) = changes
                name = change.spec.name if isinstance(change, AddPort) else change.name
                return [f"port {name} does not get its row back: {error}"]
            # All or nothing: whoever is to blame, the others are served.
            return [refused for change in changes for refused in await self._give([change])]
        return []


async def contradiction(pod: Pod, links: LinkWorker) -> str:
    """What is wrong with the cached result, in words; "" if nothing is.

    Raises PermissionError for a namespace that the agent may not open, such as /proc/PID/ns/net from within its unit:
    then nobody can tell.
    """
    try:
        namespace = os.open(pod.netns, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        return f"{pod.netns}: {error}"
    try:
        seen = await links.inspect(namespace, pod.ifname)
    except (HostFailure, OSError) as error:
        return f"{pod.netns}: {error}"
    finally:
        os.close(namespace)
    if seen is None or not seen.peer or seen.peer != index_of(pod.port):
        return f"{pod.ifname} in {pod.netns} is not the other end of {pod.port}"
    if seen.mac != pod.mac:
        return f"the interface has MAC {seen.mac}, not {pod.mac}"
    if missing := set(pod.ips) - {address.ip for address in seen.addresses}:
        return f"the interface does not have {', '.join(sorted(map(str, missing)))}"
    return ""


def _again(spec: PortSpec, rows: Mapping[str, PortRow]) -> AddPort | SetIdentity:
    if spec.name in rows:
        return SetIdentity(name=spec.name, external_ids=spec.external_ids, reclaim=True)
    return AddPort(spec=spec)


def _who(spec: PortSpec) -> str:
    ids = spec.external_ids
    return f"pod {ids[names.KEY_NAMESPACE]}/{ids[names.KEY_POD]} with {ids[names.KEY_IPS]}"
