"""Packets that must never arrive: every pod sends them all the time, and every pod notices each that comes.

Pods of the namespace STRANGERS send to all others, whose policies never let them in, and these send to the strangers,
where no policy lets them go. Whatever is broken meanwhile, one that arrives is a fault. Owns the processes that send
and listen, one in each pod. Knows nothing of policies. Called by the world and by what must hold in the end.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from lab_world import SLOWER

from ovsnet.lab.pods import Pod

STRANGERS = "strangers"
GAP = 0.1 * SLOWER
"""Seconds between two datagrams to each address."""
_TO_STRANGERS, _FROM_STRANGERS = 9902, 9901
"""Ports: who listens where is sent to by the other kind alone, whoever has an address by then."""
_KNOCK = """
import os, select, socket, sys, time
name, mine, theirs, gap = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
sock.bind(("::", mine))
sock.setblocking(False)
said, targets, due = b"", [], time.monotonic()
while True:
    ready = select.select([0, sock], [], [], max(0.0, due - time.monotonic()))[0]
    if sock in ready:
        try: sender = sock.recvfrom(64)[1][0]
        except OSError: sender = ""  # an ICMP error
        if sender: os.write(1, f"{name} had a packet of {sender}\\n".encode())
    if 0 in ready:
        more = os.read(0, 65536)
        if not more: sys.exit()
        *lines, said = (said + more).split(b"\\n")
        if lines: targets = lines[-1].decode().split()
    if time.monotonic() >= due:
        due = time.monotonic() + gap
        for to in targets:
            try: sock.sendto(b"knock", (to, theirs))
            except OSError: pass
"""


class Knocks:
    """The processes, by pod."""

    def __init__(self) -> None:
        # Appended to by everybody: each process would else write where another one reads.
        self._folder = tempfile.TemporaryDirectory(prefix="ovsnet-knocks-")
        self._path = Path(self._folder.name) / "arrived"
        self._arrived = self._path.open("ab")
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._addresses: dict[str, list[str]] = {}
        self._strangers: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, pod: Pod) -> None:
        """In a pod that is attached; one that has another address by now is known by that."""
        with self._lock:
            stranger = pod.pod.namespace == STRANGERS
            ports = (_TO_STRANGERS, _FROM_STRANGERS) if stranger else (_FROM_STRANGERS, _TO_STRANGERS)
            if pod.name not in self._processes:
                argv = [sys.executable, "-I", "-S", "-c", _KNOCK, pod.name, *map(str, ports), str(GAP)]
                self._processes[pod.name] = subprocess.Popen(
                    pod.command(argv), stdin=subprocess.PIPE, stdout=self._arrived, text=True
                )
            if stranger:
                self._strangers.add(pod.name)
            self._addresses[pod.name] = [
                f"::ffff:{each}" if each.version == 4 else str(each) for each in pod.addresses
            ]
            self._aim()

    def end(self, names: Iterable[str]) -> None:
        """In pods that go."""
        with self._lock:
            for name in names:
                self._addresses.pop(name, None)
                self._strangers.discard(name)
                if process := self._processes.pop(name, None):
                    process.kill()
                    process.wait()
                    assert process.stdin is not None
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.close()
            self._aim()

    def close(self) -> None:
        self.end([*self._processes])
        self._arrived.close()
        self._folder.cleanup()

    @property
    def names(self) -> set[str]:
        """Pods that are knocked at: where there are both kinds."""
        others = self._processes.keys() - self._strangers
        return {*self._processes} if others and self._strangers else set()

    def arrived(self) -> list[str]:
        """What came since the begin, in words; once for each pair."""
        return sorted(set(self._path.read_text().splitlines()))

    def _aim(self) -> None:
        """Tell everybody whom to knock at."""
        for name, process in self._processes.items():
            stranger = name in self._strangers
            targets = [
                address
                for other, addresses in self._addresses.items()
                if (other in self._strangers) != stranger
                for address in addresses
            ]
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(" ".join(targets) + "\n")
                process.stdin.flush()
