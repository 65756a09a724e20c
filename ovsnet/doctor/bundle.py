"""One archive that a maintainer can work from: state, dumps, configuration, logs; without secrets.

Changes nothing but for the archive, which is root's alone, appears as a whole or not at all, and never takes the
place of another file. What fails or is missing is in it as such. Called by `ovsnet support-bundle`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import secrets
import shlex
import signal
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ovsnet import config as configuration
from ovsnet.config import Config
from ovsnet.doctor import contents, redact
from ovsnet.doctor.contents import Command, Kind
from ovsnet.doctor.judge import cni
from ovsnet.doctor.look import tools
from ovsnet.errors import ConfigError, OvsnetError
from ovsnet.switch import control
from ovsnet.switch.openflow import management_socket

_SECONDS = 15.0
"""For each command; the doctor takes 10."""
_AT_ONCE = 6
_LARGEST = 32 << 20
"""Characters of one answer; what is more is left out at its end."""
_LOG_BYTES = 2 << 20
"""Of a log file's end."""
_MANIFESTS = (".yaml", ".yml", ".json")
_PASSWORDS = re.compile(r"/etc/(g?shadow-?|krb5\.keytab|ssl/private/.*|ipsec\.secrets)|/proc/.*|/sys/.*")
_LOGS = ("ovs-vswitchd.log", "ovsdb-server.log")


class Item(NamedTuple):
    """A file of the archive. note: "" or what is to be known of it, such as a command's failure."""

    name: str
    text: str
    note: str = ""


async def gather(path: Path, logs: Sequence[Path]) -> list[Item]:
    """All that goes into the archive. path: of the configuration. logs: files besides those that are known."""
    try:
        config = configuration.load(path)
    except ConfigError:
        config = Config()  # the doctor's findings tell what is wrong with it
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(command: Command) -> Item:
        async with turn:
            return await _answer(command)

    wanted = contents.commands(
        config, str(path), _control(config), management_socket(config.ovsdb, config.bridge)
    )
    items = list(await asyncio.gather(*map(one, wanted)))
    items += [*_documents(config, path), *_logs(logs)]
    return [Item("INDEX.txt", _index(items)), *items]


def _control(config: Config) -> str:
    try:
        return control.control_socket(config.ovsdb)
    except OvsnetError:
        return "ovs-vswitchd"  # ovs-appctl then says what is missing


async def _answer(command: Command) -> Item:
    answer = await tools.run(command.argv, _SECONDS)
    hide = _HIDE[command.kind]
    failed = answer.code != 0
    note = ""
    if failed:
        words = answer.err.strip().splitlines()
        # Open vSwitch's tools end themselves by this signal when their --timeout is over.
        late = answer.code == -signal.SIGALRM
        note = (
            "no answer in time" if late else redact.text(words[-1] if words else f"exit code {answer.code}")
        )
    # A file that programs read has nothing but the answer in it; how it came about is in the index.
    out = hide(_cut(answer.out))
    if command.name.endswith(".json"):
        return Item(command.name, out, note)
    err = redact.text(_cut(answer.err))
    ended = "did not end by itself" if answer.code is None else f"exit code {answer.code}"
    return Item(command.name, f"$ {shlex.join(command.argv)}\n# {ended}\n{out}{err}", note)


_HIDE: dict[Kind, Callable[[str], str]] = {
    Kind.TEXT: redact.text,
    Kind.SWITCH: lambda content: redact.text(content, tunnels=True),
    Kind.JSON: redact.answer,
    Kind.OVSDB: redact.ovsdb,
}


def _cut(content: str) -> str:
    return content if len(content) <= _LARGEST else f"{content[:_LARGEST]}\n(cut here)\n"


def _documents(config: Config, path: Path) -> Iterator[Item]:
    """The agent's configuration, the runtime's, the manifests."""
    yield _document(path, "config")
    for folder, name, suffixes in (
        (Path(cni.NETWORKS), "config/cni", cni.SUFFIXES),
        *(((Path(config.store.folder), "config/manifests", _MANIFESTS),) if config.store.folder else ()),
    ):
        try:
            entries = sorted(each for each in folder.iterdir() if each.suffix in suffixes)
        except OSError as error:
            yield Item(f"{name}/MISSING.txt", "", f"{folder}: {error.strerror}")
            continue
        for entry in entries:
            yield _document(entry, name)


def _document(path: Path, place: str) -> Item:
    name = f"{place}/{path.name}"
    if refused := _refused(path):
        return Item(name, "", f"{path}: left out: {refused}")
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST).decode(errors="replace")
    except OSError as error:
        return Item(name, "", f"{path}: {error.strerror}")
    if redact.is_kubeconfig(content):
        return Item(name, "", f"{path}: left out: it looks like a kubeconfig")
    return Item(name, redact.document(content))


def _refused(path: Path) -> str:
    """Why a file must not be read, wherever a link leads; "" if it may. One that is missing may: that says enough."""
    if path.exists() and not path.is_file():
        return "it is no regular file"
    return "it has passwords" if _PASSWORDS.fullmatch(str(path.resolve())) else ""


def _logs(more: Sequence[Path]) -> Iterator[Item]:
    folder = Path("/var/log/openvswitch")
    taken: set[str] = set()
    for path in [*(folder / name for name in _LOGS), *more]:
        name = f"logs/{path.name}"
        while name in taken:
            name += "-again"
        taken.add(name)
        if refused := _refused(path):
            yield Item(name, "", f"{path}: left out: {refused}")
            continue
        try:
            content = _tail(path)
            if redact.is_kubeconfig(content):
                yield Item(name, "", f"{path}: left out: it looks like a kubeconfig")
            else:
                yield Item(name, redact.text(content))
        except OSError as error:
            yield Item(name, "", f"{path}: {error.strerror}")


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES)
        file.seek(start)
        lines = file.read(_LOG_BYTES).decode(errors="replace").splitlines()
    # A line whose start is missing may have the second half of a secret in it.
    whole = lines[1:] if start else lines
    return "".join(f"{line}\n" for line in whole[-contents.LOG_LINES :])


def _index(items: Sequence[Item]) -> str:
    lines = [f"{item.name}{f'  ({item.note})' if item.note else ''}" for item in items]
    return "\n".join([f"made {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}", *lines]) + "\n"


def default_target(node: str) -> Path:
    """Here, or where temporary files are: a container's folder is read-only."""
    name = f"ovsnet-support-{node}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz"
    return Path("." if os.access(".", os.W_OK) else tempfile.gettempdir()) / name


def write(items: Sequence[Item], target: Path) -> None:
    """The archive, mode 0600, as a whole or not at all. Raises OvsnetError; never replaces a file."""
    root = target.name.removesuffix(".tar.gz").removesuffix(".tgz")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                for item in items:
                    _add(archive, f"{root}/{item.name}", item)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, target)  # unlike rename(2) it fails where there is a file of that name
    except FileExistsError:
        raise OvsnetError(f"{target} exists already", "choose another --output, or remove it") from None
    except OSError as error:
        raise OvsnetError(f"{target}: {error.strerror}", "choose another --output") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _add(archive: tarfile.TarFile, name: str, item: Item) -> None:
    data = (item.text or f"{item.note}\n").encode(errors="replace")
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(data))
