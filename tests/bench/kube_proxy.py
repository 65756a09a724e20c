"""Upstream's kube-proxy on a node of a lab, as a reference: it is handed Services and writes nftables rules of its own.

Owns its build from the Go module in `go/`, kept in the cache beside the lab's Kubernetes, and how it is started:
against `api_on_node`, which serves it the objects and nothing else. Built on the machine; a guest only runs it.
Called by `bench_kernel` and `kernel_services`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import api_on_node

from ovsnet.lab.kubernetes import build
from ovsnet.lab.node import Node
from ovsnet.lab.state import wait_for

SOURCES = Path(__file__).with_name("go")
VARIABLE = "OVSNET_BENCH_KUBE_PROXY"
"""Names the program, once it is built."""
PROXY, API = "kube-proxy", "objects-api"
PORT = 18001
"""Of the API, on the node's loopback interface."""
_FOLDER = "/etc/ovsnet"
_PATIENCE = 120.0
"""Seconds until it has written its rules: in a guest a thousand Services take some of them."""
Objects = Mapping[str, Sequence[Mapping[str, Any]]]
"""By path of the API."""


def program() -> Path:
    """The program; compiled where it is missing. Raises LabError without a Go that is new enough."""
    go = build.find_go()
    version = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, check=True, env=build.environment()
    )
    hashed = hashlib.blake2b(version.stdout + build.KUBERNETES.encode(), digest_size=8)
    for path in sorted(SOURCES.iterdir()):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes())
    target = build.cache() / f"kube-proxy-{hashed.hexdigest()}"
    if not target.exists():
        _compile(go, target)
    return target


def _compile(go: str, target: Path) -> None:
    """Into a file of this process, renamed when it is whole."""
    print("building kube-proxy, once: some minutes", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f"{target.name}.{os.getpid()}")
    version = f"-s -w -X k8s.io/component-base/version.gitVersion={build.KUBERNETES}"
    command = [go, "build", *build.FLAGS, "-ldflags", version, "-o", str(new), "."]
    try:
        subprocess.run(command, cwd=SOURCES, env=build.environment(), check=True)
        new.rename(target)
    finally:
        new.unlink(missing_ok=True)


def serve(node: Node, cluster: str, objects: Objects, last: str) -> None:
    """Have the node serve these Services, instead of any before. cluster: the pods' range, whose clients keep their
    address. last: the ClusterIP to wait for. Raises RuntimeError with what it logged if that does not come."""
    stop(node)
    node.private(_FOLDER).joinpath("objects.json").write_text(json.dumps(objects))
    api = [sys.executable, "-I", "-S", api_on_node.__file__, str(PORT), f"{_FOLDER}/objects.json"]
    node.launch(API, api)
    settings = {
        "master": f"http://127.0.0.1:{PORT}",
        "kube-api-content-type": "application/json",
        "hostname-override": node.name,
        "proxy-mode": "nftables",
        "cluster-cidr": cluster,
        # 0: what the kernel has. The sysctls are the whole machine's.
        "conntrack-max-per-core": "0",
        "conntrack-tcp-timeout-established": "0s",
        "conntrack-tcp-timeout-close-wait": "0s",
    }
    node.launch(PROXY, [os.environ[VARIABLE], *(f"--{name}={value}" for name, value in settings.items())])
    if not wait_for(lambda: f"{last} " in _addresses(node), _PATIENCE, 0.2):
        words = node.last_words(PROXY, 12)
        raise RuntimeError(f"{node.name}: kube-proxy has no rule for {last} after {_PATIENCE:g} s: {words}")


def stop(node: Node) -> None:
    """Its rules stay, as they do when a kube-proxy is restarted."""
    for daemon in (PROXY, API):
        node.stop(daemon, signal.SIGTERM)


def _addresses(node: Node) -> str:
    """The map of ClusterIPs; empty before there is one."""
    return node.run(["nft", "list", "map", "ip", "kube-proxy", "service-ips"]).stdout
