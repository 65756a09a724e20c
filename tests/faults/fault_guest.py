"""Faults that only a guest of the kernel tier may have: its clock is its own, and its kernel can delay packets.

Never changes anything outside a guest. Also tells those outside how far the test is.
Called by the other modules here.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ovsnet.lab.underlay import port_of

if TYPE_CHECKING:
    from fault_world import World

GUEST = Path(os.environ["OVSNET_GUEST"]) if "OVSNET_GUEST" in os.environ else None
"""The job's folder, by which tests/kernel/guest.py shows that this is one."""
LATE = {
    "late": "delay 60ms",
    "late and out of order": "delay 30ms 20ms reorder 50% 50%",
    "a fifth lost": "loss 20%",
    "doubled": "duplicate 30%",
}
"""What netem does to packets on their way to a node."""


def jump_clock(world: World, seconds: int) -> None:
    """CLOCK_REALTIME, which all nodes share, is so much later or earlier from now on."""
    assert GUEST, "the clock of this machine is not ours"
    world.broken = True
    world.jumped += seconds
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + seconds)


def disturb(world: World, node: int, how: str, seconds: float) -> None:
    """What is sent to the node in the segment that joins the nodes comes late, twice or not at all."""
    assert GUEST, "whether this machine's kernel has netem is not known"
    underlay, port = world.lab.underlay, port_of(world.at(node).node)
    world.broken = True
    command = ["tc", "qdisc", "replace", "dev", port, "root", "netem", *LATE[how].split()]
    underlay.call_on_network(command, check=True)

    def mend() -> None:
        # The port may be gone with its node.
        underlay.call_on_network(["tc", "qdisc", "del", "dev", port, "root"])

    world.at_last(seconds, mend)


def tell(line: str = "") -> None:
    """To whoever waits outside the guest for news of the test: a line of what it says, or that it goes on."""
    if GUEST:
        nodeid = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        with contextlib.suppress(OSError), (GUEST / "events").open("a") as events:
            events.write(json.dumps(["said", nodeid, line]) + "\n")
            events.flush()
            os.fsync(events.fileno())
