"""Every error that ovsnet raises on purpose, and the CNI error code that each one maps to.

    OvsnetError                      999  anything else that went wrong here
     +- ConfigError                    7  the agent's configuration; carries every problem found
     +- RequestError                       a CNI request that is at fault itself
     |   +- IncompatibleVersion        1
     |   +- UnsupportedField           2
     |   +- UnknownContainer           3
     |   +- BadEnvironment             4  names the variable
     |   +- DecodeFailure              6
     |   +- BadNetworkConfig           7
     |   +- AlreadyAttached          100  the container has this interface already
     |   +- AddressUnavailable       101  the address asked for is taken or not ours to give
     |   +- AttachmentBroken         102  CHECK found a difference; carries it
     +- HostFailure                    5  netlink, nftables, sysctl, files
     |   +- RouteRefused               5  a route over the gateway; everything else is in place
     +- TryAgain                      11  passes by itself or when someone makes room
     |   +- RangeExhausted            11
     |   +- SwitchUnavailable         11  OVSDB or ovs-vswitchd is away
     +- NotReady                      50  STATUS: no ADD can be served now
     |   +- Waiting                   50  somebody else comes first; told once
     +- LimitedConnectivity           51  STATUS: and running pods may be cut off
     +- StoreError                   999  a manifest or its folder; withdraws nothing
     +- MeterRefused                 999  ovs-vswitchd has no such meter, or makes none

Codes 1 to 99 are the CNI specification's (1.1, section "Error"), from 100 on they are ovsnet's.
An error says what was wrong and where (`message`) and what to do about it (`hint`).
"""

from __future__ import annotations

from collections.abc import Sequence


class OvsnetError(Exception):
    """Base of all. `message`: what was wrong, and where. `hint`: what to do."""

    cni_code = 999

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(OvsnetError):
    """The agent's configuration is at fault; `problems` has one line for every mistake."""

    cni_code = 7

    def __init__(self, message: str, hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message, hint)
        self.problems = tuple(problems)


class RequestError(OvsnetError):
    """A CNI request that can't succeed however often it is repeated."""


class IncompatibleVersion(RequestError):
    cni_code = 1


class UnsupportedField(RequestError):
    cni_code = 2


class UnknownContainer(RequestError):
    cni_code = 3


class BadEnvironment(RequestError):
    """A CNI_* variable is missing or wrong; the message names it."""

    cni_code = 4


class DecodeFailure(RequestError):
    cni_code = 6


class BadNetworkConfig(RequestError):
    cni_code = 7


class AlreadyAttached(RequestError):
    cni_code = 100


class AddressUnavailable(RequestError):
    cni_code = 101


class AttachmentBroken(RequestError):
    cni_code = 102


class HostFailure(OvsnetError):
    """The kernel or a host tool refused: netlink, nftables, sysctl, a file."""

    cni_code = 5


class RouteRefused(HostFailure):
    """The kernel refused routes, to peers' ranges or for Services, most often because someone else has them."""


class TryAgain(OvsnetError):
    """Nothing is wrong with the request; the runtime should repeat it later."""

    cni_code = 11


class RangeExhausted(TryAgain):
    """No free address; the message gives the counts of each range; `lasting` is without what changes by the minute."""

    def __init__(self, message: str, hint: str = "", lasting: str = "") -> None:
        super().__init__(message, hint)
        self.lasting = lasting or str(self)


class SwitchUnavailable(TryAgain):
    """ovsdb-server or ovs-vswitchd does not answer."""


class NotReady(OvsnetError):
    cni_code = 50


class Waiting(NotReady):
    """Something that others give, most often within seconds, is not there yet."""


class LimitedConnectivity(OvsnetError):
    cni_code = 51


class StoreError(OvsnetError):
    """Desired state that can't be read or contradicts itself. What was known stays in force."""


class MeterRefused(OvsnetError):
    """ovs-vswitchd makes no meter, or has not the one that flows send packets through."""
