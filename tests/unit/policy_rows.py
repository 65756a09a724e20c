"""A database that keeps rows of the bridge and of pods' ports, and takes what is noted of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ovsnet import names, state
from ovsnet.errors import SwitchUnavailable
from ovsnet.model import Pod
from ovsnet.rows import BridgeRow, Change, PortRow, SetPolicies


class Rows:
    """said: what the Bridge row says of policies; None for nothing."""

    def __init__(self, said: str | None = None) -> None:
        self._bridge = BridgeRow(
            name="br-int",
            datapath_type="netdev",
            fail_mode="secure",
            other_config={},
            external_ids={} if said is None else {names.KEY_POLICIES: said},
        )
        self._ports: dict[str, PortRow] = {}
        self.writes: list[SetPolicies] = []
        self.away = False

    def put(self, pod: Pod, said: str | None = None) -> None:
        ids = state.identity(pod) | ({} if said is None else {names.KEY_POLICIES: said})
        self._ports[pod.port] = PortRow(name=pod.port, external_ids=ids, ofport=pod.ofport)

    def says(self, pod: Pod) -> str | None:
        return self._ports[pod.port].external_ids.get(names.KEY_POLICIES)

    @property
    def said(self) -> str | None:
        return self._bridge.external_ids.get(names.KEY_POLICIES)

    def bridge(self) -> BridgeRow | None:
        return self._bridge

    def ports(self) -> Mapping[str, PortRow]:
        return self._ports

    async def apply(self, changes: Sequence[Change]) -> None:
        if self.away:
            raise SwitchUnavailable("ovsdb-server does not answer")
        for change in changes:
            assert isinstance(change, SetPolicies)
            self.writes.append(change)
            if change.bridge:
                ids = {**self._bridge.external_ids, names.KEY_POLICIES: change.bridge}
                self._bridge = msgspec.structs.replace(self._bridge, external_ids=ids)
            for name, value in change.ports.items():
                row = self._ports[name]
                ids = {**row.external_ids, names.KEY_POLICIES: value}
                self._ports[name] = msgspec.structs.replace(row, external_ids=ids)
