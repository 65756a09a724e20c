"""`ovsnet node-files`: renders what `bootstrap.sh node` puts on a node, into a folder of its choice.

Hidden. Writes into that folder only; bootstrap.sh compares, installs and remembers. Refuses paths that the
systemd unit keeps from the agent.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path, PurePosixPath

import click

from ovsnet import config
from ovsnet.cli import templates
from ovsnet.cni import executable
from ovsnet.config import Config
from ovsnet.errors import ConfigError

FILES = ("10-ovsnet.conflist", "ovsnet.service")
EXECUTABLE = "ovsnet"
_OWN_SOCKET = re.compile(r"/run/(ovsnet[\w.-]*)/[\w./-]+", re.ASCII)
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # not for temporary files
"""What ProtectHome and PrivateTmp keep from a unit (systemd.exec(5))."""


@click.command()
@click.option(
    "--config", "path", type=click.Path(path_type=Path), required=True, help="The configuration to read."
)
@click.option("--installed-as", default="/etc/ovsnet/agent.yaml", help="Where it will stand on the node.")
@click.option("--prefix", default="/opt/ovsnet", help="Where ovsnet will stand on the node.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def node_files(path: Path, installed_as: str, prefix: str, folder: Path) -> None:
    """Render a node's files into FOLDER, and print what bootstrap.sh must know, one fact a line.

    The folder of manifests that the agent watches (empty: none), its socket, its bridge, and which CNI executable.
    """
    loaded = config.load(path)
    if problems := refused(loaded):
        raise ConfigError(
            f"{path}: not with systemd's unit", "choose other paths, or write a unit of your own", problems
        )
    for name in FILES:
        text = templates.render(
            name,
            agent_socket=loaded.cni_socket,
            runtime_directory=runtime_directory(loaded.cni_socket),
            bridge=loaded.bridge,
            prefix=prefix,
            config_file=installed_as,
        )
        (folder / name).write_text(text, encoding="utf-8")
    made = executable.made()
    (folder / EXECUTABLE).write_bytes(made.content)
    click.echo("\n".join((loaded.store.folder, loaded.cni_socket, loaded.bridge, made.kind)))


def runtime_directory(path: str) -> str:
    """The folder below /run that systemd makes for the agent's socket; "" where it must not make it.

    systemd sets owner and mode of that folder, so it must be nobody else's.
    """
    match = _OWN_SOCKET.fullmatch(os.path.normpath(path))
    return match[1] if match else ""


def refused(loaded: Config) -> list[str]:
    """Paths that the agent can't use within the unit, with the reason."""
    problems = []
    if not runtime_directory(loaded.cni_socket):
        problems.append(
            f"cniSocket: {loaded.cni_socket} is not in a folder of ovsnet's own below /run, "
            "such as /run/ovsnet/agent.sock"
        )
    kubernetes = loaded.store.kubernetes
    for key, path in (
        ("store.file", loaded.store.folder),
        ("store.kubernetes.kubeconfig", kubernetes.kubeconfig if kubernetes else None),
    ):
        seen = PurePosixPath(os.path.normpath(path or "/"))
        if any(seen.is_relative_to(folder) for folder in _HIDDEN):
            problems.append(f"{key}: the agent can't see {seen}; services have no {', '.join(_HIDDEN)}")
    return problems
