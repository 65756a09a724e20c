"""The programs of the cluster: built once from the Go module in `go/` and kept.

What upstream pins is raised where CoreDNS, of the same module, asks for more: gRPC, golang.org/x and some more.

Owns how they are built and where they are kept: a folder named after a hash of all that decides the result, so that
nothing stale is ever used. Upstream's sources come through Go's own module proxy and checksum database. Never starts
anything of it. Called by `cluster`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ovsnet.lab.kubernetes import images, tools
from ovsnet.lab.spec import LabError

SOURCES = Path(__file__).with_name("go")
KUBERNETES = "v1.34.1"
PROGRAMS = (*images.CONTROL_PLANE, "kubelet", "kubectl", "kubeadm")
OLDEST_GO = (1, 24)
GO_FOLDERS = "/usr/local/go/bin"
"""Where Go's own archive puts it, which few have in PATH."""
_VERSION_VARIABLES = ("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion")
_PACKAGES = (f"./{images.MULTICALL}", "k8s.io/kubernetes/test/images/agnhost", "./pause", "./coredns")
"""Each gives a program named after its last folder. All are of one module, so that what they share is compiled once."""
FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
"""How all is compiled: without what only a debugger reads, a twelfth of the time."""
_GARBAGE = {"GOGC": "off", "GOMEMLIMIT": "1GiB"}
"""A compiler, of which one runs for each processor, collects garbage only once it has 1 GiB: a quarter of the time."""
_MEMORY = 2 << 30
"""Bytes that must be available for each processor to do so."""
_PROGRESS = 15.0
"""Seconds between two lines about how far the build is."""
_KEPT = 14 * 86400.0
"""Seconds for which a build is kept after its last use."""
Say = Callable[[str], None]


class Built:
    """What there is after a build. `bin` has the programs under their names, `images` the archive of all images."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.images = folder / "images.tar"


def built(say: Say) -> Built:
    """The programs and images; builds them where they are missing. Several at once wait for one another.

    Cold it takes some five minutes on two processors, 0.5 GB to download and 5 GB of Go's own caches. Raises LabError.
    """
    tools.require()
    go = find_go()
    folder = cache() / f"kubernetes-{digest(go)}"
    with _alone(folder.with_suffix(".lock")):
        if not folder.exists():
            _build(folder, go, say)
            _remove_unused(folder.parent)
        os.utime(folder)
    return Built(folder)


def cache() -> Path:
    """OVSNET_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OVSNET_CACHE") or Path(base) / "ovsnet")


def find_go(folders: str = GO_FOLDERS) -> str:
    """The path of a Go that is new enough: in PATH, else in `folders`.

    Raises LabError with what was found and what to install.
    """
    remedy = f"install Go {_dotted(OLDEST_GO)} or newer from go.dev/dl into /usr/local/go, or put it in PATH"
    path = shutil.which("go") or shutil.which("go", path=folders)
    if not path:
        raise LabError("Kubernetes is built from its sources, and there is no Go here", remedy)
    version = _go_version(path)
    found = re.fullmatch(r"go(\d+)\.(\d+).*", version)
    if not found or (int(found[1]), int(found[2])) < OLDEST_GO:
        raise LabError(f"{path} is {version}: too old for Kubernetes {KUBERNETES}", remedy)
    return path


def digest(go: str) -> str:
    """Of the Go version, the module and what makes the images."""
    hashed = hashlib.blake2b(_go_version(go).encode(), digest_size=8)
    sources = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    for path in (*sources, Path(images.__file__), Path(tools.__file__), Path(__file__)):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


def _go_version(go: str) -> str:
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, env=environment())
    return done.stdout.strip() or f"unusable ({done.stderr.strip()})"


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def environment() -> dict[str, str]:
    """Of Go: static programs, by the one that is here, which shall not fetch another one."""
    chosen = {} if _GARBAGE.keys() & os.environ.keys() or not _memory_suffices() else _GARBAGE
    return {**os.environ, **chosen, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}


def _memory_suffices() -> bool:
    found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return found is not None and int(found[1]) << 10 >= _MEMORY * (os.cpu_count() or 1)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, go: str, say: Say) -> None:
    """Into a folder of another name, renamed when all is there; what an interrupted build left there goes first."""
    begun = time.monotonic()
    say(f"building Kubernetes {KUBERNETES} from source, once: 1 minute if Go has compiled it before, else 5")
    done = folder.with_suffix(".new")
    shutil.rmtree(done, ignore_errors=True)
    try:
        result = Built(done)
        result.bin.mkdir(parents=True)
        log = folder.parent / "kubernetes-build.log"
        log.write_bytes(b"")
        _compile(go, result.bin, log, say)
        for program in PROGRAMS:
            (result.bin / program).symlink_to(images.MULTICALL)
        say("making container images")
        images.write(result.bin, result.images)
        done.rename(folder)
    finally:
        shutil.rmtree(done, ignore_errors=True)
    say(f"built into {folder} in {time.monotonic() - begun:.0f} s")


def _remove_unused(cache: Path) -> None:
    """Remove builds of other sources, 0.4 GB each, that no lab was started from for long."""
    oldest = time.time() - _KEPT
    for path in cache.glob("kubernetes-*"):
        if path.is_dir() and path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)


def _compile(go: str, target: Path, log: Path, say: Say) -> None:
    """All programs into the folder `target`."""
    versions = " ".join(f"-X {variable}={KUBERNETES}" for variable in _VERSION_VARIABLES)
    flags = ["-v", *FLAGS, "-ldflags", f"-s -w {versions}", "-o", f"{target}/"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [go, "build", *flags, *_PACKAGES], cwd=SOURCES, env=environment(), stdout=output, stderr=output
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PROGRESS)
                    break
                say(f"building Kubernetes: {_packages(log)} packages compiled")
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode:
        # The names of packages (-v) go on after an error, which is of another form.
        said = [line for line in log.read_text(errors="replace").splitlines() if re.search(r"^# |: ", line)]
        last = "\n".join(said[-5:])
        raise LabError(f"Kubernetes can't be built: {last}", f"the whole output is in {log}")


def _packages(log: Path) -> int:
    """How many of the log's lines name a package that was compiled (`go build -v`)."""
    return sum(not line.startswith("go: ") for line in log.read_text(errors="replace").splitlines())
