"""The agent, its configuration, its manifests. Pure. Called by `examine`."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence

from ovsnet.config import OUTDATED, RESTART
from ovsnet.doctor.finding import Finding, fault, ok, warning
from ovsnet.doctor.judge.switch import Socket

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def configuration(path: str, error: str | None, problems: Sequence[str], outdated: bool = False) -> Finding:
    """error: why it can't be used; None if it can. outdated: the agent runs with another one."""
    if error is None and outdated:
        return warning("configuration", f"{path}: {OUTDATED}", f"{RESTART}; what follows goes by the file")
    if error is None:
        return ok("configuration", f"{path}: no mistake")
    lines = "; ".join(problems)
    return fault(
        "configuration",
        f"{error}{': ' if lines else ''}{lines}",
        "correct it (ovsnet agent --check-config); what follows here is judged by the defaults",
    )


def answers(path: str, health: Mapping[str, object] | None) -> Finding:
    """health: the agent's own words; None when it does not answer."""
    if health is None:
        return fault(
            "agent",
            f"does not answer on {path}",
            "systemctl status ovsnet; journalctl -u ovsnet; systemctl restart ovsnet",
        )
    if not health.get("ready"):
        return fault("agent", f"runs, but is not ready: {health.get('trouble')}", "see journalctl -u ovsnet")
    return ok("agent", f"answers on {path} and is ready")


def socket(found: Socket) -> Finding:
    title = "agent's socket"
    if not found.kind:
        return fault(
            title, f"{found.path} is not there", "start the agent; is `cniSocket` in the configuration right?"
        )
    if found.kind != "socket":
        return fault(title, f"{found.path} is no socket", f"remove {found.path} and restart the agent")
    if found.uid != 0 or found.mode & _OTHERS:
        return fault(
            title,
            f"{found.path} belongs to uid {found.uid} with mode {found.mode:04o}; it must be root's alone",
            f"chown root {found.path} && chmod 0600 {found.path}: who writes there attaches pods",
        )
    return ok(title, f"{found.path}, root's, mode {found.mode:04o}")


def unread(why: str, hint: str) -> Finding:
    """The store can't be read. hint: what to look at."""
    return fault(
        "store",
        f"can't be read: {why}",
        f"{hint}; is `store.file` or `store.kubernetes` in the configuration right? What was known stays in force",
    )


def manifests(count: int, problems: Mapping[str, str]) -> list[Finding]:
    """count: Node objects that are good."""
    wrong = [
        fault("manifests", f"{file}: {words}", "correct the file; what was good before stays in force")
        for file, words in sorted(problems.items())
    ]
    return wrong or [ok("manifests", f"{count} nodes, no mistake")]


def objects(count: int, problems: Mapping[str, str]) -> list[Finding]:
    """As `manifests`, of the Kubernetes API. Whoever may make a Service or policy of theirs makes no node's doctor find
    a fault of that node."""
    todo = "correct the object, whoever it belongs to; what is good of it, or was before, stays in force"
    wrong = [
        (fault if subject.startswith("Node ") else warning)("objects", f"{subject}: {words}", todo)
        for subject, words in sorted(problems.items())
    ]
    return wrong or [ok("objects", f"{count} nodes, no mistake")]


def remembered(name: str, peers: int | None, problems: Iterable[str], error: str | None) -> list[Finding]:
    """What can be said of this node while the store can't be read.

    peers: how many OVSDB remembers; None: not even the node.
    problems, error: what can't work by what OVSDB remembers.
    """
    first = "first let the store be read"
    if error is not None:
        return [fault("this node", error, "correct the configuration")]
    if peers is None:
        words = f"not looked at, nor gateway and peers: the store can't be read, and OVSDB does not remember {name}"
        return [warning("this node", words, first)]
    words = f"Node objects were not looked at: judged by OVSDB, which remembers {name} and {peers} peers"
    return [
        *(fault("this node", problem, "correct the configuration") for problem in problems),
        warning("this node", words, first),
    ]


def topology(name: str, own_node: bool, problems: Iterable[str], error: str | None) -> list[Finding]:
    """problems, error: what can't work as configuration and manifests describe it."""
    if error is not None:
        return [fault("this node", error, "correct the configuration or the Node object")]
    found = [fault("this node", problem, "correct the Node object that it names") for problem in problems]
    if not own_node:
        found.append(
            warning(
                "this node",
                f"there is no Node object {name}: no peer can send to it",
                "add it to all nodes' stores",
            )
        )
    return found or [ok("this node", f"{name}: configuration and Node objects agree")]


def pods(health: Mapping[str, object] | None) -> list[Finding]:
    """What the agent says of ports and Pods that do not go together; nothing while nobody can say."""
    said = health.get("strays") if health is not None else None
    if not isinstance(said, dict):
        return []
    found = [
        warning("pods", f"{each['subject']} {each['what']}", each["todo"])
        for kind in ("ports", "pods")
        for _, each in sorted(said[kind].items())
    ]
    return found or [ok("pods", "all that have a port are the API server's, and the other way round")]


def published(differences: Iterable[str]) -> list[Finding]:
    """differences: what peers publish that does not go with this node."""
    todo = "look again in a minute, since agents follow a change one after the other; then do what it says"
    return [warning("peers' annotations", words, todo) for words in differences]
