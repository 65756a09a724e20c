"""The `ovsnet` command: its table of subcommands, and how errors reach people.

Owns no subcommand's work. A subcommand's module is imported when it is run or asked for help, never for
the list: start-up is felt, and what `ovsnet show` needs is not what the agent needs.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import NamedTuple

import click

import ovsnet
from ovsnet.errors import ConfigError, OvsnetError

DEFAULT_CONFIG = Path("/etc/ovsnet/agent.yaml")


class Entry(NamedTuple):
    """A subcommand: its line in the help, and where it is (MODULE:ATTRIBUTE)."""

    help: str
    target: str
    hidden: bool = False


SUBCOMMANDS = {
    "agent": Entry("Run the node agent.", "ovsnet.cli.main:agent"),
    "audit": Entry("Compare what is installed with what should be.", "ovsnet.cli.audit:audit"),
    "conntrack": Entry("Show connections through Services, with names.", "ovsnet.cli.conntrack:conntrack"),
    "docs": Entry("Write or check the generated documents.", "ovsnet.cli.docs:docs", hidden=True),
    "doctor": Entry("Check everything on this node that commonly breaks.", "ovsnet.cli.doctor:doctor"),
    "flows": Entry("Show the installed flows with names.", "ovsnet.cli.flows:flows"),
    "install-cni": Entry("Put the CNI plugin on a node.", "ovsnet.cli.installcni:install_cni", hidden=True),
    "lab": Entry("Run a cluster on this machine.", "ovsnet.cli.lab:lab"),
    "manifest": Entry("Print what deploys ovsnet on Kubernetes.", "ovsnet.cli.manifest:manifest"),
    "node-files": Entry("Render a node's files.", "ovsnet.cli.nodefiles:node_files", hidden=True),
    "policy": Entry("Show what NetworkPolicies allow, and why.", "ovsnet.cli.policy:policy"),
    "render": Entry("Print the flows of a state, without a switch.", "ovsnet.cli.render:render"),
    "show": Entry("Show this node's ports, pods, peers and health.", "ovsnet.cli.show:show"),
    "support-bundle": Entry(
        "Pack what a maintainer needs, without secrets.", "ovsnet.cli.bundle:support_bundle"
    ),
    "trace": Entry("Follow a packet through this node's flows.", "ovsnet.cli.trace:trace"),
    "version": Entry("Print the version.", "ovsnet.cli.main:version"),
}


class LazyGroup(click.Group):
    """A group that knows its subcommands' help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in SUBCOMMANDS.items() if not entry.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = SUBCOMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUBCOMMANDS[name].help) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ovsnet.__version__, message="ovsnet %(version)s")
def cli() -> None:
    """A Kubernetes pod network on Open vSwitch."""


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    metavar="FILE",
    help="The configuration; docs/configuration.md lists what may stand in it.",
)
@click.option(
    "--check-config", is_flag=True, help="Tell every mistake in the configuration, and do nothing else."
)
def agent(path: Path, check_config: bool) -> None:
    """Run the node agent in the foreground; it logs to standard error."""
    from ovsnet import config

    loaded = config.load(path)
    if check_config:
        click.echo(f"{path}: no mistake")
        return
    from ovsnet.agent import app

    app.main(loaded)


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"ovsnet {ovsnet.__version__}")


def report(error: OvsnetError) -> None:
    """An error for people: what was wrong, each single problem, and what to do."""
    click.echo(f"error: {error.message}", err=True)
    if isinstance(error, ConfigError):
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def main() -> None:
    """The entry point. Exit codes: 1 an error of ours, 2 wrong usage, 130 interrupted.

    Anything unexpected keeps its traceback: it is a fault of ovsnet and worth reporting whole.
    """
    try:
        code = cli.main(prog_name="ovsnet", standalone_mode=False)
    except OvsnetError as error:
        report(error)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        # click turns an interrupt into Abort where it asks a question.
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
