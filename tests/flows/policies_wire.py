"""A bridge with Services and policies, and packets that are sent through it, with a real conntrack."""

from __future__ import annotations

from typing import Any

from flow_world import A1, A2, NODE, WITH_SERVICES
from ovs_sandbox import Sandbox
from packets import ROUTER
from policed_world import Policed
from service_cases import MACS
from wire import Arrived, Packet, Wire

from ovsnet import names
from ovsnet.pipeline import POLICY_ZONE
from ovsnet.policymodel import NetworkPolicy


class World:
    """The bridge, its policies, and who sends what."""

    def __init__(self, ovs: Sandbox) -> None:
        self.wire = Wire(ovs, (A1, A2), ())
        self.policed = Policed(self.wire.bridge, WITH_SERVICES)

    def apply(self, *policies: NetworkPolicy, **more: Any) -> list[str]:
        """These are the policies from now on, for the datapath too. The bundle that it took."""
        bundle = self.policed.apply(*policies, **more)
        self.wire.renew()
        return bundle

    def send(self, port: str, packet: Packet) -> list[Arrived]:
        to_mac = ROUTER.mac if port in ("gateway", "peer") else NODE.mac
        return self.wire.send(port, packet, MACS[port], to_mac)

    def passes(self, port: str, packet: Packet) -> Packet:
        """As it arrives."""
        arrived = self.send(port, packet)
        assert len(arrived) == 1, (packet, arrived)
        return arrived[0].packet

    def is_dropped(self, port: str, packet: Packet) -> None:
        assert self.send(port, packet) == []

    def end_of_doubt(self) -> None:
        """As if pods had been isolated for long."""
        cookie, mask = names.cookies_of(names.OLDER)
        ovs = self.wire.bridge.ovs
        ovs.ofctl("del-flows", ovs.mgmt(self.wire.bridge.name), f"cookie={cookie:#x}/{mask:#x}")
        self.wire.renew()

    @property
    def known(self) -> list[str]:
        """Connections that policies have allowed."""
        lines = self.wire.ask("dpctl/dump-conntrack").splitlines()
        return [line for line in lines if f"zone={POLICY_ZONE}" in line]
