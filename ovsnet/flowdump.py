"""Reads what ovs-ofctl and ofproto/trace print.

Pure: text in, data out. A flow's actions, and its match if it has one, are as ovs-ofctl takes them again. Called by the
inspection commands, and by the agent for counters and for what the switch learns by itself.
"""

from __future__ import annotations

import re

from ovsnet.model import Frozen

_FIELD = re.compile(r"(cookie|table|n_packets|n_bytes|priority)=(0x[0-9a-f]+|\d+)(?:,\s*|\s+|$)")
_NOISE = re.compile(r"(duration|idle_age|hard_age|idle_timeout|hard_timeout)=[^,\s]+(?:,\s*|\s+)")


class Flow(Frozen):
    """One installed flow. `match` is without the priority."""

    cookie: int
    table: int
    priority: int
    packets: int
    bytes: int
    match: str
    actions: str


def flow(line: str) -> Flow | None:
    """One line of `ovs-ofctl dump-flows`; None for a line that is no flow (the reply's header)."""
    head, separator, actions = line.strip().partition(" actions=")
    if not separator or "cookie=" not in head:
        return None
    values = {"table": "0", "n_packets": "0", "n_bytes": "0", "priority": "32768"}

    def take(found: re.Match[str]) -> str:
        values[found[1]] = found[2]
        return ""

    match = _FIELD.sub(take, _NOISE.sub("", head)).strip(" ,")
    return Flow(
        cookie=int(values["cookie"], 16),
        table=int(values["table"]),
        priority=int(values["priority"]),
        packets=int(values["n_packets"]),
        bytes=int(values["n_bytes"]),
        match=match or "any",
        actions=actions,
    )


_MISS = re.compile(r"^\s*(\d+)\. No match\.$", re.MULTILINE)
_STEP = re.compile(r"^\s*(\d+)\. (?:(.*), )?priority (\d+)(?:, cookie (0x[0-9a-f]+))?", re.MULTILINE)
_BRIDGE = re.compile(r'^\s*bridge\("([^"]*)"\)\n\s*-+$', re.MULTILINE)
_OUTPUT = re.compile(r"-> output port is (\d+)")
_FAILURE = re.compile(r"(native tunnel routing failed)")
_DATAPATH = re.compile(r"^Datapath actions: (.*)$", re.MULTILINE)
_TRANSLATION = re.compile(r"^ *nat\((src|dst)=([^)]+)\)$", re.MULTILINE)
_CAME = re.compile(r"^Flow: (?:.*,)?in_port=(\d+)", re.MULTILINE)


class Step(Frozen):
    """One table that a traced packet met, with the flow that it matched there."""

    table: int
    priority: int
    cookie: int


class Trace(Frozen):
    """What ofproto/trace said. `output`: the OpenFlow port it leaves by; None if it is dropped."""

    steps: tuple[Step, ...]
    output: int | None
    answered: bool
    """It goes back out of the port that it came from: an ARP or neighbour answer, a client that is its own endpoint, or
    what the node's kernel is to refuse or to deliver itself."""
    datapath_actions: str
    came: int | None = None
    """The OpenFlow port that it came by."""
    translations: tuple[tuple[str, str], ...] = ()
    """What conntrack made of the packet's addresses, in this order: "src" or "dst", and what it became."""
    missed: int | None = None
    """The table where no flow matched: the end of the way."""
    failure: str = ""
    """Why a packet that has its port does not get out of it all the same."""


def trace(text: str) -> Trace:
    """Reads the text of `ofproto/trace`, as far as it is about the bridge that the packet enters.

    A tunnel in user space goes on into the bridge that holds the uplink; that is not ours. After conntrack there is
    another pass through ours, and the last one counts.
    """
    summary = text[text.rfind("Final flow:") :]
    _, *passes = _BRIDGE.split(text)
    came = _CAME.search(text)
    ours = [body for name, body in zip(passes[::2], passes[1::2], strict=True) if name == passes[0]]
    text = "\n".join([*ours, summary]) if ours else text
    steps = tuple(
        Step(table=int(found[1]), priority=int(found[3]), cookie=int(found[4] or "0", 16))
        for found in _STEP.finditer(text)
    )
    miss = _MISS.search(text)
    outputs = _OUTPUT.findall(text)
    actions = _DATAPATH.findall(text)
    what = actions[-1].strip() if actions else ""
    failure = _FAILURE.search(text)
    dropped = what in ("drop", "") or failure is not None
    return Trace(
        steps=steps,
        output=int(outputs[-1]) if outputs and not dropped else None,
        answered="IN_PORT" in text and not dropped and not outputs,
        datapath_actions=what,
        came=int(came[1]) if came else None,
        translations=tuple((found[1], found[2]) for found in _TRANSLATION.finditer(text)),
        missed=int(miss[1]) if miss else None,
        failure=failure[1] if failure else "",
    )


def states(text: str) -> tuple[str, ...]:
    """What conntrack says each time that the traced packet comes back from it, as --ct-next has it (ovs-vswitchd(8)).

    It is the first of a connection that nobody knows, and what was translated on the way there is known to be.
    """
    found = []
    for actions in _DATAPATH.findall(text):
        before, recirculated, _ = actions.partition(",recirc(")
        if recirculated:
            asked = before[before.rfind("ct(") :]
            which = next(
                (f",{end}nat" for end, what in (("s", "src"), ("d", "dst")) if f"nat({what}=" in asked), ""
            )
            found.append(f"trk,new{which}")
    return tuple(found)
