"""A client of `service_server` that runs in a namespace: prints what each connection was answered, as JSON.

    ask    so many connections, one after the other
    load   new connections until standard input ends, over UDP from another port each: a datagram from a port that was
           used before may be of a connection that conntrack remembers; how many had no answer, and when
    stream datagrams to each of "hosts" in turn until standard input ends, each from one port all the time, whether
           others are answered or not; how many were not, by host
    nag    datagrams from one socket until standard input ends, or "until" has answered, one each "gap": who answered,
           or what went wrong, whenever that was something else than before; without those that nobody answered
    probe  one connection to each of "targets" (host, port, protocol, and the client's own port or address if that
           matters), all at once
    knock  new TCP connections until standard input ends, one each "gap" whether others are answered or not; how many
           there were, and when those began that were accepted within "seconds"
    late   one connection whose server is to answer after "delay" seconds, and then at once
    hold   one connection that asks again and again until standard input ends, and once more; "first" is how much it
           sends at first

Run as a script (`python -I -S service_client.py '{"do": ..., "host": ...}'`), so standard library only. A connection
that has no answer is {"error": refused, timeout, or another word}. With "text" it asks agnhost's netexec instead, for
/text over HTTP or with the text as a datagram; what that answers is the name.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import random
import select
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PORTS = range(32768, 61000)
"""What Linux chooses ports of clients from."""
WORDS = {errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset", errno.EHOSTUNREACH: "unreachable"}
Answer = dict[str, Any]


class Client:
    """One socket at a time, as the options say."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.target = (options["host"], options["port"])
        self.up, self.down = options.get("up", 0), options.get("down", 0)
        self.udp = options.get("protocol") == "udp"
        self.protocol = socket.IPPROTO_SCTP if options.get("protocol") == "sctp" else 0

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET

    def connect(self) -> socket.socket:
        kind = socket.SOCK_DGRAM if self.udp else socket.SOCK_STREAM
        sock = socket.socket(self.family, kind, self.protocol)
        sock.settimeout(self.options.get("seconds", 3.0))
        if self.protocol and self.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # see service_server.sctp
        bind = self.options.get("bind")
        if bind:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((bind[0], bind[1]))
        if not self.udp and self.options.get("abort", True):
            # Ends with a reset (SCTP: ABORT) and leaves no TIME_WAIT: thousands in a row need no port twice.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            sock.connect(self.target)
        except BaseException:
            sock.close()
            raise
        return sock

    def talk(self, sock: socket.socket) -> Answer:
        if "text" in self.options:
            return {"name": self.said(sock, self.options["text"])}
        if self.udp:
            sock.send(bytes(max(self.up, 200)))
            return dict(json.loads(sock.recv(65536)))
        sock.sendall(f"{self.up} {self.down}\n".encode() + bytes(self.up))
        return self.answer(sock)

    def answer(self, sock: socket.socket) -> Answer:
        data = b""
        while b"\n" not in data:
            data += self.more(sock)
        line, _, rest = data.partition(b"\n")
        left = self.down - len(rest)
        while left > 0:
            left -= len(self.more(sock))
        return dict(json.loads(line))

    def said(self, sock: socket.socket, text: str) -> str:
        if self.udp:
            sock.send(text.encode())
            return sock.recv(65536).decode()
        sock.sendall(f"GET /{text} HTTP/1.0\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise ConnectionResetError(errno.ECONNRESET, f"not an answer: {head[:80]!r}")
        return body.decode()

    def more(self, sock: socket.socket) -> bytes:
        data = sock.recv(65536)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed early")
        return data

    def once(self) -> Answer:
        begun = time.monotonic()
        try:
            with self.connect() as sock:
                return self.talk(sock)
        except TimeoutError:
            return {"error": "timeout", "seconds": time.monotonic() - begun}
        except OSError as error:
            word = WORDS.get(error.errno or 0, str(error))
            return {"error": word, "seconds": time.monotonic() - begun}

    def load(self) -> Answer:
        """New connections until told to end; those without an answer, by the second at which they began."""
        begun, good, failed, names = time.monotonic(), 0, [], set()
        ports = itertools.cycle(PORTS)
        next(itertools.islice(ports, random.randrange(len(PORTS)), None))
        print("ready", flush=True)
        while not ended(self.options.get("gap", 0.002)):
            at = time.monotonic() - begun
            if self.udp:
                self.options["bind"] = ("", next(ports))
            answer = self.once()
            if "error" in answer:
                failed.append([round(at, 3), answer["error"]])
            else:
                good += 1
                names.add(answer["name"])
        return {"good": good, "failed": failed, "names": sorted(names)}

    def knock(self) -> Answer:
        begun, count = time.monotonic(), 0
        pending: dict[socket.socket, float] = {}
        accepted: list[float] = []
        print("ready", flush=True)
        while True:
            over = ended(self.options.get("gap", 0.01))
            now = time.monotonic()
            for sock in select.select([], [*pending], [], 0)[1]:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    accepted.append(round(pending[sock] - begun, 3))
                pending[sock] = -math.inf
            for sock, at in list(pending.items()):
                if at + self.options["seconds"] < now:
                    sock.close()
                    del pending[sock]
            if over and not pending:
                return {"count": count, "accepted": accepted}
            if not over:
                sock = socket.socket(self.family, socket.SOCK_STREAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.setblocking(False)
                sock.connect_ex(self.target)
                pending[sock] = now
                count += 1

    def late(self) -> Answer:
        with self.connect() as sock:
            sock.settimeout(self.options["delay"] + self.options["seconds"])
            sock.sendall(f"0 {self.down} {self.options['delay']}\n".encode())
            print("ready", flush=True)
            try:
                return {"first": self.answer(sock), "last": self.talk(sock)}
            except OSError as error:
                return {"error": str(error)}

    def hold(self) -> Answer:
        """One connection until told to end: how often it was answered, the longest wait, what ended it."""
        with self.connect() as sock:
            up, self.up = self.up, self.options.get("first", self.up)
            first, count, longest, over = self.talk(sock), 0, 0.0, False
            last, self.up = first, up
            print("ready", flush=True)
            while not over:
                over, begun = ended(0.01), time.monotonic()
                try:
                    last = self.talk(sock)
                except OSError as error:
                    return {**first, "count": count, "error": str(error), "last": last}
                count, longest = count + 1, max(longest, time.monotonic() - begun)
        return {**first, "count": count, "longest": round(longest, 3), "last": last}

    def nag(self) -> Answer:
        heard: list[str] = []
        with self.connect() as sock:
            print("ready", flush=True)
            while not ended(self.options.get("gap", 0.2)):
                try:
                    word = str(self.talk(sock)["name"])
                except TimeoutError:
                    continue
                except OSError as error:
                    word = WORDS.get(error.errno or 0, str(error))
                if heard[-1:] != [word]:
                    heard.append(word)
                if word == self.options.get("until"):
                    break
        return {"heard": heard}

    def stream(self) -> Answer:
        """A datagram's length is its number, and that of its answer. slowest: seconds that an answer took at most."""
        socks: dict[str, socket.socket] = {}
        for host in self.options["hosts"]:
            self.target = (host, self.options["port"])
            socks[host] = self.connect()
        waiting = {sock: dict[int, float]() for sock in socks.values()}
        names: dict[str, str] = {}
        took = [0.0]

        def gather(seconds: float) -> None:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                for sock in select.select([*waiting], [], [], left)[0]:
                    data = sock.recv(65536)
                    now = time.monotonic()
                    took.append(now - waiting[sock].pop(len(data), now))
                    names[sock.getpeername()[0]] = json.loads(data)["name"]

        print("ready", flush=True)
        for number in itertools.cycle(range(200, 1300)):
            for sock, numbers in waiting.items():
                numbers[number] = time.monotonic()
                sock.send(bytes(number))
                gather(self.options.get("gap", 0.02) / len(socks))
            if ended(0):
                break
        gather(self.options["seconds"])
        lost = {host: len(waiting[sock]) for host, sock in socks.items()}
        return {"names": names, "lost": lost, "slowest": max(took)}


def ended(seconds: float) -> bool:
    """Waits so long; whether standard input has come to its end."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def bound(own: int | str = 0) -> dict[str, Any]:
    """The option for a port or address of the client's own."""
    return {"bind": [own, 0] if isinstance(own, str) else ["", own]} if own else {}


def main(options: dict[str, Any]) -> object:
    client = Client(options)
    if options["do"] == "probe":
        each = [
            {**options, "host": host, "port": port, "protocol": name, **bound(*own)}
            for host, port, name, *own in options["targets"]
        ]
        with ThreadPoolExecutor(len(each)) as pool:
            return list(pool.map(lambda one: Client(one).once(), each))
    if options["do"] == "ask":
        return [client.once() for _ in range(options.get("count", 1))]
    with contextlib.suppress(BrokenPipeError):
        under_way = ("load", "hold", "nag", "stream", "knock", "late")
        return {name: getattr(client, name) for name in under_way}[options["do"]]()
    return None


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
