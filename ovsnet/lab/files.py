"""The text of the files that the lab writes for its nodes: configuration, manifests, conflist, wrappers.

Pure but for reading what ovsnet ships. Called by `node` and `lab`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

import ovsnet
from ovsnet.cni import executable
from ovsnet.errors import HostFailure
from ovsnet.lab.spec import LabError, LabSpec, NodeSpec
from ovsnet.resources import templates_dir

BINARIES = "/run/ovsnet/bin"
"""Where the `ovsnet` command is on a node of the lab; in front of PATH there."""
CNI_SOCKET = "/run/ovsnet/agent.sock"
UPLINK_TABLE = "lab_uplink"
PACKAGE = Path(ovsnet.__file__).resolve().parent


def agent_config(spec: LabSpec, node: NodeSpec, datapath: str, store: Mapping[str, Any] | None = None) -> str:
    """/etc/ovsnet/agent.yaml of a node. store: where it learns of the cluster, by default the lab's manifests."""
    config: dict[str, Any] = {
        "nodeName": node.name,
        "nodeAddress": {"address": str(node.address(spec.tunnel_family))},
        "ovsdb": "unix:/run/openvswitch/db.sock",
        "bridge": "br-int",
        "datapath": datapath,
        "encapsulation": spec.encap.value,
        "tunnels": spec.tunnels.value,
        "store": dict(store or {"file": "/etc/ovsnet/cluster"}),
        "cniSocket": CNI_SOCKET,
    }
    return str(yaml.safe_dump({**config, **spec.agent}, sort_keys=False))


def manifest(spec: LabSpec, node: NodeSpec) -> str:
    """The node's object, as it would be in Kubernetes."""
    ranges = [str(node.pod_range(version)) for version in spec.pod_families]
    addresses = [str(node.address(version)) for version in spec.underlay_families]
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def conflist() -> str:
    """/etc/cni/net.d/10-ovsnet.conflist."""
    loader = jinja2.FileSystemLoader(templates_dir())
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("10-ovsnet.conflist.j2").render(agent_socket=CNI_SOCKET).lstrip("\n")


def uplink_filter(uplink: str) -> str:
    """An nft script: the kernel must not answer what OVS takes from the uplink through a packet socket.

    Without it there are two hosts with one address: doubled answers, and ICMP errors for tunnel packets.
    """
    return (
        f"table netdev {UPLINK_TABLE}\n"
        f"delete table netdev {UPLINK_TABLE}\n"
        f"table netdev {UPLINK_TABLE} {{\n"
        f"  chain ingress {{ type filter hook ingress device {uplink} priority 0; policy drop; }}\n"
        "}\n"
    )


def cni_executable() -> bytes:
    """The thin client that is installed as /opt/cni/bin/ovsnet."""
    try:
        return executable.made().content
    except HostFailure as error:
        raise LabError(error.message, error.hint) from error


def python_environment() -> dict[str, str]:
    """So that `python -m ovsnet` finds this very package, installed or not."""
    return {"PYTHONPATH": str(PACKAGE.parent)}


def shell_environment() -> dict[str, str]:
    return {"PATH": f"{BINARIES}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"}


def command_wrapper() -> str:
    """`ovsnet` as a command on a node."""
    return f'#!/bin/sh\nPYTHONPATH={PACKAGE.parent} exec {sys.executable} -P -m ovsnet "$@"\n'
