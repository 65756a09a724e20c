"""A plain CNI runner: executes the plugins of a network configuration list as a container runtime does.

Follows the CNI specification 1.1, section 4 (execution), and libcni where that is silent: the same folders,
order and arguments. Keeps each result so that CHECK and DEL can be given it. Called by `pods`, the tests and
the benchmarks; also a program of its own, to be run on a node:

    python -m ovsnet.lab.cni_runner ADD|CHECK|DEL CONTAINER NETNS IFNAME
    python -m ovsnet.lab.cni_runner STATUS
    python -m ovsnet.lab.cni_runner GC CONTAINER/IFNAME...
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovsnet.lab.spec import LabError
from ovsnet.lab.state import Completed, call, write_atomically

CONFIG_FOLDER, CACHE_FOLDER = "etc/cni/net.d", "var/lib/cni/results"
PLUGIN_FOLDERS = ("/opt/cni/bin", "/usr/lib/cni")
TIMEOUT = 60.0

Document = dict[str, Any]
Call = Callable[[Sequence[str], str, float, Mapping[str, str]], Completed]
"""The command line, its input, for how many seconds at most, its environment."""


class CniError(LabError):
    """A plugin's refusal: its code, message and details (specification, section "Error")."""

    def __init__(self, plugin: str, command: str, code: int, message: str, details: str = "") -> None:
        super().__init__(f"CNI {command} by {plugin}: code {code}: {message}", details)
        self.plugin, self.code, self.details = plugin, code, details


class PluginCrashed(CniError):
    """The plugin ended without an answer: that tells nothing about what it was asked."""

    def __init__(self, plugin: str, command: str, what: str, output: str = "") -> None:
        super().__init__(plugin, command, 999, what, output)


class Runner:
    """Runs one node's configuration list.

    root: the node's file system; call: runs a plugin in the node's namespaces. `state.call` will do where this process
    is in them.
    """

    def __init__(self, root: Path = Path("/"), call: Call = call) -> None:
        self.root = root
        self.call = call

    def network(self) -> Document:
        """The configuration list: the folder's first file in the order of names, as every runtime does."""
        folder = self.root / CONFIG_FOLDER
        names = sorted(path for path in folder.glob("*") if path.suffix in (".conflist", ".conf", ".json"))
        if not names:
            raise LabError("there is no CNI configuration in /etc/cni/net.d")
        try:
            document = json.loads(names[0].read_text())
        except ValueError as error:
            raise LabError(f"/etc/cni/net.d/{names[0].name} is not JSON: {error}") from error
        if "plugins" in document:
            return dict(document)
        return {
            "cniVersion": document.get("cniVersion", ""),
            "name": document.get("name"),
            "plugins": [document],
        }

    def add(
        self,
        container: str,
        netns: str,
        ifname: str = "eth0",
        args: Mapping[str, str] | None = None,
        runtime_config: Mapping[str, Any] | None = None,
    ) -> Document:
        """ADD with every plugin in turn; the last one's result. Raises CniError."""
        network = self.network()
        environment = attachment(container, netns, ifname, args)
        result: Document | None = None
        for plugin in network["plugins"]:
            config = plugin_config(network, plugin, runtime_config, result)
            result = self.execute("ADD", config, environment)
        kept = cached_info(network, container, netns, ifname, args, runtime_config, result)
        path = self.cache_path(network, container, ifname)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(kept), 0o600)
        return result or {}

    def check(self, container: str, netns: str, ifname: str = "eth0") -> None:
        """CHECK, with the result of ADD. Raises CniError: the attachment is not what it was."""
        network = self.network()
        kept = self.cached(network, container, ifname)
        if kept is None:
            raise LabError(f"{container} {ifname} was never added by this runner")
        if network.get("disableCheck"):
            return
        environment = attachment(container, netns, ifname, dict(kept.get("cniArgs", ())))
        for plugin in network["plugins"]:
            self.execute(
                "CHECK",
                plugin_config(network, plugin, kept.get("capabilityArgs"), kept.get("result", {})),
                environment,
            )

    def delete(self, container: str, netns: str, ifname: str = "eth0") -> None:
        """DEL with every plugin in reverse order; nothing to delete is fine. netns may be empty."""
        network = self.network()
        kept = self.cached(network, container, ifname) or {}
        environment = attachment(container, netns, ifname, dict(kept.get("cniArgs", ())))
        for plugin in reversed(network["plugins"]):
            config = plugin_config(network, plugin, kept.get("capabilityArgs"), kept.get("result"))
            self.execute("DEL", config, environment)
        self.cache_path(network, container, ifname).unlink(missing_ok=True)

    def status(self) -> None:
        """STATUS of every plugin. Raises CniError: code 50: not ready, 51: and containers may be cut off."""
        network = self.network()
        if not knows_status_and_gc(network):
            return
        for plugin in network["plugins"]:
            self.execute("STATUS", plugin_config(network, plugin, None, None), {})

    def collect(self, valid: Iterable[tuple[str, str]]) -> None:
        """GC: everything but these attachments (container, interface) is to go; our own ones by DEL first."""
        network = self.network()
        wanted = set(valid)
        for kept in self.all_cached(network):
            if (kept["containerId"], kept["ifName"]) not in wanted:
                self.delete(kept["containerId"], kept.get("netns", ""), kept["ifName"])
        if not knows_status_and_gc(network) or network.get("disableGC"):
            return
        attachments = [{"containerID": container, "ifname": ifname} for container, ifname in sorted(wanted)]
        for plugin in network["plugins"]:
            config = plugin_config(network, plugin, None, None)
            self.execute("GC", {**config, "cni.dev/valid-attachments": attachments}, {})

    def result(self, container: str, ifname: str = "eth0") -> Document | None:
        """What ADD answered, if it was this runner that added and nobody deleted since."""
        kept = self.cached(self.network(), container, ifname)
        return kept.get("result", {}) if kept else None

    def cache_path(self, network: Document, container: str, ifname: str) -> Path:
        return self.root / CACHE_FOLDER / f"{network['name']}-{container}-{ifname}"

    def cached(self, network: Document, container: str, ifname: str) -> Document | None:
        try:
            return dict(json.loads(self.cache_path(network, container, ifname).read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def all_cached(self, network: Document) -> list[Document]:
        paths = sorted((self.root / CACHE_FOLDER).glob(f"{network['name']}-*"))
        return [json.loads(path.read_text()) for path in paths]

    def execute(self, command: str, config: Document, environment: Mapping[str, str]) -> Document:
        """Run one plugin once; its answer. Raises CniError with the plugin's own code where it gave one."""
        plugin = config["type"]
        variables = {
            **os.environ,
            **environment,
            "CNI_COMMAND": command,
            "CNI_PATH": ":".join(PLUGIN_FOLDERS),
        }
        try:
            done = self.call([self.find(plugin)], json.dumps(config), TIMEOUT, variables)
        except subprocess.TimeoutExpired as error:
            raise PluginCrashed(plugin, command, f"no answer within {TIMEOUT:g} s") from error
        return answer(plugin, command, done)

    def find(self, plugin: str) -> str:
        for folder in PLUGIN_FOLDERS:
            if (self.root / folder.lstrip("/") / plugin).exists():
                return f"{folder}/{plugin}"
        raise LabError(f"the CNI plugin {plugin} is in none of {', '.join(PLUGIN_FOLDERS)}")


def knows_status_and_gc(network: Document) -> bool:
    """Both came with version 1.1.0; like libcni the runner asks older lists for neither."""
    return tuple(int(part) for part in network["cniVersion"].split(".")) >= (1, 1, 0)


def attachment(container: str, netns: str, ifname: str, args: Mapping[str, str] | None) -> dict[str, str]:
    variables = {"CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": ifname}
    if args:
        variables["CNI_ARGS"] = ";".join(f"{key}={value}" for key, value in args.items())
    return variables


def cached_info(
    network: Document,
    container: str,
    netns: str,
    ifname: str,
    args: Mapping[str, str] | None,
    runtime_config: Mapping[str, Any] | None,
    result: Document | None,
) -> Document:
    """What is kept of an ADD, as libcni writes it (libcni/api.go, `cachedInfo`): what is empty is left out."""
    needed = {
        "kind": "cniCacheV1",
        "containerId": container,
        "config": base64.b64encode(json.dumps(network).encode()).decode(),
        "ifName": ifname,
        "networkName": network["name"],
    }
    optional = {
        "netns": netns,
        "cniArgs": [list(pair) for pair in (args or {}).items()],
        "capabilityArgs": dict(runtime_config or {}),
        "result": result,
    }
    return needed | {key: value for key, value in optional.items() if value}


def plugin_config(
    network: Document,
    plugin: Document,
    runtime_config: Mapping[str, Any] | None,
    previous: Document | None,
) -> Document:
    """What a plugin reads from its standard input (specification, "Deriving execution configuration")."""
    config = {key: value for key, value in plugin.items() if key != "capabilities"}
    config |= {"cniVersion": network.get("cniVersion", ""), "name": network["name"]}
    capable = {key for key, able in plugin.get("capabilities", {}).items() if able}
    given = {key: value for key, value in (runtime_config or {}).items() if key in capable}
    if given:
        config["runtimeConfig"] = given
    if previous is not None:
        config["prevResult"] = previous
    return config


def answer(plugin: str, command: str, done: subprocess.CompletedProcess[str]) -> Document:
    document: Any = None
    with contextlib.suppress(ValueError):
        document = json.loads(done.stdout) if done.stdout.strip() else {}
    if done.returncode == 0 and isinstance(document, dict):
        return document
    if isinstance(document, dict) and "code" in document:
        raise CniError(
            plugin, command, document["code"], document.get("msg", ""), document.get("details", "")
        )
    output = (done.stderr or done.stdout).strip()[-500:]
    raise PluginCrashed(plugin, command, f"exit code {done.returncode} without a CNI answer", output)


def main(argv: Sequence[str]) -> int:
    runner = Runner()
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    try:
        if command == "ADD" and len(rest) == 3:
            container, netns, ifname = rest
            json.dump(runner.add(container, netns, ifname), sys.stdout, indent=2)
            print()
        elif command == "CHECK" and len(rest) == 3:
            runner.check(*rest)
        elif command == "DEL" and len(rest) == 3:
            runner.delete(*rest)
        elif command == "STATUS" and not rest:
            runner.status()
        elif command == "GC":
            pairs = [attached.partition("/") for attached in rest]
            runner.collect([(container, ifname) for container, _, ifname in pairs])
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
