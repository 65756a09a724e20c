"""The part of the kernel's benchmarks that sends: a program that runs on a node of the lab, or in one of its pods.

On the standard library only, so that it starts quickly. Reads one job from standard input, writes one answer.
Started by `kernel_traffic`, `kernel_services` and `kernel_upcalls`.

    {"do": "generate", "size", "source", "target", "mac", "runs": [{"count", "port"}, ...]}
        has the kernel's packet generator send UDP frames of so many bytes out of eth0 of the network namespace that
        it was started in: {"us": of each run}, which may have a "size" of its own. With "source_port" from that one,
        and before the first run an echo has come back to it, as of a connection that is established
    {"do": "pairs", "senders", "receivers", "port"}
        on a node: from each named network namespace in `senders` one UDP frame to each in `receivers`, as fast as it
        goes, and waits for the last to arrive: {"seconds": of each sender, "arrived": frames in all}
    {"do": "connect", "target", "port", "count"}
        so many TCP connections one after another: {}
    {"do": "open", "target", "port", "count"}
        the same, each reset at once: {"us": of each until it was established}
    {"do": "echo", "target", "port", "source_port"}
        UDP until an echo comes back: {}
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import socket
import struct
import sys
import time
from typing import Any, NamedTuple

Job = dict[str, Any]
INTERFACE = "eth0"
PKTGEN = "/proc/net/pktgen"
PATIENCE = 5.0
"""Seconds to wait for a frame."""
_CLONE_NEWNET = 0x40000000
_SIOCGIFADDR, _SIOCGIFHWADDR = 0x8915, 0x8927
_ETH_IP, _UDP = 0x0800, 17


def generate(job: Job) -> Job:
    """See Documentation/networking/pktgen.rst of Linux. A packet is never sent twice (clone_skb 0)."""
    port = job.get("source_port", 9)
    if "source_port" in job:
        echo({**job, "port": job["runs"][0]["port"]})
    write("kpktgend_0", "rem_device_all", f"add_device {INTERFACE}")
    settings = {
        "udp_src_min": port,
        "udp_src_max": port,
        "clone_skb": 0,
        "delay": 0,
        "src_min": job["source"],
        "src_max": job["source"],
        "dst_min": job["target"],
        "dst_max": job["target"],
        "dst_mac": job["mac"],
    }
    write(INTERFACE, *(f"{name} {value}" for name, value in settings.items()))
    return {"us": [run(each["count"], each["port"], each.get("size", job["size"])) for each in job["runs"]]}


def run(count: int, port: int, size: int) -> int:
    write(INTERFACE, f"count {count}", f"udp_dst_min {port}", f"udp_dst_max {port}", f"pkt_size {size}")
    write("pgctrl", "start")  # returns when all are sent
    with open(f"{PKTGEN}/{INTERFACE}") as file:
        text = file.read()
    found = re.search(r"Result: OK: (\d+)\(.*?\) usec, (\d+) ", text)
    if not found or int(found[2]) != count:
        raise RuntimeError(f"pktgen says: {text}")
    return int(found[1])


def write(name: str, *commands: str) -> None:
    for command in commands:
        descriptor = os.open(f"{PKTGEN}/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, f"{command}\n".encode())
        finally:
            os.close(descriptor)


class End(NamedTuple):
    """An interface in some network namespace: a packet socket there, and the addresses."""

    socket: socket.socket
    mac: bytes
    ip: bytes


def pairs(job: Job) -> Job:
    port = job["port"]
    receivers = [end(name) for name in job["receivers"]]
    last = receivers[-1]
    seconds = []
    for name in job["senders"]:
        sender = end(name)
        frames = [frame(sender, each, port) for each in receivers if each.ip != sender.ip]
        begun = time.perf_counter()
        for each in frames:
            sender.socket.send(each)
        await_udp(last, sender.ip, port)  # the switch handles them in the order in which they came
        seconds.append(time.perf_counter() - begun)
        sender.socket.close()
    arrived = sum(drain(each, port) for each in receivers[:-1]) + len(seconds)
    return {"seconds": seconds, "arrived": arrived}


def end(name: str) -> End:
    """A packet socket is bound to the network namespace that it was made in."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns {name}")
    os.close(descriptor)
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_IP))
    made.bind((INTERFACE, _ETH_IP))
    made.settimeout(PATIENCE)
    request = struct.pack("16s24x", INTERFACE.encode())
    mac = fcntl.ioctl(made, _SIOCGIFHWADDR, request)[18:24]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        ip = fcntl.ioctl(asking, _SIOCGIFADDR, request)[20:24]
    return End(made, mac, ip)


def frame(sender: End, receiver: End, port: int, payload: bytes = bytes(32)) -> bytes:
    """UDP without a checksum in IPv4 (RFC 768, RFC 791)."""
    size = 28 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, _UDP, 0) + sender.ip + receiver.ip
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack("!H", checksum) + head[12:]
    udp = struct.pack("!HHHH", port, port, size - 20, 0)
    return receiver.mac + sender.mac + struct.pack("!H", _ETH_IP) + head + udp + payload


def await_udp(receiver: End, source: bytes, port: int) -> None:
    while True:
        got = receiver.socket.recv(2048)
        if is_ours(got, port) and got[26:30] == source:
            return


def drain(receiver: End, port: int) -> int:
    """How many frames have come. Its own of what it sent are not among them."""
    receiver.socket.setblocking(False)
    count = 0
    try:
        while True:
            got = receiver.socket.recv(2048)
            count += is_ours(got, port) and got[:6] == receiver.mac
    except BlockingIOError:
        return count


def is_ours(got: bytes, port: int) -> bool:
    return got[23] == _UDP and got[36:38] == struct.pack("!H", port)


def connect(job: Job) -> Job:
    for _ in range(job["count"]):
        # A listener whose queue is full has one come again, after longer and longer.
        with socket.create_connection((job["target"], job["port"]), timeout=4 * PATIENCE):
            pass
    return {}


def open_each(job: Job) -> Job:
    taken = []
    for _ in range(job["count"]):
        with socket.socket() as made:
            made.settimeout(PATIENCE)
            # Ends with a reset and leaves nothing behind that the next one would have to look through.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            begun = time.perf_counter()
            made.connect((job["target"], job["port"]))
            taken.append(1e6 * (time.perf_counter() - begun))
    return {"us": taken}


def echo(job: Job) -> Job:
    end = time.monotonic() + 10 * PATIENCE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("", job["source_port"]))
        made.connect((job["target"], job["port"]))
        made.settimeout(0.2)
        while True:
            try:
                made.send(b"?")
                made.recv(64)
            except OSError:  # silence, or a refusal
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return {}


if __name__ == "__main__":
    job = json.loads(sys.stdin.read())
    work = {"generate": generate, "pairs": pairs, "connect": connect, "open": open_each, "echo": echo}
    print(json.dumps(work[job["do"]](job)))
