"""Writes folders as the layers of an image, in one archive that every engine loads.

The archive is an OCI image layout (image-spec v1.1, image-layout.md) and has the manifest.json of `docker save` too,
for engines that know only that. The same folders make the same bytes: entries are sorted, all are root's, no file
has a time of its own, and what belongs to one user or group alone, or gives rights to whoever runs it (setuid), is
taken away. Called by `__main__`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Layer:
    """made_by: what it has, for `docker history`. diff: the digest of what is in it, uncompressed."""

    path: Path
    made_by: str
    digest: str
    diff: str
    size: int


class _Digest(io.RawIOBase):
    """Passes on what is written, and takes its digest on the way."""

    def __init__(self, target: IO[bytes] | gzip.GzipFile) -> None:
        self.target = target
        self.sum = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sum.update(data)
        return self.target.write(data)


def layer(folder: Path, path: Path, made_by: str) -> Layer:
    """The folder's content as a compressed layer, written to `path`."""
    with path.open("wb") as file:
        outer = _Digest(file)
        # Without a name and a time: both would be in its header.
        with gzip.GzipFile("", "wb", 9, outer, mtime=0) as packed:
            inner = _Digest(packed)
            with tarfile.open(fileobj=inner, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for each in _below(folder):
                    _add(archive, each, str(each.relative_to(folder)))
    return Layer(path, made_by, outer.sum.hexdigest(), inner.sum.hexdigest(), path.stat().st_size)


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    entry = archive.gettarinfo(path, name)
    # Hard links are written as files of their own: which of them is the first would depend on the order.
    status = path.lstat()
    if stat.S_ISREG(status.st_mode):
        entry.type, entry.size, entry.linkname = tarfile.REGTYPE, status.st_size, ""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode &= ~(stat.S_ISUID | stat.S_ISGID)
    if entry.isreg():
        with path.open("rb") as content:
            archive.addfile(entry, content)
    else:
        archive.addfile(entry)


def write(target: Path, layers: list[Layer], names: list[str], settings: dict[str, Any], created: str) -> str:
    """The archive; returns the image's digest.

    names: with tags. settings: as in the image-spec's config.md. created: RFC 3339.
    """
    config = _json(
        {
            "created": created,
            "architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each.diff}" for each in layers]},
            "history": [{"created": created, "created_by": each.made_by} for each in layers],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [
                {"mediaType": _LAYER, "digest": f"sha256:{each.digest}", "size": each.size} for each in layers
            ],
        }
    )
    described = _descriptor(_MANIFEST, manifest)
    tagged = [{**described, "annotations": _annotations(name)} for name in names]
    saved = {
        "Config": _blob(_digest(config)),
        "RepoTags": names,
        "Layers": [_blob(each.digest) for each in layers],
    }
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": tagged}),
        "manifest.json": _json([saved]),
        _blob(_digest(config)): config,
        _blob(_digest(manifest)): manifest,
    }
    # Beside the old one first: whoever reads that one shall not find half an archive.
    unfinished = target.with_name(f"{target.name}.new")
    with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            archive.addfile(_entry(name, len(content)), io.BytesIO(content))
        for each in {each.digest: each for each in layers}.values():
            with each.path.open("rb") as packed:
                archive.addfile(_entry(_blob(each.digest), each.size), packed)
    unfinished.replace(target)
    return str(described["digest"])


def _annotations(name: str) -> dict[str, str]:
    """The tag by itself is what the specification asks for, the whole name is what containerd reads."""
    return {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{_digest(content)}", "size": len(content)}


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
