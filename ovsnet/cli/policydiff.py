"""`ovsnet policy diff`: what manifests would newly allow and deny, before they are applied.

Reads manifests strictly: what an agent would leave out and go on is an error here, since whoever asks wants to know
what the file means. Changes nothing. What the change comes to is `policydiff`'s to say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovsnet.cli import options
from ovsnet.errors import ConfigError, OvsnetError

if TYPE_CHECKING:
    from ovsnet.policyjudge import World
    from ovsnet.store.reading import Readable

_STDIN = "-"
_KINDS = ("NetworkPolicy", "ClusterNetworkPolicy", "Namespace", "Pod")
_GROUPS = {"ClusterNetworkPolicy": ("policy.networking.k8s.io",)}
"""API groups of a kind, if they are others than these."""
_USUAL_GROUPS = ("", "networking.k8s.io", "extensions")
_MAX_SIZE = 64 * 2**20
"""Bytes of a file; more is no file of policies."""


@click.command()
@options.config_option
@options.output_option
@click.option(
    "--delete",
    "deleted",
    metavar="[NAMESPACE/]NAME",
    multiple=True,
    help="Take this NetworkPolicy away, or, without a namespace, this ClusterNetworkPolicy. May be given repeatedly.",
)
@click.option("--all", "everything", is_flag=True, help="Print everything, however long that gets.")
@click.argument("files", metavar="FILE...", nargs=-1)
def diff(path: Path, output: str, deleted: tuple[str, ...], everything: bool, files: tuple[str, ...]) -> None:
    """Tell which connections FILE would newly allow or deny if it were applied.

    FILE has manifests: NetworkPolicies and ClusterNetworkPolicies, which are added or take the place of those of the
    same name, and Pods and Namespaces, of which the labels count; - is standard input. Compared are all pods of all
    nodes as they are now, with one another, with nodes and with all addresses outside, on all ports. Ends that policies
    can't tell apart are told in one line. Exits with 0 if nothing would change, 1 if something would, 2 if nobody can
    tell.
    """
    from ovsnet.cli.main import report

    if not files and not deleted:
        raise click.UsageError("give FILE or --delete [NAMESPACE/]NAME")
    try:
        found = _diff(path, files, deleted, everything)
    except OvsnetError as error:
        report(error)
        raise SystemExit(2) from None
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found, everything)
    raise SystemExit(1 if found["pairs"] else 0)


def _diff(path: Path, files: Sequence[str], deleted: Sequence[str], everything: bool) -> dict[str, Any]:
    """Raises OvsnetError."""
    from ovsnet import policydiff, policydiffwords
    from ovsnet.cli.policycheck import snapshot_of, world_of

    objects = _read(files)
    view = options.view_of(path)
    before = world_of(view, snapshot_of(view))
    after, applied = _applied(before, objects, deleted)
    return {"applied": applied, **policydiffwords.shown(policydiff.compare(before, after), everything)}


def _print(found: Mapping[str, Any], everything: bool) -> None:
    from ovsnet import policydiffwords
    from ovsnet.cli import console

    out = console.console(sys.stdout)
    for line in found["applied"]:
        out.print(f"if applied: {line}", markup=False)
    for line in policydiffwords.lines(found, everything):
        style = "red" if ": allowed -> DENIED" in line else "green" if ": denied -> ALLOWED" in line else None
        out.print(line, style=style, markup=False)


# --- reading ---


def _read(files: Sequence[str]) -> dict[tuple[str, str], Readable]:
    """What the files say, by kind and key. Raises ConfigError with every mistake."""
    from ovsnet.store.reading import key_of, kind_of

    found: dict[tuple[str, str], Readable] = {}
    places: dict[tuple[str, str], str] = {}
    problems: list[str] = []
    for name in files:
        title = "standard input" if name == _STDIN else name
        objects, wrong = _contents(_text(name, title), title)
        problems += wrong
        for each in objects:
            key = kind_of(each), key_of(each)
            if key in places:
                problems.append(f"{title}: {' '.join(key)} is in {places[key]} as well; keep one")
            found[key], places[key] = each, title
    if problems:
        raise ConfigError("what would change can't be told", "correct the manifests", problems)
    return found


def _text(name: str, title: str) -> str:
    """Raises OvsnetError."""
    try:
        if name == _STDIN:
            data = sys.stdin.buffer.read(_MAX_SIZE + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise OvsnetError(
            f"{title}: {error.strerror}", "give a file of manifests, or - to pipe it in"
        ) from None
    if len(data) > _MAX_SIZE:
        raise OvsnetError(f"{title} has more than {_MAX_SIZE >> 20} MiB", "give a file of manifests")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OvsnetError(
            f"{title}: not UTF-8 text at byte {error.start}", "give a file of manifests"
        ) from None


def _contents(text: str, title: str) -> tuple[list[Readable], list[str]]:
    """Objects of the kinds that count here, and what is wrong. Of other kinds is told, since they are not compared."""
    from ovsnet.store import manifest

    contents = manifest.read(text, title)
    problems = [f"{title}: {each}" for each in (*contents.problems, *contents.remarks)]
    objects = [each for kind in _KINDS for each in contents.objects.get(kind, {}).values()]
    if problems:
        return objects, problems
    others = list(_others(text))
    for each in others:
        click.echo(f"note: {title}: {each} is passed over: {', '.join(_KINDS)} count", err=True)
    if not objects:
        problems.append(f"{title}: has no object of these kinds: {', '.join(_KINDS)}")
    return objects, problems


def _others(text: str) -> Iterator[str]:
    """Objects that are not read: of other kinds, or of other API groups."""
    from ovsnet.store import documents, manifest

    for document in documents.read(text):
        for _, item in manifest.objects(document, ""):
            if not isinstance(item, dict):
                continue
            version, kind = str(item.get("apiVersion", "")), str(item.get("kind"))
            groups = _GROUPS.get(kind, _USUAL_GROUPS)
            # Without a version it is read as the kind that it says.
            if kind not in _KINDS or (version and version.rpartition("/")[0] not in groups):
                metadata = item.get("metadata")
                name = metadata.get("name", "") if isinstance(metadata, dict) else ""
                yield f"{kind} {name}".rstrip() + (f" of {version}" if kind in _KINDS else "")


# --- what it would be like ---


def _applied(
    before: World, objects: Mapping[tuple[str, str], Readable], deleted: Sequence[str]
) -> tuple[World, list[str]]:
    """The world with the change, and what that is in words. Raises ConfigError."""
    import msgspec

    problems = [*_undeletable(before, objects, deleted)]
    words = [f"{_kind(key)} {key} is deleted" for key in deleted]
    known = {"NetworkPolicy": before.policies, "ClusterNetworkPolicy": before.cluster_policies}
    policies: dict[str, dict[str, Any]] = {
        kind: {key: each for key, each in those.items() if key not in deleted}
        for kind, those in known.items()
    }
    for (kind, key), each in objects.items():
        if kind in policies:
            words.append(f"{kind} {key} is {'replaced' if key in policies[kind] else 'added'}")
            policies[kind][key] = each
    after = msgspec.structs.replace(
        _relabelled(before, objects, words, problems),
        policies=policies["NetworkPolicy"],
        cluster_policies=policies["ClusterNetworkPolicy"],
    )
    if problems:
        raise ConfigError("what would change can't be told", "correct what you ask about", problems)
    return after, words


def _kind(key: str) -> str:
    """Of the policy that --delete takes away."""
    return "NetworkPolicy" if "/" in key else "ClusterNetworkPolicy"


def _relabelled(
    before: World, objects: Mapping[tuple[str, str], Readable], words: list[str], problems: list[str]
) -> World:
    """The world with labels of namespaces and pods as they would be."""
    import msgspec

    from ovsnet.policymodel import LabelledPod, Namespace

    namespaces, pods = dict(before.namespaces), dict(before.pods)
    for each in objects.values():
        if isinstance(each, Namespace):
            known = namespaces.get(each.name)
            if known is None or known.labels != each.labels:
                words.append(f"Namespace {each.name} {'has other labels' if known else 'is added'}")
            namespaces[each.name] = each
        elif isinstance(each, LabelledPod):
            pod = pods.get(each.key)
            if pod is None:
                problems.append(f"Pod {each.key} is not there; only pods that are there can be compared")
                continue
            if pod.labels != each.labels:
                words.append(f"Pod {each.key} has other labels")
                pods[each.key] = msgspec.structs.replace(pod, labels=each.labels)
    return msgspec.structs.replace(before, namespaces=namespaces, pods=pods)


def _undeletable(
    before: World, objects: Mapping[tuple[str, str], Readable], deleted: Sequence[str]
) -> Iterator[str]:
    for key in deleted:
        kind = _kind(key)
        known = before.policies if kind == "NetworkPolicy" else before.cluster_policies
        if (kind, key) in objects:
            yield f"--delete {key}: a file has this {kind}; choose one"
        elif key not in known:
            some = ", ".join(sorted(known)[:10]) or "none"
            hint = "; of a NetworkPolicy, give NAMESPACE/NAME" if kind == "ClusterNetworkPolicy" else ""
            yield f"--delete {key}: there is no such {kind}; there are: {some}{hint}"
