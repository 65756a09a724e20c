"""`ovsnet manifest`: prints the objects that deploy ovsnet on a Kubernetes cluster. Talks to no cluster.

What can be chosen is in `deployment`, the objects are in templates/kubernetes-*.yaml.j2.
"""

from __future__ import annotations

from pathlib import Path

import click

from ovsnet import deployment
from ovsnet.cli import templates
from ovsnet.errors import ConfigError

ACCESS, POLICY, CLUSTER_POLICIES, SWITCH, AGENT = (
    f"kubernetes-{part}.yaml" for part in ("access", "policy", "clusternetworkpolicy", "openvswitch", "agent")
)


class _Help(click.Command):
    """Lists the keys of --set, too."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(f"{key.name}={key.default}", f"{key.help} ({key.form})") for key in deployment.KEYS]
        with formatter.section("Keys of --set, with their defaults"):
            formatter.write_dl(rows)


@click.command(cls=_Help)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Choose something; any number of times."
)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What all agents share of their configuration: docs/configuration.md, without what a node has for itself.",
)
def manifest(settings: tuple[str, ...], path: Path | None) -> None:
    """Print what deploys ovsnet on Kubernetes: ovsnet manifest | kubectl apply -f -

    docs/kubernetes.md tells what each part is for, how to upgrade and how to remove it.
    """
    click.echo(rendered(settings, path), nl=False)


def rendered(settings: tuple[str, ...], path: Path | None) -> str:
    """All objects, as one YAML stream. Raises ConfigError."""
    values = deployment.values(settings, _read(path), str(path or "agent.yaml"))
    parts = [ACCESS, *([POLICY] if values["admissionPolicy"] else [])]
    parts += [CLUSTER_POLICIES] if values["clusterNetworkPolicy"] else []
    parts += [*([SWITCH] if values["openvswitch"] == "daemonset" else []), AGENT]
    return "---\n".join(templates.render(part, **values) for part in parts)


def _read(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", "name a file with --config, or leave it away"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}", "is this a YAML file?") from error
