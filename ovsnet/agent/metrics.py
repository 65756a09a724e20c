"""What the agent counts and times, for Prometheus: http://ADDRESS:PORT/metrics, where the configuration asks for it.

Owns names and help texts of the metrics; figures that exist elsewhere are read when somebody asks. Knows nothing of how
they come about. Composed in `app`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ovsnet.agent import web
from ovsnet.agent.denials import Denials, Denied

log = logging.getLogger("ovsnet.agent")

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

Figures = Mapping[str, float | Mapping[str, float]]
"""By name: a figure, or several by what they are about."""

# By name: the help text, and the label that tells figures of one name apart, if there is one.

GAUGES = {
    "ready": ("1 while the switch and the agent can serve pods.", ""),
    "in_force": ("1 while changes come into force within a minute.", ""),
    "store_away": ("1 while the store does not answer, or refuses.", ""),
    "pods": ("Attachments of pods to this node's bridge.", ""),
    "leftover_pods": ("Of ovsnet_pods, those whose Pod the API server does not have, for long.", ""),
    "unattached_pods": (
        "Pods on this node by the API server's word whose address no port has, for long.",
        "",
    ),
    "addresses": ("Addresses of this node that pods can have, by range.", "range"),
    "addresses_free": ("Of ovsnet_addresses, those that the next pod can have now.", "range"),
    "peers": ("Other nodes that this one has to reach.", ""),
    "services": ("Services with flows on this node.", ""),
    "endpoints": ("Endpoints whose answers this node translates.", ""),
    "policies": ("NetworkPolicies of the cluster.", ""),
    "cluster_policies": ("ClusterNetworkPolicies of the cluster.", ""),
    "policed_pods": ("Pods of this node that policies isolate.", ""),
    "policy_flows": ("Flows of policies, of those of ovsnet_flows.", ""),
    "flows": ("OpenFlow flows and groups of ovsnet's.", ""),
    "mtu_bytes": ("MTU of pods.", ""),
}
COUNTERS = {
    "flow_modifications": ("Flows and groups written or removed since the start.", ""),
    "cut_connections": ("Connections that changed policies have ended; see policy.cutDenied.", ""),
    "denied_log_lines": ("Lines about packets that policies denied; see policy.logDenied.", ""),
    "denied_log_suppressed_packets": (
        "Of the denied packets that the switch has shown the agent, those without a line of their own.",
        "",
    ),
    "drift": ("What others changed and was put right, by kind.", "kind"),
    "api_requests": ("Requests to the Kubernetes API, by verb.", "verb"),
    "api_received_bytes": ("Bytes of the Kubernetes API's answers.", ""),
}


DENIED_PACKETS = "Packets that policies denied, by the pod whose policies they are, direction and policies."


class Metrics:
    """read: gives the figures named in GAUGES and COUNTERS; those that there are not are left out. denials: what
    policies denied, which is read before each answer; None: nobody counts."""

    def __init__(self, read: Callable[[], Figures], denials: Denials | None = None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Reader(read, denials))
        self._denials = denials
        self._programmed = Histogram(
            "ovsnet_program_seconds",
            "Time from when a change's event came until flows, groups and routes were in, by kind of object.",
            ["kind"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._server: asyncio.Server | None = None

    def programmed(self, kind: str, seconds: float) -> None:
        """A change of objects of this kind is in."""
        self._programmed.labels(kind).observe(seconds)

    async def serve(self, address: str, port: int) -> None:
        """Answers from now on; a port that can't be had is told in the log, and the network works all the same."""
        try:
            self._server = await web.listen(address, port, self._answer)
        except OSError as error:
            log.error(
                "no metrics at %s port %d: %s; choose another with metrics.port",
                address,
                port,
                error.strerror,
            )

    def close(self) -> None:
        """Answers no more."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, path: str, _port: int) -> web.Reply:
        if path != "/metrics":
            return web.Reply("404 Not Found", "text/plain", b"only /metrics is here\n")
        if self._denials is not None:
            await self._denials.read()
        return web.Reply("200 OK", exposition.CONTENT_TYPE_LATEST, exposition.generate_latest(self._registry))


class _Reader(Collector):
    """Asks for the figures when somebody asks for the metrics."""

    def __init__(self, read: Callable[[], Figures], denials: Denials | None) -> None:
        self._read = read
        self._denials = denials

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        figures = self._read()
        if self._denials is not None:
            denied = CounterMetricFamily("ovsnet_denied_packets", DENIED_PACKETS, labels=Denied._fields)
            for who, packets in self._denials.sums.items():
                denied.add_metric(who, packets)
            yield denied
        for kind, names in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, (text, label) in names.items():
                figure = figures.get(name)
                if figure is None:
                    continue
                family = kind(f"ovsnet_{name}", text, labels=[label] if label else None)
                for what, value in figure.items() if isinstance(figure, Mapping) else [("", figure)]:
                    family.add_metric([what] if label else [], value)
                yield family
