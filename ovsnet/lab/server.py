"""What runs in every pod, on every node and outside: an echo server and a web server that tell who called.

    echo   TCP and UDP, port 7 (RFC 862)
    HTTP   TCP, port 80; answers {"name": own name, "client": the caller's address, "received": bytes}
           padded to the length that ?pad=N asks for

Run as a script in a namespace (`python -I -S server.py NAME`), so standard library only. Listens on both
families, also on addresses that come later.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable

ECHO_PORT, HTTP_PORT = 7, 80
MAX_BODY = 1 << 20


def plain(address: str) -> str:
    """An address as seen by a socket for both families, without the IPv4-mapped prefix."""
    return address.removeprefix("::ffff:") if "." in address else address


def listener(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    sock.listen(128)
    return sock


def serve(sock: socket.socket, handle: Callable[[socket.socket, str], None]) -> None:
    """Accept for ever, with a thread per connection."""

    def run(connection: socket.socket, client: str) -> None:
        with connection:
            connection.settimeout(30)
            # The caller may go away at any time.
            with contextlib.suppress(OSError):
                handle(connection, client)

    while True:
        connection, address = sock.accept()
        threading.Thread(target=run, args=(connection, plain(address[0])), daemon=True).start()


def echo(connection: socket.socket, _client: str) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def echo_datagrams() -> None:
    """Answer from the address that was asked: a host with several would else choose another."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.bind(("::", ECHO_PORT))
    while True:
        try:
            data, control, _flags, client = sock.recvmsg(65536, socket.CMSG_SPACE(20))
            # 16 bytes of address and 4 of interface, which the route is to choose.
            source = [(level, kind, value[:16] + bytes(4)) for level, kind, value in control]
            sock.sendmsg([data], source, 0, client)
        except OSError:
            continue  # an ICMP error about an earlier answer


def web(name: str) -> Callable[[socket.socket, str], None]:
    def handle(connection: socket.socket, client: str) -> None:
        data = b""
        while b"\r\n\r\n" not in data and len(data) < MAX_BODY:
            part = connection.recv(65536)
            if not part:
                return
            data += part
        path = data.split(b" ", 2)[1].decode(errors="replace")
        pad = path.partition("?pad=")[2]
        answer = json.dumps({"name": name, "client": client, "received": len(data)})
        body = answer.ljust(min(int(pad) if pad.isdecimal() else 0, MAX_BODY)) + "\n"
        head = f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())

    return handle


def main(name: str) -> None:
    threading.stack_size(256 * 1024)
    echo_listener, web_listener = listener(ECHO_PORT), listener(HTTP_PORT)
    threading.Thread(target=serve, args=(echo_listener, echo), daemon=True).start()
    threading.Thread(target=echo_datagrams, daemon=True).start()
    serve(web_listener, web(name))


if __name__ == "__main__":
    main(sys.argv[1])
