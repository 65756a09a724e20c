"""Other programs' answers, with a limit of time and size. Called by `examine` and `bundle`."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ovsnet.errors import OvsnetError
from ovsnet.switch import command


class Answer(NamedTuple):
    """code: None when the program did not run to its end; `err` then says why."""

    code: int | None
    out: str
    err: str


def why(error: Exception) -> str:
    """Why a look failed that nobody expected to."""
    said = f"{type(error).__name__}: {error}"
    # A file that is not for everybody has its name in it, and is EACCES.
    if isinstance(error, OSError) and error.errno == errno.EPERM and error.filename is None:
        return f"{said}; packets of one's own take CAP_NET_RAW, which ovsnet's containers have not"
    return said


async def run(argv: Sequence[str], seconds: float) -> Answer:
    """Never raises for what the program does; it is ended when the time is over."""
    try:
        async with asyncio.timeout(seconds):
            finished = await command.run(argv)
    except TimeoutError:
        return Answer(None, "", f"did not end within {seconds:g} s")
    except OvsnetError:
        return Answer(None, "", f"{argv[0]} is not installed")
    except OSError as error:
        return Answer(None, "", f"{argv[0]}: {error.strerror}")
    return Answer(finished.code, finished.out, finished.err)


async def chains(seconds: float) -> list[str]:
    """Names of all nftables chains, which has those that iptables-nft makes. Raises OvsnetError."""
    answer = await run(["nft", "-j", "list", "chains"], seconds)
    if answer.code != 0:
        raise OvsnetError(f"nft list chains: {answer.err.strip()}", "install the package nftables")
    document = json.loads(answer.out or "{}")
    found = [each["chain"]["name"] for each in document.get("nftables", []) if "chain" in each]
    return found + await _legacy(seconds)


async def _legacy(seconds: float) -> list[str]:
    """Chains of iptables-legacy, whose tables are asked for only where the kernel has some already."""
    found: list[str] = []
    for tool, names in (
        ("iptables-legacy-save", "ip_tables_names"),
        ("ip6tables-legacy-save", "ip6_tables_names"),
    ):
        if _has_tables(names):
            answer = await run([tool], seconds)
            found += [line[1:].split()[0] for line in answer.out.splitlines() if line.startswith(":")]
    return found


def _has_tables(names: str) -> bool:
    try:
        return bool(Path(f"/proc/net/{names}").read_text("ascii").strip())
    except OSError:
        return False
