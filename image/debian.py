"""The image's system: Debian packages and what they depend on, unpacked into a folder.

apt chooses, fetches and verifies, with a private idea of what is installed (nothing). No script of a package runs;
what those scripts would have done, `finish` does, as far as it is needed. Called by `__main__`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from image.failure import Failure

LIST = Path(__file__).with_name("packages")
_MERGED = ("bin", "lib", "lib64", "sbin")
"""Links to folders of the same name in /usr, as on every Debian 12."""
_UNWANTED = (
    "etc/cron.*",
    "etc/init.d",
    "usr/lib/python3*/**/__pycache__",
    "usr/lib/python3*/ensurepip",
    "usr/lib/python3*/idlelib",
    "usr/lib/python3*/pydoc_data",
    "usr/lib/python3*/test",
    "usr/lib/python3*/turtledemo",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zsh",
)
"""Of no use in a container. Copyright files stay: whoever passes the programs on has to pass them on too."""
_KEPT_OF_DOC = "copyright"
_ALTERNATIVES = {
    # Debian chooses between this one and that with DPDK when it configures the package.
    "usr/sbin/ovs-vswitchd": "../lib/openvswitch-switch/ovs-vswitchd",
    "usr/bin/awk": "mawk",
}
_FOLDERS = {"dev": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755, "sys": 0o755, "tmp": 0o1777}


def packages() -> list[str]:
    """Names of packages in `packages`."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def fetch(cache: Path) -> list[Path]:
    """The .deb files of all packages and their dependencies, verified by apt; in the order of their names.

    cache: a folder that may keep them for the next time.
    """
    for folder in ("archives", "none"):
        (cache / folder / "partial").mkdir(parents=True, exist_ok=True)
    nothing = cache / "status"
    nothing.write_text("")
    options = [f"Dir::State::status={nothing}", f"Dir::Cache={cache}", "APT::Sandbox::User=root"]
    apt = [
        "apt-get",
        "-q",
        "--no-install-recommends",
        *(word for option in options for word in ("-o", option)),
    ]
    # Of what it has apt prints nothing.
    listed = _run(
        [*apt, "-o", f"Dir::Cache::archives={cache}/none", "install", "-y", "--print-uris", *packages()]
    )
    names = sorted(re.findall(r"^'[^']+' (\S+\.deb) \d+", listed, re.MULTILINE))
    if not names:
        raise Failure("apt names no package", "run: apt-get update")
    _run([*apt, "install", "-y", "--download-only", *packages()])
    return [cache / "archives" / name for name in names]


def unpack(archives: list[Path], root: Path) -> None:
    """Every package into the folder, and what dpkg would remember of it where scanners look for it."""
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    remembered = root / "var/lib/dpkg/status.d"
    remembered.mkdir(parents=True)
    for archive in archives:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as reading:
            # Owners are all root's in the archive that is made of this; see `oci`.
            command = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)]
            done = subprocess.run(command, stdin=reading.stdout, capture_output=True, text=True, check=False)
        if done.returncode or reading.returncode:
            raise Failure(f"{archive}: cannot be unpacked: {done.stderr.strip()}", "remove it and try again")
        control = _run(["dpkg-deb", "--field", str(archive)])
        name = _run(["dpkg-deb", "--field", str(archive), "Package"]).strip()
        (remembered / name).write_text(control, encoding="utf-8")


def finish(root: Path) -> None:
    """What packages' scripts would have done, and less of what nobody reads here."""
    for path in list(unwanted(root)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name in ("passwd", "group"):
        shutil.copyfile(root / "usr/share/base-passwd" / f"{name}.master", root / "etc" / name)
    for name, target in _ALTERNATIVES.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)
    for name, mode in _FOLDERS.items():
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(mode)
    _link(root / "var/run", "/run")
    _link(root / "var/lock", "/run/lock")
    _certificates(root)
    (root / "etc/ld.so.cache").unlink(missing_ok=True)


def unwanted(root: Path) -> Iterator[Path]:
    for pattern in _UNWANTED:
        yield from root.glob(pattern)
    for path in (root / "usr/share/doc").rglob("*"):
        if not path.is_dir() and path.name != _KEPT_OF_DOC:
            yield path


def _certificates(root: Path) -> None:
    """One file of all that Mozilla trusts, as update-ca-certificates makes it."""
    single = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    target = root / "etc/ssl/certs/ca-certificates.crt"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(path.read_text(encoding="utf-8").rstrip("\n") + "\n" for path in single))


def _link(path: Path, target: str) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    if not path.is_symlink():
        path.symlink_to(target)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failure(
            f"{command[0]} is not here", "the image is made on Debian or what derives from it"
        ) from None
    if done.returncode:
        raise Failure(
            f"{' '.join(command)}: {done.stderr.strip()}", "is the network there? Try: apt-get update"
        )
    return done.stdout
