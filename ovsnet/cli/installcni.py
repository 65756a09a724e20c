"""`ovsnet install-cni`: what the agent's pod does on a node before the agent starts.

Hidden. Copies the CNI executable to the node, completes the cluster's configuration with the node's name for the agent,
and writes the network configuration last: a runtime takes the network for ready when that file is there. A file
that is right already is left alone, and what is written takes its place at once. Called by the init container of
templates/kubernetes-agent.yaml.j2.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

import click

from ovsnet import config
from ovsnet.cli import templates
from ovsnet.cni import executable
from ovsnet.errors import ConfigError, HostFailure

CONFLIST = "10-ovsnet.conflist"
EXECUTABLE = "ovsnet"
CHAINED = ("portmap", "bandwidth")
"""Reference plugins that the network configuration names after ours; without one of them every ADD would fail."""
_PATH = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.option(
    "--config", "path", type=_PATH, required=True, help="The cluster's configuration, without nodeName."
)
@click.option("--node-name", required=True, help="This node's name in the cluster.")
@click.option("--agent-config", type=_PATH, required=True, help="Where the agent's configuration is written.")
@click.option("--executable", "source", type=_PATH, help="The CNI executable, else one is made here.")
@click.option("--bin", "binaries", type=_FOLDER, required=True, help="The node's folder of CNI executables.")
@click.option(
    "--conf", "networks", type=_FOLDER, required=True, help="The node's folder of CNI configurations."
)
def install_cni(
    path: Path, node_name: str, agent_config: Path, source: Path | None, binaries: Path, networks: Path
) -> None:
    """Put the CNI plugin on a node, and write its agent's configuration."""
    text, loaded = completed(path, node_name)
    place(agent_config, text.encode(), 0o644)
    place(binaries / EXECUTABLE, content(source), 0o755)
    present = {name: os.access(binaries / name, os.X_OK) for name in CHAINED}
    for name in sorted(name for name, there in present.items() if not there):
        click.echo(
            f"{binaries / name} is not there: pods get no {name}; install the reference plugins to have it"
        )
    conflist = templates.render(CONFLIST, agent_socket=loaded.cni_socket, **present)
    place(networks / CONFLIST, conflist.encode(), 0o644)


def completed(path: Path, node_name: str) -> tuple[str, config.Config]:
    """The cluster's configuration with the node's name. Raises ConfigError."""
    if config.load(path).node_name is not None:
        raise ConfigError(f"{path}: nodeName is set", "remove it: every node has its own")
    # Quoted: a node may be called 12.
    text = f"nodeName: {json.dumps(node_name)}\n{path.read_text(encoding='utf-8')}"
    return text, config.parse(text, f"{path} with nodeName {node_name}")


def content(source: Path | None) -> bytes:
    """Of the CNI executable. Raises HostFailure."""
    if source is None:
        return executable.made().content
    try:
        return source.read_bytes()
    except OSError as error:
        raise HostFailure(
            f"cannot read {source}: {error.strerror}", "it is in ovsnet's image; or leave --executable away"
        ) from error


def place(path: Path, data: bytes, mode: int) -> None:
    """The file, whole or not at all: a runtime may start it, or read it, at any moment. Raises HostFailure."""
    if _is_right(path, data, mode):
        click.echo(f"{path} is in place")
        return
    # Not seen by runtimes, which take every *.conf, *.conflist and *.json; and the same after each crash.
    unfinished = path.with_name(f".{path.name}.new")
    try:
        unfinished.write_bytes(data)
        unfinished.chmod(mode)
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise HostFailure(
            f"cannot write {path}: {error.strerror}", "the node's folder must be writable"
        ) from error
    click.echo(f"wrote {path}")


def _is_right(path: Path, data: bytes, mode: int) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == data
    return False
