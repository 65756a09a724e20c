"""`ovsnet lab`: a cluster on this machine. Options and output only; the work is in `ovsnet.lab`.

Exit codes: 0; 1 an error or a red check; those of the command itself for exec, run and ovs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

from ovsnet.cli import console as output
from ovsnet.lab import check as checking
from ovsnet.lab import report
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT
from ovsnet.lab.spec import DEFAULT, LabError, LabSpec
from ovsnet.lab.state import Folder
from ovsnet.model import Encap, Tunnels

DEFAULT_NAME = "lab"
# So that the options of the command that is to be run are left to it, with or without "--".
PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
FAMILIES = click.Choice(["4", "6", "dual"])

console = output.console(sys.stdout)
errors = output.console(sys.stderr)


class Progress:
    """Says on standard error what is being done and since when."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self, text: str) -> None:
        errors.print(f"[dim]{time.monotonic() - self.started:5.1f} s[/]  {text}")


def named(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a subcommand the lab: by its own --name, or by that before the subcommand."""

    @click.option("--name", "lab_name", metavar="LAB", help="Which lab, if there are several.")
    @click.pass_context
    def wrapped(context: click.Context, /, lab_name: str | None, **rest: Any) -> Any:
        name = lab_name or context.obj or DEFAULT_NAME
        if not name.replace("-", "").isalnum() or not name.isascii() or len(name) > 32:
            raise click.BadParameter(f"{name!r}: letters, digits and -, at most 32", param_hint="--name")
        return command(open_lab(name), **rest)

    wrapped.__doc__ = command.__doc__
    wrapped.__name__ = command.__name__
    return wrapped


def open_lab(name: str) -> Lab:
    """As what it was made; one whose state can't be read is still removed by `down`."""
    with contextlib.suppress(LabError):
        state = Folder(name).load()
        if state and state.spec.kubernetes:
            return Cluster(name, say=Progress())
    return Lab(name, say=Progress())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--name", "lab_name", metavar="LAB", help=f"Which lab, if there are several.  [default: {DEFAULT_NAME}]"
)
@click.pass_context
def lab(context: click.Context, lab_name: str | None) -> None:
    """Run a cluster on this machine: nodes in namespaces, each with its own Open vSwitch and agent."""
    context.obj = lab_name


@lab.command()
@click.option(
    "--kubernetes",
    is_flag=True,
    default=None,
    help="A real Kubernetes cluster: control plane, containerd and kubelets, built from source the first time.",
)
@click.option("--nodes", type=click.IntRange(1), help="How many nodes.  [default: 3]")
@click.option("--pods", type=click.IntRange(0), help="How many pods on each.  [default: 2]")
@click.option(
    "--encap", type=click.Choice([each.value for each in Encap]), help="Between nodes.  [default: vxlan]"
)
@click.option(
    "--tunnels",
    type=click.Choice([each.value for each in Tunnels]),
    help="A port per peer, or one port for all.  [default: ports]",
)
@click.option("--families", type=FAMILIES, help="The pods' addresses.  [default: dual]")
@click.option("--underlay", type=FAMILIES, help="The nodes' addresses.  [default: dual]")
@click.option(
    "--datapath",
    type=click.Choice(["auto", "netdev", "system"]),
    help="Open vSwitch's datapath; auto: the kernel's if there is one.  [default: auto]",
)
@click.option("--mtu", type=click.IntRange(1400, 9000), help="Of the underlay.  [default: 1500]")
@named
def up(lab: Lab, **options: Any) -> None:
    """Start the lab, or repair what is missing of it, and check that everything talks."""
    given = {key: value for key, value in options.items() if value is not None}
    state = Folder(lab.name).load()
    base = msgspec.to_builtins(state.spec) if state else {}
    if given.get("kubernetes") and state is None:
        lab, base = Cluster(lab.name, say=lab.say), {"pods": 0}
    lab.wanted = msgspec.convert({**base, **given}, LabSpec)
    changes = lab.up()
    if state is not None:
        console.print(f"repaired: {', '.join(changes)}" if changes else "nothing was missing")
    with unless_removed(lab):
        outcome = probe(lab)
        output.table(console, report.status_table(report.survey(lab)))
    show(outcome)
    console.print("\n[bold]Try next[/]")
    for line in report.next_commands(lab):
        console.print(f"  {line}")
    if not outcome.ok:
        sys.exit(1)


@lab.command()
@named
def down(lab: Lab) -> None:
    """Remove the lab and everything that belongs to it, after a crash too."""
    console.print(
        f"lab {lab.name} is removed" if lab.down() else f"there is no lab {lab.name}: nothing to do"
    )


@lab.command()
@named
def status(lab: Lab) -> None:
    """Show nodes, pods, addresses and tunnels; exit code 1 if something is not running."""
    surveyed = report.survey(lab)
    output.table(console, report.status_table(surveyed))
    missing = lab.missing() if isinstance(lab, Cluster) else []
    if isinstance(lab, Cluster) and not missing:
        console.print(lab.kubectl("get", "pods", "--all-namespaces", "--output=wide").stdout, end="")
    elif missing:
        console.print(f"control: {', '.join(missing)} not running", style="red")
    if missing or not surveyed.whole:
        console.print(
            f"something is not running: `ovsnet lab --name {lab.name} up` starts it again", style="red"
        )
        sys.exit(1)


@lab.command()
@click.option(
    "--seconds", type=click.FloatRange(0.5), default=checking.SECONDS, help="How long to try each probe."
)
@named
def check(lab: Lab, seconds: float) -> None:
    """Probe every path between pods, nodes and the outside; exit code 1 if one fails."""
    outcome = probe(lab, seconds)
    show(outcome)
    if not outcome.ok:
        sys.exit(1)


def probe(lab: Lab, seconds: float = checking.SECONDS) -> checking.Report:
    """The check. Raises LabError if the lab was removed meanwhile: then nothing of it means anything."""
    with unless_removed(lab) as assert_present:
        lab.say("checking every path")
        outcome = lab.check(seconds)
        if not outcome.ok:
            assert_present()
        return outcome


@contextlib.contextmanager
def unless_removed(lab: Lab) -> Iterator[Callable[[], None]]:
    """When the lab is removed while something looks at it, say that instead of what went wrong then."""
    before = lab.folder.generation()

    def assert_present() -> None:
        if before and lab.folder.generation(settled=True) != before:
            raise LabError(
                "the lab was removed meanwhile", f"`ovsnet lab --name {lab.name} up` makes it again"
            )

    try:
        yield assert_present
    except LabError:
        assert_present()
        raise


def show(outcome: checking.Report) -> None:
    for table in report.matrices(outcome, console.width):
        output.table(console, table)
    console.print(report.summary(outcome), style="green" if outcome.ok else "bold red")
    if not outcome.ok:
        for line in report.failures(outcome):
            console.print(f"  {line}", style="red", markup=False)


@lab.command(name="exec", context_settings=PASS_ON)
@click.argument("pod")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@named
def exec_(lab: Lab, pod: str, command: tuple[str, ...]) -> None:
    """Run a command in a pod, e.g. `exec a1 -- ping -c1 b1`."""
    become(lab.command(pod, without_dashes(command)))


@lab.command(context_settings=PASS_ON)
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@named
def run(lab: Lab, node: str, command: tuple[str, ...]) -> None:
    """Run a command on a node or `outside`; Open vSwitch, CNI and the agent are in their usual places."""
    become(lab.command(node, without_dashes(command)))


@lab.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@named
def kubectl(lab: Lab, arguments: tuple[str, ...]) -> None:
    """Run kubectl as the administrator of a Kubernetes lab, e.g. `kubectl get pods -A`."""
    if not isinstance(lab, Cluster):
        raise LabError(f"{lab.name} is no Kubernetes lab", "`ovsnet lab up --kubernetes` makes one")
    become(lab.kubectl_command(arguments))


@lab.command(context_settings=PASS_ON)
@click.argument("node")
@click.argument("tool", nargs=-1, required=True, type=click.UNPROCESSED)
@named
def ovs(lab: Lab, node: str, tool: tuple[str, ...]) -> None:
    """Run an Open vSwitch tool against a node's switch, e.g. `ovs node-a -- ovs-vsctl show`."""
    tool = without_dashes(tool)
    if not tool[0].startswith(("ovs-", "ovsdb-")):
        raise LabError(
            f"{tool[0]} is not an Open vSwitch tool", "`ovsnet lab run` runs any command on a node"
        )
    become(lab.node(node).command(tool))


def without_dashes(command: tuple[str, ...]) -> tuple[str, ...]:
    """click leaves the "--" in front of the command there, since options may follow without it."""
    rest = command[1:] if command[0] == "--" else command
    if not rest:
        raise click.UsageError("a command is missing after --")
    return rest


def become(command: list[str]) -> None:
    """Replace this process, so that terminal, signals and exit code are the command's own."""
    sys.stdout.flush()
    os.execv(command[0], command)


@lab.command()
@click.argument("node")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until interrupted.")
@named
def logs(lab: Lab, node: str, follow: bool) -> None:
    """Print the log of a node's agent."""
    path = lab.node(node).log(AGENT)
    if not path.exists():
        raise LabError(f"the agent of {node} has no log", f"`ovsnet lab --name {lab.name} up` starts it")
    tail = shutil.which("tail") or "/usr/bin/tail"
    become([tail, "--lines=+1", *(["--follow=name", "--retry"] if follow else []), str(path)])


@lab.command()
@click.argument("node", required=False, default="")
@named
def add_node(lab: Lab, node: str) -> None:
    """Add a node to the running lab, named NODE or the next in the row."""
    console.print(f"{lab.add_node(node).name} is up")


@lab.command()
@click.argument("node")
@named
def remove_node(lab: Lab, node: str) -> None:
    """Remove a node and its pods, as if it lost power for ever."""
    lab.remove_node(node)
    console.print(f"{node} is removed")


@lab.command()
@click.argument("node")
@click.argument("pod")
@click.option("--namespace", metavar="NAME", default=DEFAULT, help="Of the Pod.  [default: default]")
@click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, help="For selectors; several times.")
@click.option("--port", "ports", metavar="NAME=NUMBER", multiple=True, help="A TCP port that has a name.")
@named
def add_pod(
    lab: Lab, node: str, pod: str, namespace: str, labels: tuple[str, ...], ports: tuple[str, ...]
) -> None:
    """Add a pod called POD on NODE."""
    numbers: dict[str, int] = {}
    for name, number in pairs("--port", ports).items():
        if not number.isdecimal() or not 1 <= int(number) <= 65535:
            raise click.BadParameter(
                f"{name}={number}: a number from 1 to 65535 is asked for", param_hint="--port"
            )
        numbers[name] = int(number)
    added = lab.add_pod(node, pod, namespace=namespace, labels=pairs("--label", labels), ports=numbers)
    console.print(f"{added.name} is up on {node}: {', '.join(map(str, added.addresses))}")


@lab.command()
@click.argument("pod")
@click.argument("labels", metavar="[KEY=VALUE]...", nargs=-1)
@named
def label_pod(lab: Lab, pod: str, labels: tuple[str, ...]) -> None:
    """Give a pod these labels instead of those that it has."""
    lab.label_pod(pod, pairs("KEY=VALUE", labels))
    console.print(f"{pod} has {' '.join(labels) if labels else 'no labels'}", markup=False)


def pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE, as people write labels."""
    found = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{each!r}: KEY=VALUE is asked for", param_hint=option)
        found[key] = value
    return found


@lab.command()
@click.argument("pod")
@named
def remove_pod(lab: Lab, pod: str) -> None:
    """Remove a pod."""
    lab.remove_pod(pod)
    console.print(f"{pod} is removed")
