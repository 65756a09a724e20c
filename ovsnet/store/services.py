"""One Service object, as far as the network is concerned.

Pure. Left alone, without a word: Services without a ClusterIP (headless, ExternalName), and those that by their labels
belong to another proxy or say of themselves that they are headless. Words that a newer API may bring are told of and
read in the safest way: a port of an unknown protocol and an address of an unknown ipMode are left out, an unknown
policy or affinity is the default. Never compares Services with one another: `frontends` does. Called through
`manifest.READERS`.
"""

from __future__ import annotations

from ovsnet.model import IPAddress, IPNetwork
from ovsnet.servicemodel import Service, ServicePort
from ovsnet.store.reading import LABEL, Reader, address_of, range_of, shown

OTHER_PROXY = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
"""Labels: with either of them, whatever its value, Service and EndpointSlices are none of ours."""

_AFFINITY = 10800
"""Seconds, where sessionAffinityConfig gives none."""
_AFFINITY_LONGEST = 86400


class ServiceReader(Reader[Service]):
    kind = "Service"
    fields = "kind, metadata and spec"

    def _object(self, value: dict[str, object]) -> Service | None:
        metadata = self._get(value, "metadata", dict, {})
        namespace, name = self._own_key(
            metadata, LABEL, "Service name: lower case letters, digits and '-', 63 at most"
        )
        labels = self._get(metadata, "metadata.labels", dict, {})
        spec = self._get(value, "spec", dict, {})
        if OTHER_PROXY in labels or HEADLESS in labels or spec.get("type") == "ExternalName":
            return None
        given = self._given(spec)
        if given == ["None"]:
            return None
        return Service(
            namespace=namespace,
            name=name,
            cluster_ips=self._cluster_ips(given),
            ports=self._ports(spec),
            external_ips=self._external_ips(spec),
            load_balancer_ips=self._load_balancer_ips(self._get(value, "status", dict, {})),
            source_ranges=self._source_ranges(spec),
            external_local=self._is_local(spec, "spec.externalTrafficPolicy"),
            internal_local=self._is_local(spec, "spec.internalTrafficPolicy"),
            affinity=self._affinity(spec),
            health_check_port=self._number(spec, "spec.healthCheckNodePort", 1, 65535),
            created=self._get(metadata, "metadata.creationTimestamp", str, ""),
            source=self._source,
        )

    def _given(self, spec: dict[str, object]) -> list[object]:
        """clusterIPs, or clusterIP if there are none."""
        single = self._get(spec, "spec.clusterIP", str, "")
        several = self._get(spec, "spec.clusterIPs", list, [])
        if single and several and several[0] != single:
            self._complain(
                "spec.clusterIP",
                f"{shown(single)} is not the first of clusterIPs ({shown(several[0])}); leave one of both out",
            )
        return several or ([single] if single else [])

    def _cluster_ips(self, given: list[object]) -> tuple[IPAddress, ...]:
        found: dict[int, IPAddress] = {}
        for index, text in enumerate(given):
            path = f"spec.clusterIPs[{index}]" if len(given) > 1 else "spec.clusterIP"
            address = address_of(text)
            if isinstance(address, str):
                self._complain(path, f"{address}; give one of each family, or None alone")
            elif address.version in found:
                self._complain(path, f"{address} is the second address of its family; keep one of each")
            else:
                found[address.version] = address
        if not given and not self.problems:
            self._complain(
                "spec.clusterIP",
                "is missing; give an address, which none but the API server makes up, or None",
            )
        return tuple(found.values())

    def _ports(self, spec: dict[str, object]) -> tuple[ServicePort, ...]:
        found: list[ServicePort] = []
        entries = self._mappings(spec, "spec.ports")
        for path, entry in entries:
            name = self._get(entry, f"{path}.name", str, "")
            number = self._number(entry, f"{path}.port", 1, 65535)
            node_port = self._number(entry, f"{path}.nodePort", 1, 65535)
            protocol = self._protocol(entry, path)
            if not number:
                if not self.problems:
                    self._complain(f"{path}.port", "is missing; a number from 1 to 65535")
                continue
            if protocol is None:
                continue
            if any(each.name == name for each in found):
                what = (
                    f"the name {shown(name)} is another port's too"
                    if name
                    else "is missing: there are several ports"
                )
                self._complain(f"{path}.name", f"{what}; give each port a name of its own")
            if any((each.port, each.protocol) == (number, protocol) for each in found):
                self._complain(path, f"{protocol.value} port {number} stands twice; keep one")
            found.append(ServicePort(name=name, protocol=protocol, port=number, node_port=node_port))
        if not entries and not self.problems:
            self._complain("spec.ports", "is missing; a Service with a ClusterIP has at least one")
        return tuple(found)

    def _external_ips(self, spec: dict[str, object]) -> tuple[IPAddress, ...]:
        found: dict[IPAddress, None] = {}
        for index, text in enumerate(self._get(spec, "spec.externalIPs", list, [])):
            address = address_of(text)
            if isinstance(address, str):
                self._remark(f"spec.externalIPs[{index}]", f"{address}; it is left out")
            else:
                found[address] = None
        return tuple(found)

    def _load_balancer_ips(self, status: dict[str, object]) -> tuple[IPAddress, ...]:
        balancer = self._get(status, "status.loadBalancer", dict, {})
        found: dict[IPAddress, None] = {}
        for path, entry in self._mappings(balancer, "status.loadBalancer.ingress"):
            mode = self._get(entry, f"{path}.ipMode", str, "")
            text = self._get(entry, f"{path}.ip", str, "")
            if not text or mode == "Proxy":
                continue
            address = address_of(text)
            if mode not in ("", "VIP"):
                self._remark(
                    f"{path}.ipMode", f"{shown(mode)} is unknown here (VIP, Proxy); {text} is left out"
                )
            elif isinstance(address, str):
                self._remark(f"{path}.ip", f"{address}; it is left out")
            else:
                found[address] = None
        return tuple(found)

    def _source_ranges(self, spec: dict[str, object]) -> tuple[IPNetwork, ...]:
        """A range that can't be read is a problem: without it fewer might get in, and without any everybody would."""
        found: dict[IPNetwork, None] = {}
        for index, text in enumerate(self._get(spec, "spec.loadBalancerSourceRanges", list, [])):
            network = range_of(text)
            if network is None:
                self._complain(
                    f"spec.loadBalancerSourceRanges[{index}]",
                    f"{shown(text)} is not a range of addresses such as 192.0.2.0/24",
                )
            else:
                found[network] = None
        return tuple(found)

    def _is_local(self, spec: dict[str, object], path: str) -> bool:
        return self._choice(spec, path, ("Cluster", "Local"), "taken for Cluster") == "Local"

    def _affinity(self, spec: dict[str, object]) -> int:
        if self._choice(spec, "spec.sessionAffinity", ("None", "ClientIP"), "taken for None") == "None":
            return 0
        config = self._get(spec, "spec.sessionAffinityConfig", dict, {})
        client = self._get(config, "spec.sessionAffinityConfig.clientIP", dict, {})
        path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        return self._number(client, path, 1, _AFFINITY_LONGEST) or _AFFINITY
