"""A state in a folder, rendered without a switch: what `ovsnet render` prints.

Reads manifests (Nodes, and Pods with spec.nodeName and status.podIPs), gives ports the numbers that
a fresh node would choose, renders. Raises StoreError or OvsnetError for what is missing or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ovsnet import names, plan, resources, state
from ovsnet.config import Config
from ovsnet.errors import OvsnetError, StoreError
from ovsnet.model import Node, Pod
from ovsnet.render import Renderer
from ovsnet.store import cluster, manifest, podmanifest

_SUFFIXES = (".yaml", ".yml", ".json")


def render(folder: Path, config: Config, name: str | None, uplink_mtu: int) -> Iterator[str]:
    """The flow lines of one node. name None: the only Node that there is."""
    texts = {path: path.read_text("utf-8") for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES}
    found = cluster.combine({str(path): manifest.nodes(text, str(path)) for path, text in texts.items()}, {})
    if found.problems:
        problems = [f"{file}: {line}" for file, lines in found.problems.items() for line in lines]
        raise StoreError("; ".join(problems), "correct the manifests")
    nodes = found.nodes
    own = _own(nodes, name or config.node_name)
    topo = state.topology(config, own.name, own.addresses, uplink_mtu, nodes)
    here = [
        pod
        for path, text in texts.items()
        for pod in podmanifest.read(text, str(path))
        if pod.node == own.name
    ]
    numbers = plan.ports(plan.desired_ports(config, topo), {}).numbers
    pods = [_pod(pod, at) for at, pod in enumerate(sorted(here, key=lambda pod: (pod.namespace, pod.name)))]
    renderer = Renderer(resources.flows_dir())
    renderer.use(config.datapath.value)
    rendered = renderer.state(state.objects(topo, config.tunnels, numbers, pods))
    for lines in rendered.values():
        yield from lines


def _own(nodes: dict[str, Node], name: str | None) -> Node:
    if name is None and len(nodes) == 1:
        return next(iter(nodes.values()))
    if name not in nodes:
        known = ", ".join(nodes) or "none"
        raise OvsnetError(
            f"no Node {name} in the manifests" if name else "whose flows?", f"--node, one of: {known}"
        )
    return nodes[name]


def _pod(pod: podmanifest.ManifestPod, at: int) -> Pod:
    if not pod.ips:
        raise StoreError(
            f"Pod {pod.namespace}/{pod.name} has no status.podIPs", "its flows follow from its addresses"
        )
    return Pod(
        namespace=pod.namespace,
        name=pod.name,
        container=pod.name,
        ifname="eth0",
        netns="",
        network="ovsnet",
        port=names.host_interface(f"{at:08x}"),
        ofport=plan.POD_NUMBERS + at,
        mac=names.mac_of(pod.ips[0]),
        ips=pod.ips,
    )
