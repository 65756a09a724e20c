"""The text of the files that the cluster's programs read.

Pure but for the manifests beside this module, which are read. Called by `node` and `cluster`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import yaml

from ovsnet.lab.kubernetes import images, plan
from ovsnet.lab.spec import LabSpec

MANIFESTS = Path(__file__).with_name("manifests")
KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
"""What a kubelet sets at its start (pkg/kubelet/cm/container_manager_linux.go). These are the machine's, not a
node's: on nodes files with these values are mounted over them, and the kubelet finds nothing to set."""

KUBELET_HERE: dict[str, Any] = {
    "cgroupDriver": "cgroupfs",
    "failCgroupV1": False,
    "failSwapOn": False,
    # Where it is of itself is no folder of the node's own.
    "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    # An image that is collected could not be pulled again, and the machine's disk is not the lab's to judge.
    "imageGCHighThresholdPercent": 100,
    "evictionHard": {
        "memory.available": "50Mi",
        "nodefs.available": "1%",
        "nodefs.inodesFree": "1%",
        "imagefs.available": "1%",
    },
}
"""What any kubelet needs whose node is a place on this machine, in its KubeletConfiguration."""


def containerd() -> str:
    """Configuration of containerd 1.6 or 1.7 (version 2)."""
    disabled = ["aufs", "btrfs", "zfs", "devmapper"]
    plugins = [f"io.containerd.snapshotter.v1.{name}" for name in disabled]
    plugins += ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
    return f"""\
version = 2
disabled_plugins = {plugins!r}
[grpc]
address = "{plan.CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
disable_apparmor = true
# Not every machine lets root lower a process's oom_score_adj, and then no pod would start.
restrict_oom_score_adj = true
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def kubelet(spec: LabSpec) -> str:
    """KubeletConfiguration."""
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{plan.FILES}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{plan.FILES}/kubelet.crt",
        "tlsPrivateKeyFile": f"{plan.FILES}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{plan.CONTAINERD_SOCKET}",
        "clusterDNS": plan.dns_addresses(spec),
        "clusterDomain": plan.DOMAIN,
        # No name server of the machine's can be reached.
        "resolvConf": "",
        "nodeStatusUpdateFrequency": "5s",
        **KUBELET_HERE,
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def manifests(spec: LabSpec) -> str:
    """What the cluster is to have from the start: rights of the agents, CoreDNS."""
    loader = jinja2.FileSystemLoader(MANIFESTS)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined)
    values = {
        "agent_user": plan.AGENT_USER,
        "coredns_image": images.COREDNS,
        "dns_addresses": plan.dns_addresses(spec),
        "domain": plan.DOMAIN,
    }
    return "\n---\n".join(
        environment.get_template(name).render(values) for name in ("agent.yaml.j2", "coredns.yaml.j2")
    )


def kubectl(binary: Path) -> str:
    """`kubectl` as a command in the control plane's place and on nodes."""
    return f'#!/bin/sh\nKUBECONFIG=${{KUBECONFIG:-{plan.FILES}/admin.kubeconfig}} exec {binary} "$@"\n'
