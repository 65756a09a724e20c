"""A state in a folder, rendered without a switch: what `ovsnet render` prints.

Reads manifests (Nodes, Pods with spec.nodeName and status.podIPs, policies and Namespaces), gives ports the numbers
that a fresh node would choose, renders. Raises StoreError or OvsnetError for what is missing or wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from ovsnet import names, plan, policies, resources, state
from ovsnet.config import Config
from ovsnet.errors import OvsnetError, StoreError
from ovsnet.model import Node, Pod
from ovsnet.policies import Policies
from ovsnet.policymodel import LabelledPod
from ovsnet.render import Renderer
from ovsnet.store import cluster, manifest
from ovsnet.store.clusterpolicies import ClusterPolicyReader
from ovsnet.store.labelledpods import PodReader
from ovsnet.store.namespaces import NamespaceReader
from ovsnet.store.nodes import NodeReader
from ovsnet.store.policies import PolicyReader
from ovsnet.store.reading import Readable, Reader

_Object = TypeVar("_Object", bound=Readable)
_SUFFIXES = (".yaml", ".yml", ".json")


def render(
    folder: Path, config: Config, name: str | None, uplink_mtu: int, remark: Callable[[str], None]
) -> Iterator[str]:
    """The flow lines of one node. name None: the only Node that there is. remark: takes what was read in the safest
    way, in words."""
    texts = {path: path.read_text("utf-8") for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES}
    contents = {str(path): manifest.read(text, str(path)) for path, text in texts.items()}
    problems = [f"{path}: {line}" for path, each in contents.items() for line in each.problems]
    if problems:
        raise StoreError("; ".join(problems), "correct the manifests")
    for path, each in contents.items():
        for words in each.remarks:
            remark(f"{path}: {words}")
    of_files = {path: each.objects for path, each in contents.items()}
    nodes = _nodes(of_files)
    own = _own(nodes, name or config.node_name)
    topo = state.topology(config, own.name, own.addresses, uplink_mtu, nodes)
    labelled = _all(of_files, PodReader)
    here = [pod for pod in labelled.values() if pod.node == own.name and not pod.host_network]
    numbers = plan.ports(plan.desired_ports(config, topo), {}).numbers
    pods = [_pod(pod, at) for at, pod in enumerate(sorted(here, key=lambda pod: (pod.namespace, pod.name)))]
    renderer = Renderer(resources.flows_dir(), config.policy.log_denied)
    renderer.use(config.datapath.value)
    policed = Policies()
    policed.update(
        _all(of_files, PolicyReader),
        _all(of_files, NamespaceReader),
        labelled,
        policies.addresses(pods),
        policies.node_addresses(nodes),
        _all(of_files, ClusterPolicyReader),
    )
    rendered = renderer.state((*state.objects(topo, config.tunnels, numbers, pods), *policed.objects))
    for lines in rendered.values():
        yield from lines


def _nodes(files: Mapping[str, manifest.Objects]) -> Mapping[str, Node]:
    found = cluster.combine(
        {path: tuple(manifest.of(each, NodeReader).values()) for path, each in files.items()}, {}
    )
    if found.problems:
        problems = [f"{file}: {line}" for file, lines in found.problems.items() for line in lines]
        raise StoreError("; ".join(problems), "correct the manifests")
    return found.nodes


def _all(files: Mapping[str, manifest.Objects], reader: type[Reader[_Object]]) -> dict[str, _Object]:
    """All files' objects of one kind. Raises StoreError where two have one name."""
    chosen, doubles = cluster.one_of_each(
        {path: manifest.of(each, reader).values() for path, each in files.items()}, {}
    )
    if doubles:
        problems = [f"{path}: {line}" for path, lines in doubles.items() for line in lines]
        raise StoreError("; ".join(problems), "correct the manifests")
    return {key: item for key, (_, item) in chosen.items()}


def _own(nodes: Mapping[str, Node], name: str | None) -> Node:
    if name is None and len(nodes) == 1:
        return next(iter(nodes.values()))
    if name is None or name not in nodes:
        known = ", ".join(nodes) or "none"
        raise OvsnetError(
            f"no Node {name} in the manifests" if name else "whose flows?", f"--node, one of: {known}"
        )
    return nodes[name]


def _pod(pod: LabelledPod, at: int) -> Pod:
    if not pod.ips:
        raise StoreError(f"Pod {pod.key} has no status.podIPs", "its flows follow from its addresses")
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
