"""OVSDB rows as plain data, and the changes to them as plain data.

Pure. `switch.ovsdb` turns rows of the database into `BridgeRow` and `PortRow`, `plan` compares them
with what is wanted and answers with changes, and `switch.ovsdb` carries those out in one transaction.
A Port and its single Interface are one `PortRow`; external_ids are the Port's.
"""

from __future__ import annotations

from ovsnet import names
from ovsnet.model import Frozen

PROTOCOL = "OpenFlow15"
"""The version that the agent speaks: the first in which a group says how it selects."""


class BridgeSpec(Frozen):
    """The integration bridge as it shall be; maps list only the keys that are ours."""

    name: str
    datapath_type: str
    fail_mode: str = "secure"
    other_config: dict[str, str] = {}
    external_ids: dict[str, str] = {}


class BridgeRow(Frozen):
    """The bridge as it is."""

    name: str
    datapath_type: str
    fail_mode: str
    other_config: dict[str, str]
    external_ids: dict[str, str]
    protocols: frozenset[str] = frozenset()
    """Versions of OpenFlow that are allowed on it; empty: vswitchd's own choice."""

    @property
    def speaks(self) -> bool:
        """Whether the agent can talk to vswitchd about it."""
        return not self.protocols or PROTOCOL in self.protocols


class PortSpec(Frozen):
    """A port as it shall be. `type` is the Interface's ("" is a system device)."""

    name: str
    type: str = ""
    options: dict[str, str] = {}
    external_ids: dict[str, str] = {}
    ofport_request: int | None = None
    mac: str | None = None
    mtu_request: int | None = None


class PortRow(Frozen):
    """A port as it is."""

    name: str
    type: str = ""
    options: dict[str, str] = {}
    external_ids: dict[str, str] = {}
    ofport_request: int | None = None
    mac: str | None = None
    mtu_request: int | None = None
    ofport: int | None = None
    """Assigned by vswitchd: None until it has looked at the port, -1 when it failed."""
    error: str | None = None
    """vswitchd's own words when ofport is -1."""

    @property
    def role(self) -> str | None:
        """pod, tunnel, gateway; None when the row is not ours."""
        return self.external_ids.get(names.OWNER)

    @property
    def number(self) -> int | None:
        """The OpenFlow port number: what vswitchd assigned, else what it was asked for."""
        return self.ofport if self.ofport is not None and self.ofport > 0 else self.ofport_request


class SetBridge(Frozen):
    """Create the bridge, or bring the named columns and keys of ours in line."""

    spec: BridgeSpec


class AddPort(Frozen):
    spec: PortSpec


class SetPort(Frozen):
    """Bring a port of ours in line: options and our external_ids are replaced as a whole."""

    spec: PortSpec


class DeletePort(Frozen):
    name: str


class SetIdentity(Frozen):
    """Replace a Port's external_ids and nothing else: vswitchd need not reconfigure for it."""

    name: str
    external_ids: dict[str, str]
    reclaim: bool = False
    """The row has lost our mark; who asks knows by other means that the port is ours."""


class SetReleased(Frozen):
    """Replace the list of addresses in cool-down on the Bridge row."""

    value: str


class SetPolicies(Frozen):
    """Replace what the Bridge row and these Port rows say of policies. bridge: "" leaves the Bridge row as it is."""

    bridge: str
    ports: dict[str, str]


class SetRestoreWait(Frozen):
    """Have vswitchd, at its next start, wait for flows; or no longer, and say when it has seen that."""

    wait: bool


class Confirm(Frozen):
    """Have vswitchd say when it has seen the transaction, see `Ovsdb.wait_configured`."""


class KeepDevices(Frozen):
    """Have vswitchd, at its next start, keep these devices in the kernel's datapath; none: nothing but its own."""

    devices: frozenset[str]


Change = (
    SetBridge
    | AddPort
    | SetPort
    | DeletePort
    | SetIdentity
    | SetReleased
    | SetPolicies
    | SetRestoreWait
    | Confirm
    | KeepDevices
)
