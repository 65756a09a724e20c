"""What the API server says, as far as a reflector minds: the rest is decoded by who reads the kind.

Pure data. Called by `reflector`.
"""

from __future__ import annotations

import msgspec


class Meta(msgspec.Struct, rename={"resource_version": "resourceVersion", "continue_": "continue"}):
    resource_version: str = ""
    continue_: str = ""


class Page(msgspec.Struct):
    metadata: Meta
    items: list[msgspec.Raw] | None = None


class Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Identity(msgspec.Struct, rename={"resource_version": "resourceVersion"}):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Identified(msgspec.Struct):
    metadata: Identity


class Status(msgspec.Struct):
    code: int = 0
    message: str = ""
    reason: str = ""
