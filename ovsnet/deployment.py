"""What can be chosen when ovsnet is deployed on a Kubernetes cluster, and the configuration that all its agents share.

Pure: texts in, values for templates/kubernetes-*.yaml.j2 out. A choice is a line in KEYS; its check, the message about
it and its line in `ovsnet manifest --help` follow from it. Called by `cli/manifest`, by nothing that runs on a node.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

import ovsnet
from ovsnet import config, strictyaml
from ovsnet.config import Datapath
from ovsnet.errors import ConfigError

_LABEL = r"(?=.{1,63}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PATH = r"(/(?!\.{1,2}(/|\Z))[\w.-]+)+"


@dataclass(frozen=True)
class Key:
    """pattern: what the whole value must match; form: that in words."""

    name: str
    default: str
    pattern: str
    form: str
    help: str


KEYS = (
    Key(
        "namespace",
        "ovsnet",
        r"(?!default\Z|kube-)" + _LABEL,
        "a name that is not Kubernetes' own",
        "The namespace that is made for all of it.",
    ),
    Key(
        "image",
        f"localhost/ovsnet:{ovsnet.__version__}",
        r"(?=.{1,255}\Z)[a-z0-9][\w.:/@-]*",
        "an image's name, e.g. registry.example/ovsnet:1.0",
        "The image, by a name that every node can fetch it by or has it by.",
    ),
    Key(
        "imagePullPolicy",
        "IfNotPresent",
        "IfNotPresent|Always|Never",
        "IfNotPresent, Always or Never",
        "When nodes fetch it.",
    ),
    Key(
        "apiServer",
        "",
        r"(https://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?)?",
        "https://HOST or https://HOST:PORT",
        "An address of the API server that works without Services, where ovsnet is to serve them; its certificate must "
        "name HOST. Without it agents go through the Service `kubernetes`, which something else must serve.",
    ),
    Key(
        "openvswitch",
        "daemonset",
        "daemonset|node",
        "daemonset or node",
        "Whose Open vSwitch: one from the image, in a DaemonSet of its own, or that which is on the nodes.",
    ),
    Key("stateDir", "/var/lib/ovsnet/openvswitch", _PATH, "an absolute path", "Where nodes keep OVSDB."),
    Key("cniBinDir", "/opt/cni/bin", _PATH, "an absolute path", "Where nodes have CNI executables."),
    Key("cniConfDir", "/etc/cni/net.d", _PATH, "an absolute path", "Where nodes have CNI configurations."),
    Key(
        "cniResultDir", "/var/lib/cni", _PATH, "an absolute path", "Where runtimes keep what an ADD answered."
    ),
    Key(
        "maxUnavailable",
        "10%",
        r"([1-9]\d{0,4}|[1-9]\d?%|100%)",
        "a number of nodes, or 1% to 100%",
        "How many agents an upgrade replaces at once.",
    ),
    Key(
        "admissionPolicy",
        "true",
        "true|false",
        "true or false",
        "Whether agents are held to their own Node object by an admission policy; it needs Kubernetes 1.30.",
    ),
    Key(
        "clusterNetworkPolicy",
        "false",
        "true|false",
        "true or false",
        "Whether the kind ClusterNetworkPolicy is installed, where nobody else has done so; it needs Kubernetes 1.31. "
        "Agents follow policies of that kind in any case.",
    ),
)
_NOT_SHARED = {
    "nodeName": "every node has its own; the pod is told it",
    "podCIDRs": "every node has its own; its Node object tells them",
    "store": "it is the Kubernetes API; --set apiServer says where",
    "cniSocket": "the manifests mount /run/ovsnet",
    "ovsdb": "the manifests mount /run/openvswitch",
}
"""Keys of agent.yaml that can't be the same on all nodes, or that the manifests decide."""


def chosen(settings: Sequence[str]) -> dict[str, str]:
    """Every key's value, from lines KEY=VALUE. Raises ConfigError with every mistake in them."""
    known = {key.name: key for key in KEYS}
    values = {key.name: key.default for key in KEYS}
    problems = []
    for setting in settings:
        name, equals, value = setting.partition("=")
        if name not in known:
            problems.append(f"{name}: unknown key{_meant(name, list(known))}; known: {', '.join(known)}")
        elif not equals:
            problems.append(f"{name}: no value; write {name}=VALUE")
        elif not re.fullmatch(known[name].pattern, value, re.ASCII):
            problems.append(f"{name}: expected {known[name].form}, found {value!r}")
        else:
            values[name] = value
    if problems:
        raise ConfigError(_counted("--set", problems), "ovsnet manifest --help lists every key", problems)
    return values


def shared(text: str, source: str, api_server: str) -> tuple[str, config.Config]:
    """agent.yaml of all nodes: what stands in `text`, and the Kubernetes API as its store; as text, and as read.

    Raises ConfigError with every mistake, and with what every node must have for itself.
    """
    loaded = config.parse(text, source)
    value = strictyaml.read(text).value
    # A mapping, as `parse` has seen, or an empty file.
    document: dict[str, Any] = value if isinstance(value, dict) else {}
    problems = [f"{key}: {why}; remove it" for key, why in _NOT_SHARED.items() if key in document]
    if loaded.node_address.address is not None:
        problems.append("nodeAddress.address: every node has its own; use interface or routeTo, or nothing")
    if problems:
        raise ConfigError(_counted(source, problems), "all nodes share this file", problems)
    document["store"] = {"kubernetes": {"server": api_server or None}}
    written = str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return written, config.parse(written, f"{source} with --set apiServer")


def values(settings: Sequence[str], text: str, source: str) -> dict[str, object]:
    """What templates/kubernetes-*.yaml.j2 ask for. Raises ConfigError."""
    keys = chosen(settings)
    agent_config, loaded = shared(text, source, keys["apiServer"])
    return {
        **keys,
        "admissionPolicy": keys["admissionPolicy"] == "true",
        "clusterNetworkPolicy": keys["clusterNetworkPolicy"] == "true",
        "agentConfig": agent_config,
        "agentConfigDigest": hashlib.sha256(agent_config.encode()).hexdigest()[:16],
        "bridge": loaded.bridge,
        "userSpace": loaded.datapath is Datapath.NETDEV,
        "version": ovsnet.__version__,
    }


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _counted(what: str, problems: list[str]) -> str:
    return f"{what}: 1 problem" if len(problems) == 1 else f"{what}: {len(problems)} problems"
