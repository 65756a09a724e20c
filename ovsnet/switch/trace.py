"""`ofproto/trace` on the vswitchd that serves an OVSDB server. Called by `ovsnet trace` and `ovsnet policy check`."""

from __future__ import annotations

from ovsnet.switch.control import appctl


async def trace(remote: str, bridge: str, flow: str) -> str:
    """What vswitchd says of a packet. Raises SwitchUnavailable, or OvsnetError with its words.

    Conntrack is not asked: each time that the packet meets it, it is the first of a connection that nobody knows,
    which is what ofproto/trace takes for granted (--ct-next trk,new, ovs-vswitchd(8)).
    """
    return await appctl(remote, "ofproto/trace", bridge, flow)
