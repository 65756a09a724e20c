"""Pods: a network namespace on a node, attached by the node's CNI plugins, with a small server in it.

Made the way a container runtime makes a sandbox. Called by `lab`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import uuid
from collections.abc import Sequence
from typing import Any

from ovsnet.lab import cni_runner, files
from ovsnet.lab.node import Node
from ovsnet.lab.spec import IPAddress, LabError, PodSpec
from ovsnet.lab.underlay import server_command

IFNAME = "eth0"


class Pod:
    """One pod on its node."""

    def __init__(self, node: Node, pod: PodSpec) -> None:
        self.node = node
        self.pod = pod
        self.name = pod.name
        self.netns = f"/run/netns/{pod.name}"

    @property
    def sandbox(self) -> str:
        """The name of the pod's process among the node's records."""
        return f"pod-{self.name}"

    def command(self, argv: Sequence[str]) -> list[str]:
        """A command line that runs argv in the pod."""
        return self.node.command(argv, self.netns, files.shell_environment())

    def start(self) -> bool:
        """Make the namespace with the server in it; whether it was missing."""
        if self.node.daemon(self.sandbox):
            return False
        self.node.launch(self.sandbox, server_command(self.name), netns=self.netns, make_netns=True)
        return True

    def up(self) -> bool:
        """Make what is missing; whether anything was."""
        changed = self.start()
        if not self.attached():
            self.attach()
            changed = True
        return changed

    def attached(self) -> bool:
        """Whether CNI ADD was done for this namespace, and CHECK finds all of it in place."""
        if self.result() is None:
            return False
        try:
            self.node.runner.check(self.pod.container, self.netns, IFNAME)
        except cni_runner.PluginCrashed:
            # Debian 12's bandwidth plugin does so where no bandwidth was asked for; those before it were content.
            return True
        except cni_runner.CniError:
            return False
        return True

    def attach(self) -> None:
        runner = self.node.runner
        begun = self.node.path / f"{self.sandbox}.adding"
        if begun.exists() or self.result() is not None:
            # An ADD that was cut short, or an attachment that CHECK refused, has left something behind.
            with contextlib.suppress(cni_runner.CniError):
                runner.delete(self.pod.container, self.netns, IFNAME)
        begun.touch()
        args = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": self.pod.namespace,
            "K8S_POD_NAME": self.name,
            "K8S_POD_INFRA_CONTAINER_ID": self.pod.container,
        }
        runner.add(self.pod.container, self.netns, IFNAME, args, self.pod.runtime_config)
        begun.unlink()

    def down(self) -> None:
        """CNI DEL, then the namespace and the server."""
        self.node.runner.delete(self.pod.container, self.netns, IFNAME)
        self.discard()

    def discard(self) -> None:
        """Remove the namespace and the server, without a word to the plugins."""
        self.node.stop(self.sandbox, 9)
        for kind in ("proc", "log", "adding"):
            (self.node.path / f"{self.sandbox}.{kind}").unlink(missing_ok=True)
        self.node.run(["ip", "netns", "delete", self.name], check=True)

    def result(self) -> dict[str, Any] | None:
        """The result of CNI ADD; None if the pod is not attached."""
        if not self.node.init:
            return None
        with contextlib.suppress(LabError, OSError):
            return self.node.runner.result(self.pod.container, IFNAME)
        return None

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """In the order of the result."""
        ips = (self.result() or {}).get("ips", ())
        return tuple(ipaddress.ip_interface(entry["address"]).ip for entry in ips)

    def address(self, version: int) -> IPAddress:
        """The first address of the family. Raises LabError when there is none."""
        for address in self.addresses:
            if address.version == version:
                return address
        raise LabError(f"{self.name} has no IPv{version} address")


def new_container() -> str:
    """An identity as a runtime gives it; a new one for every sandbox."""
    return uuid.uuid4().hex + os.urandom(16).hex()
