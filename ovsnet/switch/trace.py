"""`ofproto/trace` on the vswitchd that serves an OVSDB server. Called by `ovsnet trace`."""

from __future__ import annotations

from ovsnet.switch.control import appctl


async def trace(remote: str, bridge: str, flow: str) -> str:
    """What vswitchd says of a packet. Raises SwitchUnavailable, or OvsnetError with its words."""
    return await appctl(remote, "ofproto/trace", bridge, flow)
