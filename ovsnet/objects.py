"""Everything that is rendered: what a template's macro can be called with.

Pure.
"""

from __future__ import annotations

from ovsnet.frontends import ServiceObject
from ovsnet.model import LocalNode, Peer, Pod
from ovsnet.policyobjects import PolicyObject
from ovsnet.services import SliceObject

Object = LocalNode | Pod | Peer | ServiceObject | SliceObject | PolicyObject
