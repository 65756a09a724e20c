"""`ofproto/trace` on the vswitchd that serves an OVSDB server. Called by `ovsnet trace` and `ovsnet policy check`."""

from __future__ import annotations

from ovsnet import flowdump
from ovsnet.switch.control import appctl

_TIMES = 8
"""More often than a packet meets conntrack."""


async def trace(remote: str, bridge: str, flow: str) -> str:
    """What vswitchd says of a packet. Raises SwitchUnavailable, or OvsnetError with its words.

    Conntrack is not asked: each time that the packet meets it, it is the first of a connection that nobody knows.
    ofproto/trace takes that for granted, but forgets what was translated: it is told so, and asked again, as that may
    lead elsewhere.
    """
    states: tuple[str, ...] = ()
    for _ in range(_TIMES):
        options = [option for state in states for option in ("--ct-next", state)]
        text = await appctl(remote, "ofproto/trace", bridge, flow, *options)
        found = flowdump.states(text)
        if _same(found, states):
            break
        states = found
    return text


def _same(found: tuple[str, ...], told: tuple[str, ...]) -> bool:
    """What was not told of is taken for new."""
    return found == (*told, *(["trk,new"] * (len(found) - len(told))))[: len(found)]
