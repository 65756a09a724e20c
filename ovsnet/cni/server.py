"""Answers CNI requests: the socket on one side, the backend on the other.

Owns the order of things for one request (receive, parse, call, answer, log) and what an error
looks like to the runtime. Never touches a pod or the switch: that is the backend, which
`agent` supplies. Each request is a task; none can hold up another.
"""

from __future__ import annotations

from typing import Protocol

from ovsnet.cni.protocol import Request
from ovsnet.cni.result import AddResult


class Backend(Protocol):
    """What does the work. Every call raises ovsnet.errors.OvsnetError where it fails on purpose.

    A client that goes away does not cancel a call: it runs to its end. Only the server's own stop does,
    and then after a grace period. Calls for different attachments run at the same time; so may an ADD
    and a DEL of the same one, when a runtime gave up waiting for the first.
    """

    async def add(self, request: Request) -> AddResult: ...

    async def delete(self, request: Request) -> None: ...

    async def check(self, request: Request) -> None: ...

    async def gc(self, request: Request) -> None: ...

    async def status(self, request: Request) -> None: ...

    def health(self) -> dict[str, object]:
        """For the command line; anything that msgspec can write as JSON."""
        ...
