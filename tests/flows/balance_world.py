"""One Service with any number of endpoints on a real switch, and which of them a connection gets."""

from __future__ import annotations

import collections
import ipaddress
import re
from collections.abc import Iterable, Sequence

from flow_world import A1, NODE, lines_of, make_bridge
from ovs.unixctl.client import UnixctlClient
from ovs_sandbox import Sandbox

from ovsnet import flowplan, pipeline, resources
from ovsnet.endpoints import Here
from ovsnet.render import Lines, Renderer
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from ovsnet.services import Services

FIRST = (ipaddress.ip_address("10.200.0.0"), ipaddress.ip_address("fd00:200::"))
VIPS = (ipaddress.ip_address("10.96.1.1"), ipaddress.ip_address("fd00:96:1::1"))
_CHOSEN = re.compile(r"nat\(dst=\[?([0-9a-f.:]+?)\]?:8080\)")
_PER_SLICE = 100


class Balance:
    """A bridge that is led from one set of endpoints to the next by bundles, as the agent does it."""

    def __init__(self, ovs: Sandbox, name: str, *, family: int = 0, affinity: int = 0) -> None:
        self.bridge = make_bridge(ovs, name, ())
        self.bridge.ovs.ofctl("del-groups", ovs.mgmt(name))
        self.family = family
        self.affinity = affinity
        self._services = Services()
        self._renderer = Renderer(resources.flows_dir())
        self._installed: dict[int, Lines] = {}
        error, self._control = UnixctlClient.create(f"{ovs.folder}/ovs-vswitchd.ctl")
        assert not error

    def serve(self, endpoints: Iterable[int]) -> list[str]:
        """These are the endpoints from now on. The bundle that it took."""
        chosen = sorted(endpoints)
        service = Service(
            namespace="default",
            name="balanced",
            cluster_ips=(VIPS[self.family],),
            ports=(ServicePort(port=80),),
            affinity=self.affinity,
        )
        slices = {}
        for at in range(0, len(chosen), _PER_SLICE):
            piece = EndpointSlice(
                namespace="default",
                name=f"balanced-{at}",
                service="balanced",
                ports=(EndpointPort(port=8080),),
                endpoints=tuple(
                    Endpoint(address=FIRST[self.family] + each) for each in chosen[at : at + _PER_SLICE]
                ),
            )
            slices[piece.key] = piece
        self._services.update({service.key: service}, slices, Here(node="node-a"))
        objects = [NODE, A1, *self._services.objects]
        wanted = self._renderer.state(objects)
        bundle = flowplan.bundle(self._installed, wanted)
        ovs, target = self.bridge.ovs, self.bridge.ovs.mgmt(self.bridge.name)
        ovs.ofctl("bundle", target, "-", stdin="\n".join(bundle) + "\n")
        self._installed = wanted
        return bundle

    def differences(self) -> list[str]:
        """Between the groups as the switch prints them and as they are rendered."""
        ovs = self.bridge.ovs
        dumped = map(str.strip, ovs.ofctl("dump-groups", ovs.mgmt(self.bridge.name)).splitlines())
        installed = flowplan.split(line for line in dumped if line.startswith("group_id="))[1]
        wanted = flowplan.split(lines_of([NODE, A1, *self._services.objects]))[1]
        return flowplan.group_differences(installed, wanted)

    def choose(self, dp_hash: int, port: int = 40000) -> int:
        """The endpoint that a new connection of a pod gets."""
        target = f"tcp,nw_dst={VIPS[0]}" if self.family == 0 else f"tcp6,ipv6_dst={VIPS[1]}"
        field = "nw_src" if self.family == 0 else "ipv6_src"
        source = A1.ips[self.family]
        ends = f"dl_src={A1.mac},dl_dst={pipeline.ROUTER.mac}"
        packet = f"in_port={A1.ofport},{ends},{target},{field}={source},nw_ttl=64"
        error, words, text = self._control.transact(
            "ofproto/trace",
            [
                self.bridge.name,
                f"{packet},tp_src={port},tp_dst=80,dp_hash={dp_hash}",
                "--ct-next",
                "trk,new",
            ],
        )
        assert not error, error
        assert not words, words
        found = set(_CHOSEN.findall(text))
        assert len(found) == 1, text
        return int(ipaddress.ip_address(found.pop())) - int(FIRST[self.family])

    def by_hash(self) -> collections.Counter[int]:
        """How many of the 256 values of the last octet of the datapath's hash lead to each endpoint."""
        return collections.Counter(self.choose(0x5A00 + value) for value in range(256))

    def by_connection(self, count: int) -> collections.Counter[int]:
        """The same for connections of one client from many ports, whose hashes are all different."""
        return collections.Counter(
            self.choose(value * 0x9E3779B1 % 2**32 or 1, 1024 + value) for value in range(count)
        )


def writes(bundle: Sequence[str]) -> list[str]:
    """The groups that a bundle writes as a whole."""
    return [line for line in bundle if line.startswith(("group add", "group modify"))]
