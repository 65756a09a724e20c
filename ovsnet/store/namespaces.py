"""One Namespace object, as far as policies mind: its labels.

Pure. A label that can't be read makes the object unusable: without it a selector that asks for its absence would take
the namespace. Called through `manifest.READERS`.
"""

from __future__ import annotations

from ovsnet.policymodel import Namespace
from ovsnet.store.reading import LABEL, Reader

NAME = "kubernetes.io/metadata.name"
"""Label: the API server gives every namespace its own name, whatever it said before."""


class NamespaceReader(Reader[Namespace]):
    kind = "Namespace"
    fields = "kind and metadata"

    def _object(self, value: dict[str, object]) -> Namespace | None:
        metadata = self._get(value, "metadata", dict, {})
        name = self._own_name(
            metadata, LABEL, "name of a Namespace: lower case letters, digits and '-', 63 at most"
        )
        return Namespace(name=name, labels=self._labels(metadata) | {NAME: name}, source=self._source)
