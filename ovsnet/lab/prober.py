"""Probes from one namespace to many addresses at once; JSON in, JSON out.

Run as a script in a pod or on a node (`python -I -S prober.py`), so standard library only. Called by `check`.

    stdin    {"seconds": 5, "targets": ["10.244.2.2", ...]}
    stdout   [{"target", "protocol", "size", "ok", "detail", "tries", "ms"}, ...], for TCP also "client", the
             address that the server saw, and "name", the server's

TCP is an HTTP request and an answer of several full segments each; UDP and ping are single packets exactly as
large as the MTU of the interface that they leave by, with "don't fragment" set: a wrong MTU anywhere shows.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

ECHO_PORT, HTTP_PORT = 7, 80
SIOCGIFMTU = 0x8921
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
PMTUDISC_PROBE = 3
"""Set don't-fragment and ignore a path MTU that was learnt: a too large packet must stay a failure."""
BULK = 8192
SMALLEST = 1280
"""The size of probes to where there is no route: they fail, and say so themselves."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 2.0


class Refused(Exception):
    """The answer is wrong; repeating the question won't help."""


def interface_mtu(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, SIOCGIFMTU, struct.pack("16si12x", name.encode(), 0))
        return int(struct.unpack("16si12x", answer)[1])


def sizes(targets: list[str]) -> dict[str, int]:
    """For each target the MTU of the interface that leads there, whatever path MTU the kernel has learnt."""
    lines = "".join(f"route get {target}\n" for target in targets)
    done = subprocess.run(
        ["ip", "-json", "-force", "-batch", "-"], input=lines, capture_output=True, text=True
    )
    found = {}
    for line in done.stdout.splitlines():
        for route in json.loads(line) if line.startswith("[{") else []:
            found[route["dst"]] = interface_mtu(route["dev"])
    return found


def family_of(target: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in target else socket.AF_INET


def header(target: str) -> int:
    """Bytes of the IP header plus those of UDP or of an ICMP echo, which are 8 both."""
    return 48 if ":" in target else 28


def whole_packets(sock: socket.socket, target: str) -> None:
    if ":" in target:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)


def tcp(target: str, _mtu: int, wait: float) -> dict[str, str]:
    with socket.socket(family_of(target), socket.SOCK_STREAM) as sock:
        sock.settimeout(wait)
        sock.connect((target, HTTP_PORT))
        request = f"GET /?pad={BULK} HTTP/1.0\r\nX-Pad: {'x' * BULK}\r\n\r\n"
        sock.sendall(request.encode())
        answer = b""
        while part := sock.recv(65536):
            answer += part
    body = answer.partition(b"\r\n\r\n")[2]
    if len(body) < BULK:
        raise OSError(f"only {len(body)} of {BULK} bytes of the answer came")
    told = json.loads(body)
    return {"client": told["client"], "name": told["name"]}


def udp(target: str, mtu: int, wait: float) -> dict[str, str]:
    payload = os.urandom(mtu - header(target))
    with socket.socket(family_of(target), socket.SOCK_DGRAM) as sock:
        whole_packets(sock, target)
        sock.settimeout(wait)
        sock.connect((target, ECHO_PORT))
        sock.send(payload)
        if sock.recv(65536) != payload:
            raise Refused("the echo differs from what was sent")
    return {}


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ping(target: str, mtu: int, wait: float) -> dict[str, str]:
    six = ":" in target
    request, reply = (128, 129) if six else (8, 0)
    token = os.urandom(4)
    payload = os.urandom(mtu - header(target))
    packet = struct.pack("!BBH", request, 0, 0) + token + payload
    if not six:  # in ICMPv6 the kernel fills the checksum in
        packet = packet[:2] + checksum(packet).to_bytes(2, "big") + packet[4:]
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    with socket.socket(family_of(target), socket.SOCK_RAW, protocol) as sock:
        whole_packets(sock, target)
        sock.connect((target, 0))
        sock.send(packet)
        end = time.monotonic() + wait
        while (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            data = sock.recv(65536)
            message = data if six else data[(data[0] & 15) * 4 :]
            if message[0] == reply and message[4:8] == token:
                if message[8:] != payload:
                    raise Refused("the echo differs from what was sent")
                return {}
    raise TimeoutError


PROTOCOLS: dict[str, Callable[[str, int, float], dict[str, str]]] = {"tcp": tcp, "udp": udp, "ping": ping}


def probe(protocol: str, target: str, size: int, seconds: float) -> dict[str, Any]:
    """Try until it works or the time is over; the first packet through a tunnel may wait for neighbours."""
    started = time.monotonic()
    wait, tries, detail, told, ok = FIRST_WAIT, 0, "", {}, False
    while not ok and time.monotonic() - started < seconds:
        tries += 1
        attempt = time.monotonic()
        try:
            told = PROTOCOLS[protocol](target, size, wait)
            ok = True
        except Refused as error:
            detail = str(error)
            break
        except TimeoutError:
            detail = "no answer"
        except (OSError, ValueError, KeyError) as error:
            detail = (error.strerror if isinstance(error, OSError) else "") or str(error)
            time.sleep(max(0.0, min(wait, 0.2) - (time.monotonic() - attempt)))
        wait = min(wait * 1.5, LONGEST_WAIT)
    milliseconds = round((time.monotonic() - started) * 1000, 1)
    result = {"target": target, "protocol": protocol, "size": size, "ok": ok, "detail": "" if ok else detail}
    return {**result, **told, "tries": tries, "ms": milliseconds}


def main() -> None:
    job = json.load(sys.stdin)
    targets = sizes(job["targets"])
    results: list[dict[str, Any]] = []
    threading.stack_size(256 * 1024)

    def work(protocol: str, target: str) -> None:
        results.append(probe(protocol, target, targets.get(target, SMALLEST), job["seconds"]))

    pairs = [(protocol, target) for target in job["targets"] for protocol in PROTOCOLS]
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
