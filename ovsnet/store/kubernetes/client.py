"""Requests to the API server, watches among them, and what they cost.

Owns the connections. A connection that nobody answers on is noticed by the kernel, by keepalive probes and
TCP_USER_TIMEOUT, within half a minute; a server or proxy that keeps it but says nothing any more, by whoever waits
for it. Never repeats a request, but for one that was refused for its credentials: these are read again first. Called
by `reflector`, `writer` and `events`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType

import httpx
import msgspec

import ovsnet
from ovsnet.errors import StoreError
from ovsnet.store.kubernetes.access import Source

_CONNECT = 5.0
_ANSWER = 30.0
"""Seconds that the server has for each part of an answer."""
_WHOLE = 120.0
"""Seconds for a whole answer that is no watch."""
_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
]
"""Ten seconds of silence, three probes: a peer that is gone is noticed after 25 s, whatever was under way (tcp(7))."""
_LONGEST_LINE = 16 * 2**20
"""Bytes of one event: ten times what etcd takes for an object."""
_HINTS = {
    401: "is the agent's token or certificate still valid?",
    403: "give the agent the rights that docs/configuration.md names under store.kubernetes",
    404: "is this the address of a Kubernetes API server?",
    429: "the API server is busy; this passes by itself",
    503: "the API server is not ready; this passes by itself",
}
# They tell of every request.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

Params = Mapping[str, str | int]


class Unreachable(StoreError):
    """No connection, or it ended."""


class Malformed(StoreError):
    """An answer that is none of the Kubernetes API's."""


class Refused(StoreError):
    """The server's own word. retry_after: seconds that it asks to be left alone; 0 if it does not say."""

    def __init__(self, message: str, status: int, retry_after: float = 0) -> None:
        super().__init__(message, _HINTS.get(status, ""))
        self.status = status
        self.retry_after = retry_after


class Gone(Refused):
    """410: what was asked to be continued is too long ago."""


class Client:
    """Connections to one API server. Nothing is read or opened before the first request."""

    def __init__(self, source: Source) -> None:
        self.requests: Counter[str] = Counter()
        """By verb: list, watch, get, patch, create."""
        self.received = 0
        """Bytes of answers, as they came over the wire."""
        self._source = source
        self._link: _Link | None = None

    @property
    def title(self) -> str:
        """What messages call the server."""
        return f"Kubernetes API {self._link.server}" if self._link else "Kubernetes API"

    async def get(self, path: str, params: Params, verb: str = "list") -> bytes:
        """The body of the answer. Raises Unreachable, Refused or another StoreError."""
        async with self._answer("GET", path, params, verb) as response:
            return await self._body(response)

    async def send(
        self, verb: str, method: str, path: str, body: object, kind: str = "application/json"
    ) -> bytes:
        """As `get`, with something to say."""
        content = msgspec.json.encode(body)
        async with self._answer(method, path, {}, verb, content=content, kind=kind) as response:
            return await self._body(response)

    @contextlib.asynccontextmanager
    async def watch(self, path: str, params: Params, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Opens a stream and yields its lines. silence: seconds without a byte after which it is Unreachable."""
        async with self._answer("GET", path, params, "watch", silence=silence) as response:
            yield self._lines(response)

    async def close(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            await link.http.aclose()

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        params: Params,
        verb: str,
        *,
        content: bytes | None = None,
        kind: str = "",
        silence: float = _ANSWER,
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose status is that of success, not read yet."""
        for last in (False, True):
            link = await self._current()
            headers = {"Content-Type": kind} if kind else {}
            if token := self._source.token(link.access):
                headers["Authorization"] = f"Bearer {token}"
            async with link:
                with _told(link.server):
                    request = link.http.build_request(
                        method, path.lstrip("/"), params=dict(params), content=content, headers=headers
                    )
                    request.extensions["timeout"] = httpx.Timeout(
                        _ANSWER, connect=_CONNECT, read=silence
                    ).as_dict()
                    if link.access.server_name:
                        request.extensions["sni_hostname"] = link.access.server_name
                    self.requests[verb] += 1
                    response = await link.http.send(request, stream=True)
                    try:
                        if response.status_code == 401 and not last:
                            self._source.forget()
                            continue
                        if not response.is_success:
                            raise await self._refusal(f"{link.server}: {method} {path}", response)
                        yield response
                        return
                    finally:
                        await response.aclose()

    async def _current(self) -> _Link:
        """The connections to use: new ones when credentials have changed. Who is using the old ones may end first."""
        link = self._link
        if link is not None and not self._source.changed():
            return link
        try:
            self._link = _Link(self._source)
        except StoreError:
            # Files that are half replaced; what worked so far may well still do.
            if link is None:
                raise
            return link
        if link is not None:
            await link.retire()
        return self._link

    async def _body(self, response: httpx.Response) -> bytes:
        """All of it. A server that trickles would keep us for ever: raises Unreachable."""
        try:
            async with asyncio.timeout(_WHOLE):
                body = await response.aread()
        except TimeoutError:
            raise Unreachable(
                f"{self.title}: {response.url.path} took more than {_WHOLE:.0f} s",
                "is the connection very slow?",
            ) from None
        self.received += response.num_bytes_downloaded
        return body

    async def _lines(self, response: httpx.Response) -> AsyncIterator[bytes]:
        rest = b""
        counted = 0
        async for chunk in response.aiter_bytes():
            self.received += response.num_bytes_downloaded - counted
            counted = response.num_bytes_downloaded
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield line
            if len(rest) > _LONGEST_LINE:
                raise Malformed(
                    f"{response.url}: an event of more than {_LONGEST_LINE} bytes", "who answers there?"
                )
        if rest.strip():
            # The connection ended in the middle of an event: it will be sent again.
            raise Unreachable(f"{self.title}: the connection ended within an event", "")

    async def _refusal(self, where: str, response: httpx.Response) -> Refused:
        with contextlib.suppress(httpx.HTTPError):
            await response.aread()
        text = _status_message(response) or response.reason_phrase
        seconds = response.headers.get("Retry-After", "")
        wait = float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0
        kind = Gone if response.status_code == 410 else Refused
        return kind(f"Kubernetes API {where}: {response.status_code} {text}", response.status_code, wait)


class _Link:
    """Connections with one set of credentials. A context manager: entered by each request that uses them."""

    def __init__(self, source: Source) -> None:
        self.access = access = source.load()
        self.server = access.server
        self._users = 0
        self._retired = False
        verify: ssl.SSLContext | bool = access.context() if access.server.startswith("https:") else False
        try:
            self.http = httpx.AsyncClient(
                base_url=access.server.rstrip("/") + "/",
                headers={"User-Agent": f"ovsnet/{ovsnet.__version__}", "Accept": "application/json"},
                # The environment's proxies are not for what makes the network; a kubeconfig's own is.
                trust_env=False,
                transport=httpx.AsyncHTTPTransport(
                    verify=verify,
                    trust_env=False,
                    socket_options=_ALIVE,
                    proxy=access.proxy or None,
                    limits=httpx.Limits(
                        max_connections=None, max_keepalive_connections=4, keepalive_expiry=30
                    ),
                ),
            )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise StoreError(
                f"Kubernetes API {access.server}: {error}", "give an address such as https://192.0.2.1:6443"
            ) from error

    async def __aenter__(self) -> None:
        self._users += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._retired and not self._users:
            await self.http.aclose()

    async def retire(self) -> None:
        """Closes what nobody uses; streams that run come to their own end."""
        self._retired = True
        if not self._users:
            await self.http.aclose()


@contextlib.contextmanager
def _told(server: str) -> Iterator[None]:
    """What goes wrong on a connection, in our words."""
    try:
        yield
    except httpx.HTTPStatusError:
        raise
    except httpx.DecodingError as error:
        raise Malformed(f"Kubernetes API {server}: {error}", "who answers there?") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        raise Unreachable(
            f"Kubernetes API {server}: {_why(error)}", "is it up, and is its address right?"
        ) from error


def _why(error: BaseException) -> str:
    """The innermost words that say something."""
    words, at = "", error
    while at is not None:
        words = _words(at) or words
        following = at.__cause__ or at.__context__
        if following is None:
            break
        at = following
    if isinstance(error, httpx.TimeoutException):
        words = "no connection in time" if isinstance(error, httpx.ConnectTimeout) else "no answer in time"
    return words or type(error).__name__


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(error).strip()


def _status_message(response: httpx.Response) -> str:
    """The message of a Status object, "" if the body is none."""
    try:
        body = json.loads(response.content)
    except (ValueError, httpx.StreamError):
        return ""
    message = body.get("message") if isinstance(body, dict) else None
    return message if isinstance(message, str) else ""
