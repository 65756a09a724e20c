"""Requests to the API server of a lab, many at once: each worker keeps a connection of its own.

Sockets are made in the control plane's network namespace, which this machine has no way to. Called by
`recorded_stores` and `api_lab`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ovsnet.host import netns
from ovsnet.lab.kubernetes.control import ControlPlane
from ovsnet.store.kubernetes.access import Source

WORKERS = 8
_PATIENCE = 60.0
_PLACES = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Service": "/api/v1/namespaces/{}/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
}
_LOST = (ConnectionError, http.client.BadStatusLine, http.client.NotConnected, ssl.SSLEOFError)
"""Raised where the server has closed a connection that was idle for long."""
Object = dict[str, Any]


class Requests:
    """The administrator's. All methods raise RuntimeError with what the server said if it refused."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        access = Source(str(control.pki.folder / "admin.kubeconfig")).load()
        self._server = access.server.removeprefix("https://")
        self._context = access.context()
        self._one = self._connection()

    def create(self, objects: Sequence[Object]) -> None:
        """All of them, in no order."""
        connections = [self._connection() for _ in range(min(WORKERS, len(objects)))]

        def work(number: int) -> None:
            for each in itertools.islice(objects, number, None, len(connections)):
                status, said = ask(connections[number], "POST", _folder(each), each)
                if status != 201:
                    raise RuntimeError(f"{_path(each)}: {status} {said}")

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, range(len(connections))))
        for each in connections:
            each.close()

    def put(self, document: Object) -> None:
        """Changes it, or makes it."""
        if self._ask("PUT", _path(document), document, 404) == 404:
            self._ask("POST", _folder(document), document)

    def delete(self, document: Object) -> None:
        self._ask("DELETE", _path(document))

    def _ask(self, method: str, path: str, body: Object | None = None, allowed: int = 200) -> int:
        """Once more on a new connection if the old one is lost."""
        try:
            status, said = ask(self._one, method, path, body)
        except _LOST:
            self._one = self._connection()
            status, said = ask(self._one, method, path, body)
        if status not in (200, 201, allowed):
            raise RuntimeError(f"{method} {path}: {status} {said}")
        return status

    def _connection(self) -> http.client.HTTPSConnection:
        made = http.client.HTTPSConnection(self._server, context=self._context, timeout=_PATIENCE)
        with (
            open(f"/proc/{self._control.held().pid}/ns/net") as namespace,
            netns.entered(namespace.fileno()),
        ):
            made.connect()
        # Else it would connect again by itself, in the wrong namespace.
        made.auto_open = 0
        return made


def ask(
    connection: http.client.HTTPSConnection, method: str, path: str, body: Object | None
) -> tuple[int, str]:
    """The status, and the answer."""
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def _folder(document: Object) -> str:
    return _PLACES[document["kind"]].format(document["metadata"].get("namespace"))


def _path(document: Object) -> str:
    return f"{_folder(document)}/{document['metadata']['name']}"
