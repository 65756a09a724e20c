"""CNI ADD and DEL against the reference plugins `bridge` and `host-local`, alone and many at once."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from bench_lab import Plugin, plugins, running, sandboxes
from figures import Figure, figure, percentile

ALONE, AT_ONCE = 30, 20
ROUNDS = 8
"""Of AT_ONCE calls each."""
PAUSE = 0.2
"""Seconds before each call or round of calls, so that none is measured with the work that another left behind."""
_REFERENCE = "bridge"
Samples = dict[tuple[str, str, int], list[float]]
"""Milliseconds by plugin, command and how many at once."""


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    # The same addresses come again sooner than in real life, where they would rest for a minute.
    with (
        running(nodes=1, pods=0, agent={"reuseAfter": 0}) as lab,
        plugins(lab.nodes[0], AT_ONCE) as both,
    ):
        samples: Samples = defaultdict(list)
        say("CNI: alone")
        rounds(both, 1, ALONE, samples)
        say(f"CNI: {AT_ONCE} at once")
        rounds(both, AT_ONCE, ROUNDS, samples)
        yield from judge(samples)


def rounds(both: tuple[Plugin, Plugin], count: int, repeat: int, samples: Samples) -> None:
    """Both plugins in turns, who is first alternating; the first round warms up and does not count."""
    for number in range(-1, repeat):
        for plugin in both if number % 2 else reversed(both):
            names = sandboxes(plugin, count)
            time.sleep(PAUSE)
            add = plugin.add(names)
            time.sleep(PAUSE)
            delete = plugin.delete(names)
            if number >= 0:
                samples[plugin.name, "ADD", count] += add
                samples[plugin.name, "DEL", count] += delete


def judge(samples: Samples) -> Iterator[Figure]:
    for count in (1, AT_ONCE):
        title = "alone" if count == 1 else f"{count} at once"
        for command in ("ADD", "DEL"):
            ours, theirs = samples["ovsnet", command, count], samples[_REFERENCE, command, count]
            yield figure(f"CNI {command}, {title}, p50", "ms", ours, theirs, _REFERENCE, limit=2.0)
    for command in ("ADD", "DEL"):
        ours, theirs = samples["ovsnet", command, AT_ONCE], samples[_REFERENCE, command, AT_ONCE]
        yield Figure(
            name=f"CNI {command}, {AT_ONCE} at once, p99",
            unit="ms",
            value=percentile(ours, 99),
            reference=statistics.median(ours),
            reference_name="its own p50",
            limit=3.0,
            samples=len(ours),
            spread=(min(ours), max(ours)),
            note=f"of {_REFERENCE}: {percentile(theirs, 99) / statistics.median(theirs):.2f}x",
        )
