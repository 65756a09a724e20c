"""The configuration's section of the store: a folder of manifests or the Kubernetes API.

Pure. Called by `config`, and by the choice of a store.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ovsnet.configfields import AbsolutePath, Section, ServerAddress


class Kubernetes(Section):
    """How the agent reaches the Kubernetes API."""

    kubeconfig: Annotated[
        AbsolutePath | None,
        Meta(
            description="A kubeconfig with a certificate, token or tokenFile; its current context counts. Without one, "
            "that of `$KUBECONFIG` in the agent's environment, else the service account of the pod that the agent "
            "runs in. Files are read again when they change, a token every minute.",
            examples=["/etc/ovsnet/kubeconfig"],
            extra={"default": "see there"},
        ),
    ] = None
    server: Annotated[
        ServerAddress | None,
        Meta(
            description="Where the API server is, instead of what the kubeconfig or the service account says. In a pod "
            "that would be the address of a Service, which nobody reaches before the agent has made the network: give "
            "a node's address, or that of a load balancer in front of the API servers.",
            examples=["https://192.0.2.1:6443"],
            extra={"default": "that of the kubeconfig or service account"},
        ),
    ] = None
    leftover_after: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="How long a pod's port is there whose Pod the API server does not have on this node, or a Pod "
            "runs here by its word and no port has its address, until the log, `ovsnet show`, `ovsnet doctor` and an "
            "Event of the Node say so; nothing is done about it. Longer than pods take to end that are deleted by "
            "force. 0: never, and the Pods of the node are followed only where policies need it.",
            extra={"unit": "seconds"},
        ),
    ] = 120


DEFAULT_FOLDER = "/etc/ovsnet/cluster"


class Store(Section):
    """Where the agent learns of the cluster. At most one of the keys is set."""

    file: Annotated[
        AbsolutePath | None,
        Meta(
            description="A folder of Kubernetes manifests with a Node object for every node, and Services and "
            "EndpointSlices if there are any; watched. NetworkPolicies and ClusterNetworkPolicies as well, with the "
            "Namespaces and Pods that they select by: labels, `status.podIPs` and ports with names of the pods of all "
            "nodes. Fill a new folder elsewhere and rename it into place: half of it would be another state.",
            extra={"default": f"`{DEFAULT_FOLDER}`, unless `kubernetes` is given"},
        ),
    ] = None
    kubernetes: Annotated[
        Kubernetes | None,
        Meta(
            description="The Kubernetes API instead of a folder: `kubernetes: {}` takes the defaults below. The agent "
            "needs the rights to list and watch `nodes`, `services`, `endpointslices.discovery.k8s.io`, "
            "`networkpolicies.networking.k8s.io`, `clusternetworkpolicies.policy.networking.k8s.io`, "
            "`namespaces` and `pods` (these two from the first policy on, but for the node's own pods), to patch "
            "`nodes` and `nodes/status`, and to create and patch `events.events.k8s.io`. While the API server is away, "
            "what was known stays in force.",
        ),
    ] = None

    @property
    def folder(self) -> str:
        """The folder of manifests; "" if there is none."""
        return (self.file or DEFAULT_FOLDER) if self.kubernetes is None else ""
