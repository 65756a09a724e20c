"""A small HTTP server on loopback that does to a store what a real API server won't do on demand.

It lists, pages and watches objects as the Kubernetes API does, as far as the store asks; for one request or all that
come it can do something else: refuse, cut, fall silent, talk nonsense. What a real server does is tested with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

NODES = "/api/v1/nodes"
SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
CLUSTER_POLICIES = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"
ALL = (NODES, SERVICES, SLICES, POLICIES, CLUSTER_POLICIES, NAMESPACES, PODS)
ALWAYS = ALL[:5]
"""What a store follows in any case."""


class Request:
    def __init__(
        self, method: str, target: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ):
        split = urlsplit(target)
        self.method, self.path, self.headers, self.body, self.writer = (
            method,
            split.path,
            headers,
            body,
            writer,
        )
        self.params = {key: values[0] for key, values in parse_qs(split.query).items()}

    @property
    def verb(self) -> str:
        if self.method != "GET":
            return self.method
        if "watch" in self.params:
            return "watch"
        return "check" if self.params.get("limit") == "1" else "list"

    def wants(self, item: Any) -> bool:
        """What a fieldSelector on the phase or the node says; a watch has what leaves it as DELETED."""
        phase, node = _field(item, "status", "phase"), _field(item, "spec", "nodeName")
        fields = self.params.get("fieldSelector", "").split(",")
        elsewhere = any(
            each.startswith("spec.nodeName=") and each != f"spec.nodeName={node}" for each in fields
        )
        return f"status.phase!={phase}" not in fields and not elsewhere

    async def answer(self, body: object, status: str = "200 OK", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}"]
        lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await self.writer.drain()

    async def open(self) -> None:
        """The head of a stream."""
        self.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self.writer.drain()

    async def say(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()

    async def event(self, kind: str, item: object) -> None:
        await self.say(json.dumps({"type": kind, "object": item}).encode() + b"\n")


Behaviour = Callable[[Request], Awaitable[None]]


def refuse(status: str, message: str = "no", **headers: str) -> Behaviour:
    async def behave(request: Request) -> None:
        await request.answer({"kind": "Status", "message": message}, status, **headers)

    return behave


def failing_watch(code: int, reason: str) -> Behaviour:
    """A watch whose first event is an error."""

    async def behave(request: Request) -> None:
        await request.open()
        status = {"kind": "Status", "code": code, "reason": reason, "message": "too old resource version"}
        await request.event("ERROR", status)
        await request.say(b"")

    return behave


def said(data: bytes) -> Behaviour:
    """A watch that says this and ends."""

    async def behave(request: Request) -> None:
        await request.open()
        await request.say(data)
        await request.say(b"")

    return behave


async def cut(request: Request) -> None:
    """The connection ends in the middle of an answer."""
    request.writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"metadata":')
    await request.writer.drain()
    request.writer.close()


async def silent(request: Request) -> None:
    """A stream that is open and says nothing ever."""
    await request.open()
    await asyncio.sleep(3600)


class Api:
    """Objects by path and key; what happened is in `log`."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {path: {} for path in ALL}
        self.version = 1000
        self.log: list[Request] = []
        self.once: dict[tuple[str, str], list[Behaviour]] = {}
        """By path and verb: what happens to the next requests, one each."""
        self.always: dict[tuple[str, str], Behaviour] = {}
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        """With the certificate that it shows from the next `start` on."""
        self._watches: dict[str, list[Request]] = {path: [] for path in ALL}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._place: socket.socket | None = None
        """Bound and never listening: nobody else gets the port while the server is away."""

    async def start(self, sock: socket.socket | None = None) -> None:
        """sock: bound already, in another network namespace for example."""
        if sock is None:
            if self._place is None:
                self._place = socket.socket()
                self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._place.bind(("127.0.0.1", 0))
                self.port = self._place.getsockname()[1]
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        else:
            self._server = await asyncio.start_server(self._serve, sock=sock)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a server that is killed."""
        if self._server is not None:
            self._server.close()
        await self.cut_all()

    def leave(self) -> None:
        """For good."""
        if self._place is not None:
            self._place.close()

    async def cut_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watches in self._watches.values():
            watches.clear()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def count(self, verb: str, path: str = "") -> int:
        return sum(each.verb == verb and each.path == (path or each.path) for each in self.log)

    async def put(self, path: str, item: dict[str, Any]) -> None:
        key = f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        kind = "MODIFIED" if key in self.objects[path] else "ADDED"
        self.objects[path][key] = item
        await self.tell(path, kind, item)

    async def remove(self, path: str, key: str) -> None:
        self.version += 1
        item = self.objects[path].pop(key)
        item["metadata"]["resourceVersion"] = str(self.version)
        await self.tell(path, "DELETED", item)

    async def bookmark(self, path: str, version: int) -> None:
        await self.tell(path, "BOOKMARK", {"metadata": {"resourceVersion": str(version)}})

    async def tell(self, path: str, kind: str, item: object) -> None:
        for request in list(self._watches[path]):
            gone = kind != "BOOKMARK" and not request.wants(item)
            try:
                await request.event("DELETED" if gone else kind, item)
            except ConnectionError:
                self._watches[path].remove(request)

    async def end_watches(self, path: str) -> None:
        """As when timeoutSeconds are over."""
        for request in self._watches[path]:
            await request.say(b"")
        self._watches[path].clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await _request(reader, writer)
                self.log.append(request)
                queue = self.once.get((request.path, request.verb))
                default = {"watch": self._watch, "check": self._list, "list": self._list}.get(
                    request.verb, self._accept
                )
                behave = queue.pop(0) if queue else self.always.get((request.path, request.verb), default)
                await behave(request)
        self._tasks.discard(task)
        self._writers.discard(writer)
        writer.close()

    async def _list(self, request: Request) -> None:
        items = [each for each in self.objects[request.path].values() if request.wants(each)]
        start, limit = int(request.params.get("continue", "0")), int(request.params.get("limit", "0"))
        end = start + limit if limit else len(items)
        meta = {"resourceVersion": str(self.version), "continue": str(end) if end < len(items) else ""}
        await request.answer({"metadata": meta, "items": items[start:end]})

    async def _accept(self, request: Request) -> None:
        """A write: it is in the log."""
        await request.answer({})

    async def _watch(self, request: Request) -> None:
        await request.open()
        self._watches[request.path].append(request)


def _field(item: Any, part: str, name: str) -> object:
    """ "" where there is none, or the part is of another shape."""
    found = item.get(part)
    return found.get(name, "") if isinstance(found, dict) else ""


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {
        key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body, writer)


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Api]:
    api = Api()
    api.tls = tls
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
        api.leave()


def node(name: str, number: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": f"10.244.{number}.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.0.2.{number}"}]},
    }


def service(name: str, number: int, **spec: object) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": f"10.96.{number // 250}.{number % 250 + 1}", "ports": [{"port": 80}], **spec},
    }


def slice_(name: str, *addresses: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": [each]} for each in addresses],
    }


def policy(name: str, **spec: object) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


def pod(name: str, address: str, phase: str = "Running", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"nodeName": "node-a", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "podIPs": [{"ip": address}]},
    }
