"""One manifest file to objects, with everything that is wrong with it in words.

Pure. Takes the kinds in `READERS` and their lists, and kind List (what `kubectl get ... -o yaml` prints); other kinds
are none of ours and are passed over. Never compares files with one another: `cluster` and `frontends` do. Called by
`folder`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

from ovsnet.errors import StoreError
from ovsnet.model import Frozen, Node
from ovsnet.store import documents
from ovsnet.store.clusterpolicies import ClusterPolicyReader
from ovsnet.store.labelledpods import PodReader
from ovsnet.store.namespaces import NamespaceReader
from ovsnet.store.nodes import NodeReader
from ovsnet.store.policies import PolicyReader
from ovsnet.store.reading import Broken, Readable, Reader, key_of
from ovsnet.store.services import ServiceReader
from ovsnet.store.slices import SliceReader

READERS: dict[object, type[Reader[Readable]]] = {
    each.kind: each
    for each in (
        NodeReader,
        ServiceReader,
        SliceReader,
        PolicyReader,
        ClusterPolicyReader,
        NamespaceReader,
        PodReader,
    )
}
"""By kind."""
KINDS = frozenset(each.kind for each in READERS.values())
_LISTS: dict[object, str] = {f"{kind}List": str(kind) for kind in READERS}

_Object = TypeVar("_Object", bound=Readable)
Objects = Mapping[str, Mapping[str, Readable]]
"""By kind and key; a kind of which there are none may be left out."""


class Contents(Frozen):
    """What a file says. empty: it says nothing at all."""

    objects: Objects = {}
    problems: tuple[str, ...] = ()
    """Why an object is missing here: one line each, naming document, object and field."""
    remarks: tuple[str, ...] = ()
    """What was left out of objects that are here, or read in the safest way."""
    doubtful: frozenset[str] = frozenset()
    """Kinds of which objects may be missing here because of `problems`."""
    empty: bool = False


def read(text: str, source: str) -> Contents:
    """The objects in the text of a file. source: its name, for messages about these objects later on."""
    try:
        parsed = documents.read(text)
    except documents.Mistake as mistake:
        return broken(f"{mistake}; correct it")
    found: dict[str, dict[str, Readable]] = {}
    problems: list[str] = []
    remarks: list[str] = []
    doubtful: set[str] = set()
    for document in parsed:
        where = f"document {document.number} (line {document.line})" if len(parsed) > 1 else ""
        readers = list(_readers(document, where, source))
        if document.faults and len(readers) > 1:
            # Which of its objects they concern nobody knows, and all would say the same.
            problems += _of_all(document, where, len(readers))
            doubtful |= {
                kind for reader in readers for kind in ({reader.kind} if reader.is_object else KINDS)
            }
            continue
        for reader in readers:
            item = reader.read()
            if reader.problems:
                problems += reader.problems
                doubtful |= {reader.kind} if reader.is_object else KINDS
            remarks += reader.remarks
            if item is None:
                continue
            if found.setdefault(reader.kind, {}).setdefault(key_of(item), item) is not item:
                problems.append(f"{reader.where}: a second {reader.kind} of this name in one file; keep one")
    return Contents(
        objects=found,
        problems=tuple(problems),
        remarks=tuple(remarks),
        doubtful=frozenset(doubtful),
        empty=not parsed,
    )


def _of_all(document: documents.Document, where: str, count: int) -> list[str]:
    """What is wrong with a list of so many objects, a line each."""
    prefix = f"{where}: " if where else ""
    return [
        f"{prefix}{fault}; none of the {count} objects of this list is taken" for fault in document.faults
    ]


def broken(problem: str) -> Contents:
    """Of a file that can't be read at all."""
    return Contents(problems=(problem,), doubtful=KINDS)


def of(objects: Objects, reader: type[Reader[_Object]]) -> Mapping[str, _Object]:
    """Those of the reader's kind."""
    return cast(Mapping[str, _Object], objects.get(reader.kind, {}))


def nodes(text: str, source: str) -> tuple[Node, ...]:
    """The Nodes, for who wants all or nothing. Raises StoreError with every problem."""
    contents = read(text, source)
    if contents.problems:
        raise StoreError(
            "; ".join(f"{source}: {problem}" for problem in contents.problems), "correct the manifest"
        )
    return tuple(of(contents.objects, NodeReader).values())


def objects(document: documents.Document, where: str) -> Iterator[tuple[str, object]]:
    """(where, object) of each object in the document, lists opened. An item of a NodeList is a Node."""
    value = document.value
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not (kind == "List" or (isinstance(kind, str) and kind in _LISTS)):
        yield where, value
        return
    items = value.get("items")
    if not isinstance(items, list):
        yield where, Broken(path="items", text="must be a list of objects")
        return
    for index, item in enumerate(items):
        if isinstance(item, dict) and kind in _LISTS:
            item = {"kind": _LISTS[kind], **item}
        yield ", ".join(filter(None, (where, f"items[{index}]"))), item


def _readers(document: documents.Document, where: str, source: str) -> Iterator[Reader[Readable]]:
    """A reader for each object of the document that is of a kind of ours, or that can't be told what it is."""
    for at, item in objects(document, where):
        kind = item.get("kind") if isinstance(item, dict) else "Node"
        if not isinstance(kind, str):
            broken = Broken(
                path="kind", text=f"is missing; one of {', '.join(map(str, READERS))}, or another's"
            )
            yield NodeReader(broken, at, source)
        elif kind in READERS:
            yield READERS[kind](item, at, source, document.faults)
