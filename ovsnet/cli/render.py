"""`ovsnet render`: the flows of a state, without a switch."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--state",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    metavar="DIR",
    help="A folder of manifests: Nodes, Pods with spec.nodeName and status.podIPs, NetworkPolicies, Namespaces.",
)
@click.option("--node", metavar="NAME", help="Whose flows; not needed when the folder has one Node.")
@click.option(
    "--config", "path", type=click.Path(path_type=Path), metavar="FILE", help="An agent's configuration."
)
@click.option("--uplink-mtu", default=1500, show_default=True, help="MTU of the node's uplink, in bytes.")
def render(folder: Path, node: str | None, path: Path | None, uplink_mtu: int) -> None:
    """Print the flows that a node would have, in the syntax of ovs-ofctl.

    Port numbers are those that a fresh node would choose: the gateway 1, pods from 16 on, tunnels
    from 20000 on. Pods get them in the order of their names.
    """
    from ovsnet import config
    from ovsnet.agent import offline

    loaded = config.load(path) if path else config.Config()

    def remark(words: str) -> None:
        click.echo(f"warning: {words}", err=True)

    for line in offline.render(folder, loaded, node, uplink_mtu, remark):
        click.echo(line)
