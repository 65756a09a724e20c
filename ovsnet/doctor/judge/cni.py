"""What the container runtime reads and runs, and what other network plugins left on the node.

Pure. Called by `examine`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ovsnet.doctor.finding import Finding, fault, ok, warning

BINARIES, NETWORKS = "/opt/cni/bin", "/etc/cni/net.d"
EXECUTABLE = "ovsnet"
SUFFIXES = (".conf", ".conflist", ".json")
"""Those that runtimes read in the folder of networks, in the order of names (containerd, CRI-O: libcni)."""
_SHOWN = 6

# Calico also uses tunl0, but the kernel makes that in every namespace as soon as it has the module ipip.
_LINKS = {
    "flannel or bridge": re.compile(r"(cni\d+|flannel[.\-].+|flannel-.+)"),
    "Calico": re.compile(r"(cali.+|vxlan\.calico|vxlan-v6\.calico|wireguard\.cali)"),
    "Weave": re.compile(r"(weave|vethwe-.+|vxlan-6784)"),
    "Antrea": re.compile(r"antrea-(gw|tun)\d+"),
    "OVN-Kubernetes": re.compile(r"(ovn-k8s-mp\d+|ovn-k8s-gw\d+)"),
    "Cilium": re.compile(r"cilium_.+"),
}
_CHAINS = {
    "flannel": re.compile(r"FLANNEL"),
    "Calico": re.compile(r"cali-|cali[fptr]w-"),
    "Weave": re.compile(r"WEAVE"),
    "Cilium": re.compile(r"CILIUM_|OLD_CILIUM"),
    "Antrea": re.compile(r"ANTREA-"),
}
_PROXY = re.compile(r"KUBE-")
_PROXY_LINK = "kube-ipvs0"


def executable(present: bool, runs: bool) -> Finding:
    path = f"{BINARIES}/{EXECUTABLE}"
    if not present:
        return fault("CNI executable", f"{path} is not there", "bootstrap.sh node installs it")
    if not runs:
        return fault("CNI executable", f"{path} may not be executed", f"chmod 0755 {path}")
    return ok("CNI executable", path)


def networks(files: Mapping[str, str], binaries: Iterable[str], agent_socket: str) -> list[Finding]:
    """files: text by name of what is in the folder of networks. binaries: names in the folder of plugins."""
    names = sorted(name for name in files if name.endswith(SUFFIXES))
    ours = [name for name in names if _is_ours(_parsed(files[name]))]
    if not ours:
        others = f"; there are {', '.join(names)}" if names else ""
        return [
            fault(
                "CNI network", f"no file in {NETWORKS} is ovsnet's{others}", "bootstrap.sh node installs it"
            )
        ]
    first, document = ours[0], _parsed(files[ours[0]])
    before, after = names[: names.index(first)], names[names.index(first) + 1 :]
    found = []
    if before:
        found.append(
            fault(
                "CNI network",
                f"{NETWORKS}: {', '.join(before)} comes before {first}: the runtime takes the first that it can read",
                f"move it away: mv {NETWORKS}/{before[0]} /root/",
            )
        )
    if after:
        found.append(
            warning(
                "CNI network",
                f"{NETWORKS} also has {', '.join(after)}",
                "runtimes take the first file only; remove what is not used",
            )
        )
    found += _conflist(first, document, set(binaries), agent_socket)
    return found or [ok("CNI network", f"{NETWORKS}/{first} is first, and ovsnet's")]


def _conflist(name: str, document: dict[str, Any], binaries: set[str], agent_socket: str) -> list[Finding]:
    found = []
    plugins = [each for each in document["plugins"] if isinstance(each, dict)]
    told = next(each.get("agentSocket") for each in plugins if each.get("type") == EXECUTABLE)
    if told is not None and told != agent_socket:
        found.append(
            fault(
                "CNI network",
                f"{name} says agentSocket {told}, but the agent listens on {agent_socket}",
                "let agentSocket in the file and `cniSocket` in the configuration agree",
            )
        )
    chained = [str(each.get("type")) for each in plugins]
    if missing := [each for each in chained if each != EXECUTABLE and each not in binaries]:
        found.append(
            fault(
                "CNI network",
                f"{name} also needs {', '.join(missing)}, which {BINARIES} has not: every ADD fails",
                "install containernetworking-plugins and link them there, or take them out of the file",
            )
        )
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_ours(document: Any) -> bool:
    plugins = document.get("plugins") if isinstance(document, dict) else None
    return isinstance(plugins, list) and any(
        isinstance(plugin, dict) and plugin.get("type") == EXECUTABLE for plugin in plugins
    )


def leftovers(links: Iterable[str], chains: Iterable[str]) -> list[Finding]:
    """links: names of interfaces. chains: of nftables and iptables, in any table."""
    links, chains = sorted(set(links)), sorted(set(chains))
    found = []
    for who, pattern in _LINKS.items():
        if names := [name for name in links if pattern.fullmatch(name)]:
            found.append(
                fault(
                    "other plugins",
                    f"interfaces of {who}: {_some(names)}: their routes compete with ovsnet's",
                    f"end that plugin on this node; then: ip link delete {names[0]}",
                )
            )
    for who, pattern in _CHAINS.items():
        if names := [name for name in chains if pattern.match(name)]:
            found.append(
                warning(
                    "other plugins",
                    f"firewall chains of {who}: {_some(names)}",
                    "if that plugin is gone, a restart of the node removes them",
                )
            )
    if found:
        return found
    proxy = any(_PROXY.match(name) for name in chains) or _PROXY_LINK in links
    return [
        ok("other plugins", f"none left anything{'; kube-proxy is here, as it should be' if proxy else ''}")
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
