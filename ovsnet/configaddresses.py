"""Where on the node the agent answers others, as the configuration has it: metrics, and load balancers' question.

Pure. Owns these sections' fields, which `docs/configuration.md` is generated from as well. Never listens. Called by
`config`.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

from msgspec import Meta

from ovsnet.configfields import Address, Section


class MetricsAddress(Section):
    """Where the agent tells its metrics."""

    port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="The TCP port of `/metrics` in the format of Prometheus; 0: none.",
            examples=[9477],
        ),
    ] = 0
    address: Annotated[
        Address,
        Meta(
            description="The address of the node that it answers on; `0.0.0.0` or `::` is every one.",
            examples=["192.0.2.11"],
            extra={"default": "`127.0.0.1`"},
        ),
    ] = ipaddress.IPv4Address("127.0.0.1")


HEALTHZ_PORT = 10256
"""kube-proxy's."""


class HealthzAddress(Section):
    """Where load balancers learn whether this node serves Services."""

    port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        Meta(
            description="The TCP port of `/healthz`: 200 while the node serves Services as the cluster asks, 503 while "
            "it does not, is being deleted, or has Cluster Autoscaler's taint `ToBeDeletedByClusterAutoscaler`; "
            "`/livez` is the same without what becomes of the node. Controllers of load balancers ask there "
            "as they ask kube-proxy; they expect 10256. 0: none.",
            examples=[10256],
            extra={"default": "10256 with the `kubernetes` store, none with a folder"},
        ),
    ] = None
    address: Annotated[
        Address | None,
        Meta(
            description="The address of the node that it answers on.",
            examples=["192.0.2.11"],
            extra={"default": "every one, as load balancers choose"},
        ),
    ] = None
