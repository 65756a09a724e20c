"""`python -m image FILE`: makes the image and says how large it is.

Owns the order of steps and the image's settings.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import ovsnet
from image import application, debian, oci
from image.failure import Failure

REPOSITORY = "localhost/ovsnet"
SETTINGS: dict[str, Any] = {
    "Entrypoint": ["ovsnet"],
    "Cmd": ["--help"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
    "WorkingDir": "/",
    "Labels": {
        "org.opencontainers.image.title": "ovsnet",
        "org.opencontainers.image.version": ovsnet.__version__,
        "org.opencontainers.image.description": "A Kubernetes pod network on Open vSwitch",
        "org.opencontainers.image.licenses": "Apache-2.0",
    },
}


def main() -> int:
    """Exit codes: 0, 1 it could not be made, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m image", description="Makes ovsnet's container image.")
    parser.add_argument("file", type=Path, help="the archive to write; engines load it")
    parser.add_argument("--name", help=f"name and tag, else {REPOSITORY}:{ovsnet.__version__}")
    parser.add_argument("--cache", type=Path, help="a folder that keeps Debian's packages for the next time")
    chosen = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="ovsnet-image-") as scratch:
            cache = chosen.cache or Path(scratch, "cache")
            name = chosen.name or f"{REPOSITORY}:{ovsnet.__version__}"
            make(chosen.file, name, cache.resolve(), Path(scratch))
    except Failure as failure:
        print(f"error: {failure.message}\nhint: {failure.hint}", file=sys.stderr)
        return 1
    return 0


def make(target: Path, name: str, cache: Path, scratch: Path) -> None:
    """What changes least is the lowest layer, so that a node that has it fetches little."""
    system, dependencies, own = (scratch / part for part in ("system", "dependencies", "own"))
    for folder in (system, dependencies, own):
        folder.mkdir()
    archives = debian.fetch(cache)
    say(f"{len(archives)} Debian packages")
    debian.unpack(archives, system)
    debian.finish(system)
    where = application.modules(system)
    application.install(where, dependencies, own)
    say(f"CNI executable {application.cni_executable(own)}")
    application.compile_modules(system / "usr/lib", dependencies / where, own / where)
    application.compile_templates(own / where, dependencies / where)
    layers = [
        oci.layer(system, scratch / "0.tar.gz", "Debian packages: image/packages"),
        oci.layer(dependencies, scratch / "1.tar.gz", "what ovsnet imports"),
        oci.layer(own, scratch / "2.tar.gz", f"ovsnet {ovsnet.__version__}"),
    ]
    for each in layers:
        say(f"{each.size / 1e6:6.1f} MB  {each.made_by}")
    digest = oci.write(target, layers, [name], SETTINGS, created())
    say(f"{target.stat().st_size / 1e6:6.1f} MB  {target}: {name}@{digest}")


def created() -> str:
    """SOURCE_DATE_EPOCH (reproducible-builds.org), else the beginning of time: the same input makes the same image."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
