"""What the benchmarks found: figures, how they are judged, and how they are printed.

Pure but for the questions about the machine. A figure stands beside its reference of the same run, because absolute
times say little about another machine. Called by `bench`, `bench_kernel`, their parts and `documents`.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    limit, least: the most and the least that is allowed, of `ratio` if there is a reference, else of `value`; None: no
    goal. aim: the most that is wished for, which is less than the limit.
    """

    name: str
    unit: str
    value: float
    reference: float | None = None
    reference_name: str = ""
    limit: float | None = None
    least: float | None = None
    aim: float | None = None
    samples: int
    spread: tuple[float, float] | None = None
    """The least and the greatest sample."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.reference if self.reference else None

    @property
    def met(self) -> bool | None:
        """None where no goal is set."""
        if self.limit is None and self.least is None:
            return None
        judged = self._judged
        return (self.limit is None or judged <= self.limit) and (self.least is None or judged >= self.least)

    @property
    def aim_met(self) -> bool | None:
        """None where nothing more than the goal is wished for."""
        return None if self.aim is None else self._judged <= self.aim

    @property
    def verdict(self) -> str:
        """In words; Markdown."""
        met = {None: "", True: "yes", False: "**no**"}[self.met]
        return f"{met}, not the aim" if self.met and self.aim_met is False else met

    @property
    def _judged(self) -> float:
        return self.ratio if self.ratio is not None else self.value

    @property
    def goal(self) -> str:
        unit = "x" if self.reference is not None else f" {self.unit}"
        goals = (("at most", self.limit), ("at least", self.least), ("aim", self.aim))
        return ", ".join(f"{words} {goal:g}{unit}" for words, goal in goals if goal is not None)


def figure(
    name: str,
    unit: str,
    samples: Sequence[float],
    reference: Sequence[float] = (),
    reference_name: str = "",
    limit: float | None = None,
    least: float | None = None,
    note: str = "",
    aim: float | None = None,
) -> Figure:
    """Medians of the samples."""
    return Figure(
        name=name,
        unit=unit,
        value=statistics.median(samples),
        reference=statistics.median(reference) if reference else None,
        reference_name=reference_name,
        limit=limit,
        least=least,
        aim=aim,
        samples=len(samples),
        spread=(min(samples), max(samples)),
        note=note,
    )


def percentile(samples: Sequence[float], percent: float) -> float:
    """The least sample that at least so many percent do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def machine() -> dict[str, str]:
    """Where the figures are from."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    switch = subprocess.run(["ovs-vswitchd", "--version"], capture_output=True, text=True, check=True)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{model}, {os.cpu_count()} CPUs, {memory:.0f} GiB",
        "kernel": platform.release(),
        "Open vSwitch": switch.stdout.split()[3],
        "Python": platform.python_version(),
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def table(figures: Iterable[Figure]) -> str:
    """Markdown."""
    rows = [("what", "ovsnet", "reference", "ratio", "goal", "met", "samples")]
    for each in figures:
        against = f"{number(each.reference)} ({each.reference_name})" if each.reference is not None else ""
        ratio = f"{each.ratio:.2f}" if each.ratio is not None else ""
        value = f"{number(each.value)} {each.unit}".strip()
        note = f" ({each.note})" if each.note else ""
        rows.append((each.name + note, value, against, ratio, each.goal, each.verdict, str(each.samples)))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|---:|---:|---:|---|---|---:|", *lines[1:]])


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
