"""The store that the configuration asks for.

Owns the choice, and what messages call what was chosen. The `kubernetes` store is imported only where it is chosen: it
brings an HTTP client along, which takes memory and time. Called by the agent and by the inspection commands.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ovsnet.config import Config
from ovsnet.configstore import Store as Settings
from ovsnet.errors import StoreError
from ovsnet.store import Facts, OwnPods, Snapshot, Store
from ovsnet.store.file import FileStore, Memory, read_folder
from ovsnet.store.taken import Limits

if TYPE_CHECKING:
    from ovsnet.store.kubernetes.store import KubernetesStore


def make(config: Config, node: str, memory: Memory) -> Store:
    """The store, which has done nothing yet.

    node: whose agent it is for. memory: of the nodes that an earlier run went by, where the store is a folder.

    On Kubernetes a start goes by creationTimestamps alone: the API server sets them, so that nobody who comes later is
    older, and they are the same for all agents, while a node that has just joined remembers nobody. Nor could memory
    tell a Node from another that was made under its name since.
    """
    settings, limits = config.store, _limits(config)
    if settings.kubernetes is None:
        return FileStore(Path(settings.folder), limits, memory)
    from ovsnet.store.kubernetes.access import Source
    from ovsnet.store.kubernetes.store import KubernetesStore

    source = Source(settings.kubernetes.kubeconfig, settings.kubernetes.server)
    pods_of = node if settings.kubernetes.leftover_after else ""
    return KubernetesStore(source, node, pods_of=pods_of, limits=limits)


def _limits(config: Config) -> Limits:
    address = config.node_address.address
    return Limits(
        pod_cidrs=config.pod_cidrs,
        addresses=() if address is None else (address,),
        node_ports=config.node_port_range if config.store.kubernetes is None else None,
        given=config.store.kubernetes is not None,
    )


def own_pods(store: Store) -> Callable[[], OwnPods | None]:
    """Gives the Pods that the store says are this node's; None while it can't say, and always of a folder."""
    if not isinstance(store, FileStore):
        from ovsnet.store.kubernetes.store import KubernetesStore

        if isinstance(store, KubernetesStore):
            return store.own_pods
    return lambda: None


async def publish(
    store: Store, node: str, facts: Callable[[], Facts | None], current: Callable[[], list[str]]
) -> None:
    """Tells the store of this node until cancelled; returns at once if it takes nothing, as a folder.

    facts: None while the node is not ready. current: what is wrong at this moment, in words.
    """
    if isinstance(store, FileStore):
        return
    from ovsnet.store.kubernetes.store import KubernetesStore

    if isinstance(store, KubernetesStore):
        await store.publish(node, facts, current)


async def look(config: Config, patience: float, memory: Memory) -> Snapshot:
    """One look at the cluster, without a word in the log. Raises StoreError.

    patience: seconds after which a server that says nothing is given up. memory: as for `make`, so that the verdict is
    the agent's.
    """
    settings, limits = config.store, _limits(config)
    if settings.kubernetes is None:
        return await read_folder(Path(settings.folder), limits, memory)
    from ovsnet.store.kubernetes.access import Source
    from ovsnet.store.kubernetes.store import KubernetesStore

    source = Source(settings.kubernetes.kubeconfig, settings.kubernetes.server)
    return await _patiently(KubernetesStore(source, limits=limits), patience)


async def _patiently(store: KubernetesStore, patience: float) -> Snapshot:
    """A large cluster may take longer, as long as it goes on telling."""
    looking = asyncio.create_task(store.look())
    received = -1
    try:
        while received != store.received and not looking.done():
            received = store.received
            await asyncio.wait([looking], timeout=patience)
        if looking.done():
            return looking.result()
        raise StoreError(
            f"{store.client.title}: nothing came within {patience:g} s",
            "is the API server up, and the way to it?",
        )
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError, StoreError):
            await looking


def title(settings: Settings) -> str:
    """What messages call it."""
    if settings.kubernetes is None:
        return settings.folder
    return f"Kubernetes API {settings.kubernetes.server or ''}".rstrip()


def hint(settings: Settings) -> str:
    """What to look at when it is away."""
    if settings.kubernetes is None:
        return "does the folder exist and can it be read?"
    return "is the API server up, and may the agent list what it needs? The log says more"
