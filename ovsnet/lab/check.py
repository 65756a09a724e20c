"""Whether everything reaches everything, as itself: the connectivity check.

One prober per pod and node runs all its probes at once. Besides that packets arrive, the addresses that the
receivers saw must be the true ones. Called by `lab`; what to make of a report for the eye is `report`'s.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from ovsnet.lab import prober
from ovsnet.lab.spec import IPAddress, LabError

PROTOCOLS = ("tcp", "udp", "ping")
SECONDS = 6.0
"""How long a probe is repeated: userspace tunnels resolve neighbours with the first packets, in 1 to 2 s."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Something that probes or is probed."""

    name: str
    kind: str
    """pod, node or outside."""
    addresses: tuple[IPAddress, ...]
    """Those at which it is probed."""
    families: tuple[int, ...] = ()
    """Those in which it must have an address."""
    sources: tuple[IPAddress, ...] = ()
    """Those that others in the cluster may see it come from."""
    outside_sources: tuple[IPAddress, ...] = ()
    """Those that the outside may see it come from."""

    def expected(self, target: Host, version: int) -> set[str]:
        """The addresses that the target may see of a probe of that family."""
        sources = self.outside_sources if target.kind == "outside" else self.sources
        return {str(address) for address in sources if address.version == version}


class Prober(msgspec.Struct, frozen=True):
    """A host with the way to run a command there."""

    host: Host
    command: Callable[[Sequence[str]], list[str]]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One probe: protocol is tcp, udp or ping, version the IP version."""

    source: str
    target: str
    address: str
    protocol: str
    version: int
    size: int
    """Bytes of the packet, if it is a single one."""
    ok: bool
    detail: str = ""
    milliseconds: float = 0.0

    def __str__(self) -> str:
        outcome = "ok" if self.ok else self.detail
        protocol = f"{self.protocol} over IPv{self.version}"
        return f"{self.source} -> {self.target} ({self.address}) {protocol}: {outcome}"


class Report(msgspec.Struct, kw_only=True):
    """All results, with the names of rows and columns for a matrix."""

    results: list[Result] = []
    sources: list[str] = []
    targets: list[str] = []

    @property
    def ok(self) -> bool:
        return bool(self.results) and not self.failures

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if not result.ok]

    def cell(self, source: str, target: str) -> list[Result]:
        return [result for result in self.results if (result.source, result.target) == (source, target)]


def check(probers: Iterable[Prober], targets: Sequence[Host], seconds: float = SECONDS) -> Report:
    """Probe from all of `probers` to all of `targets`, everything at once."""
    probers = list(probers)
    lacks = [lack for host in targets for lack in missing_addresses(host)]
    report = Report(
        results=lacks, sources=[each.host.name for each in probers], targets=[each.name for each in targets]
    )
    with ThreadPoolExecutor(max_workers=max(1, min(32, len(probers)))) as pool:
        for results in pool.map(lambda one: run(one, targets, seconds), probers):
            report.results += results
    return report


def missing_addresses(host: Host) -> list[Result]:
    """What can't be probed for lack of an address counts as failed, not as absent."""
    present = {address.version for address in host.addresses}
    return [
        Result(
            source=host.name,
            target=host.name,
            address="-",
            protocol="address",
            version=version,
            size=0,
            ok=False,
            detail="it has none",
        )
        for version in host.families
        if version not in present
    ]


def run(one: Prober, targets: Sequence[Host], seconds: float) -> list[Result]:
    """All probes of one source; those that can't be made have failed."""
    families = {address.version for address in one.host.addresses}
    wanted = {
        str(address): target
        for target in targets
        if target.name != one.host.name
        for address in target.addresses
        if address.version in families
    }
    job = {"seconds": seconds, "targets": list(wanted)}
    entries: list[dict[str, Any]] = []
    try:
        command = one.command([sys.executable, "-I", "-S", prober.__file__])
        done = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, timeout=seconds + 60
        )
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""
        entries = [] if why else json.loads(done.stdout)
    except LabError as error:
        why = error.message
    if why:
        entries = [failed(address, name, why) for address in wanted for name in PROTOCOLS]
    return [judge(one.host, wanted[entry["target"]], entry) for entry in entries]


def failed(address: str, protocol: str, why: str) -> dict[str, Any]:
    detail = f"the prober does not run: {why}"
    return {"target": address, "protocol": protocol, "size": 0, "ok": False, "detail": detail, "ms": 0.0}


def judge(source: Host, target: Host, entry: dict[str, Any]) -> Result:
    """A result in words; the wrong server, or the wrong source address, is a failure too."""
    version = 6 if ":" in entry["target"] else 4
    ok, detail = bool(entry["ok"]), str(entry["detail"])
    if not ok and entry["protocol"] != "tcp" and entry["size"]:
        detail += f" to packets of {entry['size']} bytes"
    if ok and "client" in entry:
        expected = source.expected(target, version)
        if entry["name"] != target.name:
            ok, detail = False, f"answered by {entry['name']}"
        elif entry["client"] not in expected:
            ok, detail = (
                False,
                f"seen as {entry['client']} instead of {' or '.join(sorted(expected)) or 'nothing'}",
            )
    return Result(
        source=source.name,
        target=target.name,
        address=entry["target"],
        protocol=entry["protocol"],
        version=version,
        size=entry["size"],
        ok=ok,
        detail=detail,
        milliseconds=entry["ms"],
    )
