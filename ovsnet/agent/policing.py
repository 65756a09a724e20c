"""The policies of this node's pods, from the store's snapshots or, while there is none, from the switch.

Owns what has been derived from policies, and whether a pod's are known. A pod gets its policies in the bundle with
its flows. An agent that starts while its store is away goes on with what an earlier one has installed, and where the
switch has lost that, with what OVSDB remembers (`marks`). Called by the agent's loop and by `attachments`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping

from ovsnet import names, policies
from ovsnet.agent.doubts import Doubts
from ovsnet.agent.drift import cookie_in
from ovsnet.agent.installer import Installer
from ovsnet.agent.marks import NONE, Mark, Marks, mark_of, word
from ovsnet.agent.older import Older
from ovsnet.errors import TryAgain
from ovsnet.mappings import different
from ovsnet.model import IPAddress, Node, Pod
from ovsnet.pipeline import is_drop
from ovsnet.policies import Policies
from ovsnet.policycuts import CutJudge, denies_more
from ovsnet.policymodel import Direction, LabelledPod
from ovsnet.policynodes import NodeAddresses
from ovsnet.policyobjects import ClusterRule, PolicedPod, PolicyObject
from ovsnet.policyremarks import remarks
from ovsnet.render import Lines, Rendered, Renderer, cookie_for, cookie_of
from ovsnet.servicemodel import Service
from ovsnet.store import Snapshot
from ovsnet.switch.openflow import OpenFlow

log = logging.getLogger("ovsnet.policies")

_PATIENCE = 10.0
"""Seconds that an ADD waits for the store to tell of its pod; the runtime tries again after it."""
_UNREAD = "what could not be read since the agent started"
_NAMED = 10
"""Pods that a line names."""


class Policing:
    """What is to be installed for policies. pods: this node's, those of requests under way included. installed: what
    the switch has, by cookie. node: the node's name."""

    def __init__(
        self,
        openflow: OpenFlow,
        renderer: Renderer,
        pods: Callable[[], Iterable[Pod]],
        marks: Marks,
        installed: Callable[[], Mapping[int, Lines]],
        node: str = "",
        patience: float = _PATIENCE,
    ) -> None:
        self._node = node
        self._openflow = openflow
        self._renderer = renderer
        self._pods = pods
        self._marks = marks
        self._installed = installed
        self.doubts = Doubts(marks, pods)
        self._patience = patience
        self._policies = Policies()
        self._snapshot: Snapshot | None = None
        self._nodes: tuple[Mapping[str, Node], dict[str, NodeAddresses]] = {}, {}
        self._local: dict[str, tuple[IPAddress, ...]] = {}
        self._kept: Rendered = {}
        self._remembered = False
        self._closed: set[int] = set()
        """Cookies of pods of which is known only that they may be isolated."""
        self._news = asyncio.Event()
        self.rendered: dict[int, Lines] = {}
        """Flows of policies, by cookie."""
        self._pending: set[int] = set()
        """Cookies of those that changed and may not be installed yet."""
        self.older = Older(openflow, renderer, marks, pods)
        self._lost: list[str] = []
        """That policies of pods are not known, in words."""
        self._remarked: tuple[object, ...] = ()
        self._remarks: list[str] = []
        """What was remarked last, and of what."""
        self._stricter = True
        """Policies may deny what they did not when `stricter` was asked last."""
        self.was_needed = False
        """Since the start a pod of this node has been isolated, or may have been."""

    async def follow(self, snapshot: Snapshot | None, *, unknown: bool) -> dict[int, Lines]:
        """Takes in the latest snapshot; what is to be installed otherwise than before, by cookie.

        unknown: nobody knows yet what the switch holds. Raises SwitchUnavailable.
        """
        if snapshot is None:
            if unknown and not self._remembered:
                await self._remember()
                self._remembered = True
            return {}
        self.doubts.follow(snapshot, first=self._snapshot is None)
        renewed = unknown or bool(self._closed)
        if renewed and (snapshot.has_policies or self.doubts.floor):
            await self.older.look(self._closed)
        self._closed = set()
        if snapshot is not self._snapshot:
            self._snapshot, self._kept = snapshot, {}
            news, self._news = self._news, asyncio.Event()
            news.set()
        return self._update(renewed=renewed)

    def update(self) -> dict[int, Lines]:
        """This node's pods may be others than before; the rest as `follow`."""
        return self._update(renewed=False)

    def _update(self, *, renewed: bool) -> dict[int, Lines]:
        snapshot = self._snapshot
        if snapshot is None:
            return {}
        before = self._local
        self._policies.update(
            snapshot.policies,
            snapshot.namespaces,
            snapshot.pods,
            self._addresses(),
            self._node_addresses(snapshot.nodes),
            snapshot.cluster_policies,
            self._node,
            self.doubts.floor,
        )
        changed = self._render(self._policies.news())
        self.older.note(self._policies.isolated, self._local, None if renewed else before)
        self.was_needed = self.was_needed or bool(self._policies.isolated)
        return changed

    def coming(self) -> dict[int, Lines]:
        """What a pod that comes now takes with it: `update`, and all that changed before and is not installed yet. What
        denies it something may be on its way."""
        changed = self.update()
        self._forget_installed()
        return {each: self.rendered.get(each, ()) for each in self._pending} | changed

    def _forget_installed(self) -> None:
        installed = self._installed()
        self._pending = {
            each for each in self._pending if installed.get(each, ()) != self.rendered.get(each, ())
        }

    async def enforce(self, snapshot: Snapshot, installer: Installer) -> None:
        """Has the switch follow the latest snapshot, whatever may be wrong with all else. Raises as `serve` does."""
        cookies = [*await self.follow(snapshot, unknown=False)]
        await self.older.add(installer)
        if cookies:
            await self.note()
            # As they are by now: pods come and go meanwhile.
            await installer.serve({cookie: self.rendered.get(cookie, ()) for cookie in cookies})
            self._forget_installed()

    def judge(self, own: Iterable[IPAddress], senders: Iterable[IPAddress]) -> CutJudge | None:
        """By the policies that are known now; None while there are none, or not all. own, senders: see there."""
        if self._snapshot is None or self.doubts.unread:
            return None
        pods = {ip: key for key, ips in self._local.items() for ip in ips}
        return CutJudge(self._policies, pods, frozenset(own), frozenset(senders))

    def denying(self, cookie: int, direction: Direction) -> tuple[str, list[str]] | None:
        """The key of the isolated pod whose flows have the cookie, and the policies that isolate it so; or "" and a
        rule of a ClusterNetworkPolicy."""
        pod = self.older.isolated.get(cookie)
        if pod is not None:
            if self._policies.stays_closed(pod.key, direction):
                return pod.key, [_UNREAD]
            return pod.key, [each.key for each in self._policies.isolating(pod.key, direction)]
        rule = self._renderer.known(cookie)
        return ("", [rule.title]) if isinstance(rule, ClusterRule) else None

    def denier(self, cookie: int, source: IPAddress) -> tuple[Direction | None, list[str]]:
        """In which direction a flow of that cookie denies a packet from that address, and which policies do, in words;
        where nobody knows by now, none."""
        rule = self._renderer.known(cookie)
        if isinstance(rule, ClusterRule):
            return rule.direction, [rule.title]
        pod = self.older.isolated.get(cookie)
        if pod is None:
            return None, []
        direction = Direction.EGRESS if source in pod.ips else Direction.INGRESS
        if self._policies.stays_closed(pod.key, direction):
            return direction, [_UNREAD]
        found = self._policies.isolating(pod.key, direction)
        return direction, [f"NetworkPolicy {each.key}" for each in found]

    @property
    def known_pods(self) -> Mapping[str, LabelledPod]:
        """Of the cluster, by key, as far as policies need them."""
        return self._snapshot.pods if self._snapshot is not None else {}

    @property
    def known_services(self) -> Mapping[str, Service]:
        return self._snapshot.services if self._snapshot is not None else {}

    def render_anew(self) -> None:
        """The switch takes other flows than it was thought to."""
        for obj in self._policies.objects:
            self.rendered[cookie_of(obj)] = self._renderer.object(obj)
        self._kept = {cookie: tuple(map(self._as_now, lines)) for cookie, lines in self._kept.items()}

    def _as_now(self, line: str) -> str:
        """A flow that an agent has installed which may have logged what it drops, and this one not."""
        match, _, actions = line.partition(" actions=")
        return f"{match} actions={self._renderer.deny}" if actions != "drop" and is_drop(actions) else line

    def stricter(self) -> bool:
        """Whether policies may deny what they did not when this was asked last."""
        stricter, self._stricter = self._stricter, False
        return stricter

    async def note(self) -> None:
        """Takes down who is about to be isolated, before flows do it."""
        if (snapshot := self._snapshot) is not None:
            policies = snapshot.has_policies
            await self._marks.strengthen(self._ports(self._policies.isolated), policies=policies)

    async def settle(self) -> None:
        """All is installed: takes down who is isolated and who is not. Raises SwitchUnavailable or OvsnetError."""
        self._forget_installed()
        snapshot = self._snapshot
        if snapshot is None or self.doubts.unread:
            # What could not be read may isolate.
            return
        marked: dict[str, Mark] = {pod.port: NONE for pod in self._pods()}
        marked |= self._ports(self._policies.isolated)
        await self._marks.settle(marked, policies=snapshot.has_policies)

    def remarks(self) -> list[str]:
        """What policies of this node's pods say that means nothing, in words."""
        snapshot = self._snapshot
        if snapshot is None:
            return self._lost
        seen = snapshot.policies, snapshot.pods, snapshot.namespaces, self._local
        if (
            any(one is not other for one, other in zip(seen, self._remarked, strict=False))
            or not self._remarked
        ):
            self._remarked = seen
            found = remarks(self._policies, snapshot.policies, self._local, snapshot.pods)
            self._remarks = [
                f"NetworkPolicy {key}: {'; '.join(lines)}" for key, lines in sorted(found.items())
            ]
        return [*self.doubts.lines(self._local), *self._remarks]

    def identity(self, pod: Pod) -> dict[str, str]:
        """What the pod's row says of its policies, which `update` has just been asked for.

        Without a store a pod comes only where there are none."""
        isolated = (each for each in self._policies.isolated if each.key == pod.pod_key)
        return {names.KEY_POLICIES: word(next(map(mark_of, isolated), NONE))}

    def _ports(self, isolated: Iterable[PolicedPod]) -> dict[str, Mark]:
        """How pods are isolated, by their ports."""
        marks = {pod.key: mark_of(pod, self._policies.floor(pod.key)) for pod in isolated}
        return {pod.port: marks[key] for pod in self._pods() if (key := pod.pod_key) in marks}

    async def admit(self, key: str, uid: str = "") -> None:
        """Returns when it is known which policies the Pod of that key has. Raises TryAgain if nobody says.

        uid: the runtime's; an earlier Pod of that name may have had other labels.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while self._unknown(key, uid) is not None:
                    await self._news.wait()
        if (why := self._unknown(key, uid)) is not None:
            raise TryAgain(f"the policies of pod {key} are not known: {why}", "the runtime will try again")

    def with_kept(self, rendered: Rendered) -> Rendered:
        """What is to be installed, with what has been read back."""
        return {**rendered, **self._kept} if self._kept else rendered

    def figures(self) -> dict[str, float]:
        """For `metrics`."""
        return {
            "policies": len(self._snapshot.policies) if self._snapshot else 0,
            "cluster_policies": len(self._snapshot.cluster_policies) if self._snapshot else 0,
            "policed_pods": len(self._policies.isolated),
            "policy_flows": sum(map(len, self.rendered.values())),
        }

    def _unknown(self, key: str, uid: str) -> str | None:
        """Why the pod's policies are not known, in words."""
        if self._snapshot is None:
            known_free = not self._kept and not self._marks.may_have_policies
            return None if known_free else "the store is away, and there were policies before"
        if unread := self.doubts.about(key):
            return f"{unread} could not be read since the agent started, and may have some"
        known = self._snapshot.pods.get(key)
        if known is not None and (not uid or not known.uid or known.uid == uid):
            return None
        namespace = key.partition("/")[0]
        for policy in self._snapshot.policies.values():
            if policy.namespace == namespace and policy.pods.requirements:
                found = "no Pod of that name" if known is None else "an earlier Pod of that name"
                return f"the store has {found}, and NetworkPolicy {policy.key} selects by labels"
        if (policy_name := self._policies.asks_for_labels(namespace)) is not None:
            found = "no Pod of that name" if known is None else "an earlier Pod of that name"
            return f"the store has {found}, and ClusterNetworkPolicy {policy_name} selects by labels"
        return None

    def _addresses(self) -> dict[str, tuple[IPAddress, ...]]:
        """Of this node's pods, by the Pod's key; the very same as before where they did not change."""
        found = policies.addresses(self._pods())
        before = self._local
        if found != before:
            self._local = {key: old if (old := before.get(key)) == ips else ips for key, ips in found.items()}
        return self._local

    def _node_addresses(self, nodes: Mapping[str, Node]) -> dict[str, NodeAddresses]:
        """The very same as before of a node that is the same."""
        before, found = self._nodes
        if before is not nodes:
            others = {name: nodes[name] for name in different(before, nodes) if name in nodes}
            kept = {name: each for name, each in found.items() if name in nodes}
            self._nodes = nodes, kept | policies.node_addresses(others)
        return self._nodes[1]

    def _render(self, news: Mapping[tuple[type, str], PolicyObject | None]) -> dict[int, Lines]:
        changed: dict[int, Lines] = {}
        for (kind, key), item in news.items():
            cookie = cookie_for(kind, key)
            before = self.rendered.pop(cookie, ())
            changed[cookie] = () if item is None else self._renderer.object(item)
            if item is not None:
                self.rendered[cookie] = changed[cookie]
            self._stricter = self._stricter or denies_more(before, changed[cookie])
        self._pending |= changed.keys()
        return changed

    async def _remember(self) -> None:
        kept: dict[int, Lines] = {}
        for kind in names.POLICIES:
            for line in await self._openflow.flows_of(kind):
                cookie = cookie_in(line)
                kept[cookie] = (*kept.get(cookie, ()), self._as_now(line))
        if kept:
            log.warning("policies stay as an earlier agent has installed them until the store is there")
        there = {cookie_in(line) for line in await self._openflow.flows_of("pod")}
        found = self._marks.closed(pod for pod in self._pods() if cookie_of(pod) not in there)
        closed = {key: each for key, each in found.items() if cookie_of(each) not in kept}
        self._closed = {cookie_of(each) for each in closed.values()}
        if self._closed:
            self._lost = [
                f"the switch has lost its flows, and the store is away: {len(closed)} pods that policies isolated, or "
                "that nobody knows, reach nobody but this node until the store is there: "
                + ", ".join(sorted(closed)[:_NAMED])
            ]
        self._kept = {cookie_of(each): self._renderer.object(each) for each in closed.values()} | kept
        self.was_needed = self.was_needed or bool(self._kept)
