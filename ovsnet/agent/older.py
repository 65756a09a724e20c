"""Connections that are older than the policies of their pods: flows that end by themselves, see `OlderConnections`.

Owns which pods were isolated before, so that conntrack knows their connections, and the flows for those that were not.
Called by `policing`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable

from ovsnet.agent.drift import cookie_in
from ovsnet.agent.installer import Installer
from ovsnet.agent.marks import Marks
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.model import Pod
from ovsnet.policyobjects import OlderConnections, PolicedPod
from ovsnet.render import Lines, Renderer, cookie_for, cookie_of
from ovsnet.switch.openflow import OpenFlow

_SECONDS = 300
"""After a pod was isolated, in which its packets may be answers in connections that began before."""


class Older:
    """pods: this node's, those of requests under way included."""

    def __init__(
        self, openflow: OpenFlow, renderer: Renderer, marks: Marks, pods: Callable[[], Iterable[Pod]]
    ) -> None:
        self._openflow = openflow
        self._renderer = renderer
        self._marks = marks
        self._pods = pods
        self.flows: dict[int, Lines] = {}
        """By cookie: they are to be added once."""
        self.isolated: dict[int, PolicedPod] = {}
        """Pods that are isolated now, by cookie."""
        self._known: set[int] = set()
        """Cookies of pods that were isolated before, so that conntrack knows their connections."""
        self._over: set[int] = set()
        """Cookies of such flows, of pods that are gone: their addresses will be others'."""

    async def look(self, closed: Container[int]) -> None:
        """The switch may hold anything: who was isolated so far is what it has. closed: cookies of pods that are so for
        want of a store.

        If vswitchd began anew, so did conntrack in user space: nobody's connections are known. The kernel's goes on.
        """
        found: set[int] = set()
        with contextlib.suppress(SwitchUnavailable):
            found = {cookie_in(line) for line in await self._openflow.flows_of("policedpod")}
        known = {each for each in found if each not in closed}
        if self._renderer.in_kernel and not known:
            # With its own flows there, those of its policies had never come.
            there = {cookie_in(line) for line in await self._openflow.flows_of("pod")}
            marked = self._marks.isolated(pod for pod in self._pods() if cookie_of(pod) not in there)
            known = self._known | {cookie_for(PolicedPod, key) for key in marked}
        self._known = known

    def note(
        self, isolated: Iterable[PolicedPod], here: Container[str], before: Container[str] | None
    ) -> None:
        """Pods that are isolated now: those that were there before, and were not, have connections that nobody knows.

        here: this node's pods, by the Pod's key. before: those that were there; None: all were.
        """
        then, now = self.isolated, {cookie_of(pod): pod for pod in isolated}
        for cookie, pod in then.items():
            same = now.get(cookie)
            if pod.key not in here if same is None else same.ips != pod.ips:
                over = cookie_of(_older(pod))
                self._over.add(over)
                self.flows.pop(over, None)
        for cookie in now.keys() - self._known:
            pod = now[cookie]
            if before is None or pod.key in before:
                older = _older(pod)
                self.flows[cookie_of(older)] = self._renderer.object(older)
        self._known, self.isolated = set(now), now

    async def add(self, installer: Installer) -> None:
        """Pods that have just been isolated have connections that nobody knows; pods that are gone have none any more.
        Raises like `Installer.once`."""
        if self._over:
            over, self._over = self._over, set()
            try:
                await installer.end(over)
            except OvsnetError:
                self._over |= over
                raise
        flows, self.flows = self.flows, {}
        if not flows:
            return
        try:
            await installer.once(line for lines in flows.values() for line in lines)
        except OvsnetError:
            self.flows = {each: flows[each] for each in flows if each not in self._over} | self.flows
            raise


def _older(pod: PolicedPod) -> OlderConnections:
    return OlderConnections(namespace=pod.namespace, name=pod.name, ips=pod.ips, seconds=_SECONDS)
