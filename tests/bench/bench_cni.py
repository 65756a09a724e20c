"""CNI ADD and DEL against the reference plugins `bridge` and `host-local`, alone and many at once.

And what the executable in C saves against the one in Python, which is installed where no C compiler is.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from bench_lab import Plugin, plugins, running, sandboxes
from figures import Figure, figure, percentile

from ovsnet.cni import executable
from ovsnet.lab.node import Node

ALONE, AT_ONCE = 30, 20
ROUNDS = 8
"""Of AT_ONCE calls each."""
PAIRS = {"VERSION": 100, "ADD": 60}
"""Of calls by both executables."""
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
        if executable.made().kind.startswith("in C"):
            say("CNI: the executable in C and the one in Python")
            yield from executables(lab.nodes[0], both[0])


def executables(node: Node, in_c: Plugin) -> Iterator[Figure]:
    """Both in turns on the same agent and in the same sandbox, who is first alternating."""
    path = node.private("/opt/cni/bin/ovsnet-in-python")
    path.write_bytes(executable.interpreted())
    path.chmod(0o755)
    in_python = in_c.instead("ovsnet-in-python", "/opt/cni/bin/ovsnet-in-python")
    for command, pairs in PAIRS.items():
        samples: dict[Plugin, list[float]] = {in_c: [], in_python: []}
        for number in range(-1, pairs):
            for plugin in samples if number % 2 else reversed(samples):
                took = alone(plugin, command, sandboxes(in_c, 1))
                if number >= 0:
                    samples[plugin].append(took)
        quick, slow = samples.values()
        less = statistics.median(more - few for few, more in zip(quick, slow, strict=True))
        note = f"{less:.1f} ms less, the median of pairs"
        yield figure(f"CNI {command}, executable in C", "ms", quick, slow, "in Python", note=note)


def alone(plugin: Plugin, command: str, names: list[str]) -> float:
    """Milliseconds of VERSION, or of ADD, whose DEL follows."""
    if command == "VERSION":
        time.sleep(PAUSE / 10)
        return plugin.version()
    time.sleep(PAUSE)
    (took,) = plugin.add(names)
    time.sleep(PAUSE)
    plugin.delete(names)
    return took


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
