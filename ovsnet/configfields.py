"""Types of the configuration's fields that several fields share, each with its notation, and what sections are.

Pure. Called by `config`, `configaddresses` and `configstore` only.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ovsnet import nodeports
from ovsnet.model import AddressRange, Frozen, IPAddress, IPNetwork

# `form` names a notation of configcheck.NOTATIONS, or says what a pattern asks for.
Address = Annotated[IPAddress, Meta(extra={"form": "address"})]
Network = Annotated[IPNetwork, Meta(extra={"form": "network"})]
NodeNetwork = Annotated[nodeports.Configured, Meta(extra={"form": "node network"})]
NodePorts = Annotated[nodeports.PortRange, Meta(extra={"form": "ports"})]
AbsolutePath = Annotated[str, Meta(pattern=r"^/[^\0]*\Z", extra={"form": "an absolute path"})]
SocketPath = Annotated[
    str, Meta(pattern=r"^/[^\0]{1,106}\Z", extra={"form": "an absolute path of at most 107 characters"})
]
Interface = Annotated[
    str,
    Meta(
        pattern=r"^(?!\.{1,2}\Z)[^\s/:\0]{1,15}\Z",
        extra={"form": "an interface name: 1 to 15 characters without space, '/' or ':'"},
    ),
]

NodeName = Annotated[
    str,
    Meta(
        pattern=r"^(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z",
        extra={"form": "a node name: lower case letters, digits, '-' and '.'"},
    ),
]
ServerAddress = Annotated[
    str,
    Meta(
        pattern=r"^https?://(\[[0-9A-Fa-f:.]+\]|[^:/\[\]@?#\s]+)(:\d{1,5})?(/[^?#\s]*)?\Z",
        extra={"form": "an address such as https://192.0.2.1:6443"},
    ),
]
Addresses = Annotated[AddressRange, Meta(extra={"form": "addresses"})]


class Section(Frozen, rename="camel"):
    """A mapping in the file: keys are camelCase, as in Kubernetes' own files."""
