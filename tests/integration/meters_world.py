"""What meters are for, and a datapath that has not one left: all bridges of a kind share them."""

from __future__ import annotations

import re
import sys

BRIDGE = "br-meters"
"""A bridge beside the agent's, whose meters these are."""

FLOOD = """
import socket, sys, time
host, seconds, per_second = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
begun, sent = time.monotonic(), 0
while (passed := time.monotonic() - begun) < seconds:
    while sent < passed * per_second:
        sock.sendto(b"flood", (host, 1000 + sent % 50000)); sent += 1
    time.sleep(0.001)
print(sent)
"""
"""Datagrams of which each is another's port."""

_TAKE = """
import socket, struct, sys
path, count = sys.argv[1], int(sys.argv[2])
def message(kind, number, body=b""):
    return struct.pack(">BBHI", 6, kind, 8 + len(body), number) + body
def meter(number):
    # Add; packets a second, bursts; a band that drops (OpenFlow 1.5, section 7.3.4.5).
    return message(29, number, struct.pack(">HHIHHIII", 0, 6, number, 1, 16, 5, 5, 0))
vswitchd = socket.socket(socket.AF_UNIX)
vswitchd.settimeout(60)
vswitchd.connect(path)
vswitchd.sendall(message(0, 0))
for first in range(1, count + 1, 1000):
    vswitchd.sendall(b"".join(map(meter, range(first, min(first + 1000, count + 1)))))
vswitchd.sendall(message(20, 0))
buffer = b""
while True:
    buffer += vswitchd.recv(65536)
    while len(buffer) >= 8 and len(buffer) >= (length := struct.unpack_from(">xxH", buffer)[0]):
        if buffer[1] == 21:
            sys.exit()
        buffer = buffer[length:]
"""
"""Makes so many meters and waits until they are there (a barrier), or are refused."""


def take_all(features: str, socket: str) -> list[str]:
    """The command that takes all meters. features: what `ovs-ofctl meter-features` says. socket: of BRIDGE."""
    found = re.search(r"max_meter:(\d+)", features)
    assert found is not None, features
    return [sys.executable, "-I", "-S", "-c", _TAKE, socket, found[1]]
