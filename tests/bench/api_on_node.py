"""As much of the Kubernetes API as kube-proxy asks for: lists that never change, watches without news.

A program that runs on a node of a lab: `api_on_node.py PORT FILE`, where FILE has a JSON object: for each path a list
of objects. Every other list is empty, so that nothing waits for a kind that nobody has. Standard library only.
Started by `kube_proxy`.
"""

from __future__ import annotations

import json
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

VERSION = "1"
"""Of all there is."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, list[dict[str, Any]]]] = {}

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        asked = parse_qs(split.query)
        if "sendInitialEvents" in asked:
            # A list as a watch, which servers may lack: clients list then.
            self.answer(HTTPStatus.UNPROCESSABLE_ENTITY, {"kind": "Status", "apiVersion": "v1", "code": 422})
        elif "watch" in asked:
            self.watch()
        else:
            self.answer(HTTPStatus.OK, self.found(split.path))

    def do_POST(self) -> None:
        """An event, for nobody to read."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(HTTPStatus.CREATED, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def found(self, path: str) -> dict[str, Any]:
        """A list, or of a list the object that the path names."""
        parent, _, name = path.rpartition("/")
        for each in self.objects.get(parent, []):
            if each["metadata"]["name"] == name:
                return each
        items = self.objects.get(path, [])
        meta = {"resourceVersion": VERSION}
        group = path.split("/")[2:4] if path.startswith("/apis/") else ["v1"]
        first = items[0] if items else {"kind": "", "apiVersion": "/".join(group)}
        kind = f"{first['kind']}List"
        return {"kind": kind, "apiVersion": first["apiVersion"], "metadata": meta, "items": items}

    def watch(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        threading.Event().wait()

    def answer(self, status: HTTPStatus, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *words: object) -> None:
        print(format % words, flush=True)


if __name__ == "__main__":
    Handler.objects = json.loads(Path(sys.argv[2]).read_text())
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    server.serve_forever()
