"""A kernel with openvswitch for hosts whose own has none: a user-mode Linux, built once and kept.

Owns how it is built (Debian's kernel source, `uml.config`) and where it is kept: a folder named after the
source's version and a hash of the fragment, so that a change of either builds anew and nothing stale is ever
used. Never boots it; that is `guest`. Also a program, which bootstrap.sh starts beside the first tests:
`python tests/kernel/uml.py` builds and prints the path.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
FRAGMENT, XSTATE = HERE / "uml.config", HERE / "xstate.c"
SOURCES = Path("/usr/src")
SERIES = "6.1"
"""Debian 12's own, which is what its nodes run."""
PACKAGES = (f"linux-source-{SERIES}", "flex", "bison", "bc", "make", "gcc", "libc6-dev", "xz-utils")
_REQUIRED = ("# CONFIG_VMAP_STACK is not set",)
"""Besides what the fragment switches on."""
_PROGRESS = 15.0
"""Seconds between two lines about how far the build is."""
_OBJECTS = 840
"""Roughly what is compiled; only the progress line goes by it."""
_DRIVERS = "gpu media staging clk scsi usb infiniband misc iio video pinctrl net/ethernet net/wireless"
_LEFT_PACKED = (
    *(f"drivers/{folder}/*.[ch]" for folder in _DRIVERS.split()),
    *(f"{folder}/*.[chS]" for folder in ("sound", "samples", "tools/perf", "tools/testing", "arch/[!ux]*")),
    *("*.dts*", "*.rst", "*.yaml"),
)
"""Of the source's 82,000 files those that are not needed: to write them takes longer than to read the archive. What
`uml.config` adds may need one of them."""


class Unbuildable(Exception):
    """Says what is missing and what to do."""


def cache() -> Path:
    """OVSNET_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OVSNET_CACHE") or Path(base) / "ovsnet")


def kernel() -> Path:
    """The kernel's executable. Builds it where it is missing.

    Several at once wait for one another. Raises Unbuildable.
    """
    folder = cache() / f"uml-{_version()}-{_digest()}"
    # A lock for each name, whose dots are no suffix: who needs another kernel waits for none.
    with _alone(folder.parent / f"{folder.name}.lock"):
        if not (folder / "linux").exists():
            _build(folder)
    return folder / "linux"


def preload() -> Path:
    """A library to preload into the kernel, see `xstate.c`; compiled where it is missing. Raises Unbuildable."""
    digest = hashlib.blake2b(XSTATE.read_bytes(), digest_size=5).hexdigest()
    library = cache() / f"xstate-{digest}.so"
    with _alone(cache() / "xstate.lock"):
        if not library.exists():
            new = library.with_suffix(".new")
            _run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(new), str(XSTATE)], None)
            new.rename(library)
    return library


def _version() -> str:
    """Of the installed source package, "6.1.192-2"."""
    query = ["dpkg-query", "-W", "-f", "${Version}", PACKAGES[0]]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise Unbuildable(f"no kernel source here: apt-get install {' '.join(PACKAGES)}") from None
    return done.stdout.strip()


def _digest() -> str:
    """Of what decides the result, here."""
    return hashlib.blake2b(FRAGMENT.read_bytes(), digest_size=5).hexdigest()


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path) -> None:
    """Into a folder of another name, renamed when all is there: an interrupted build leaves nothing to trip over."""
    begun = time.monotonic()
    _say(f"building a user-mode Linux {SERIES} with openvswitch, about 3 minutes on two processors, once")
    with tempfile.TemporaryDirectory(prefix="uml-", dir=folder.parent) as name:
        work, done = Path(name) / "source", Path(name) / "done"
        done.mkdir()
        work.mkdir()
        log = folder.parent / "uml-build.log"
        with log.open("w") as output:
            archive = str(SOURCES / f"{PACKAGES[0]}.tar.xz")
            unwanted = [f"--exclude={PACKAGES[0]}/{pattern}" for pattern in _LEFT_PACKED]
            extract = [
                "tar",
                "-xf",
                archive,
                "-C",
                str(work),
                "--strip-components=1",
                "--anchored",
                *unwanted,
            ]
            _run(extract, output)
            _run(["make", "-C", str(work), "ARCH=um", "defconfig"], output)
            merge = [
                str(work / "scripts/kconfig/merge_config.sh"),
                "-m",
                "-O",
                str(work),
                str(work / ".config"),
            ]
            _run([*merge, str(FRAGMENT)], output, cwd=work)
            _run(["make", "-C", str(work), "ARCH=um", "olddefconfig"], output)
            _check(work / ".config")
            jobs = f"-j{os.cpu_count() or 1}"
            _run(["make", "-C", str(work), "ARCH=um", jobs, "linux"], output, counted=True)
        shutil.copy2(work / "linux", done / "linux")
        _run(["strip", str(done / "linux")], None)
        shutil.copy2(work / ".config", done / "config")
        done.rename(folder)
    _say(f"built {folder / 'linux'} in {time.monotonic() - begun:.0f} s")


def _check(config: Path) -> None:
    """A symbol that another one excludes is dropped in silence by kconfig."""
    lines = set(config.read_text().splitlines())
    wanted = [line for line in FRAGMENT.read_text().splitlines() if line.startswith("CONFIG_")]
    if missing := [each for each in (*wanted, *_REQUIRED) if each not in lines]:
        raise Unbuildable(f"{PACKAGES[0]} does not give {', '.join(missing)}; see {FRAGMENT}")


def _run(argv: Sequence[str], output: object, cwd: Path | None = None, *, counted: bool = False) -> None:
    """One step, its output in the log; with `counted` a line now and then tells how many objects there are."""
    log = getattr(output, "name", "")
    start = Path(log).stat().st_size if log else 0
    try:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, cwd=cwd)  # type: ignore[call-overload]
    except OSError as error:
        raise Unbuildable(f"{argv[0]}: {error.strerror}; apt-get install {' '.join(PACKAGES)}") from error
    try:
        while True:
            try:
                code = process.wait(_PROGRESS)
                break
            except subprocess.TimeoutExpired:
                if counted:
                    objects = Path(log).read_bytes()[start:].count(b"\n  CC ")
                    _say(f"building the kernel: {min(99, 100 * objects // _OBJECTS)} %")
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code:
        raise Unbuildable(f"{' '.join(argv[:4])} failed with {code}; see {log}")


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    # So that what it has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        print(kernel())
    except Unbuildable as error:
        sys.exit(f"error: {error}")
