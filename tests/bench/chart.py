"""The picture of docs/benchmarks.md: rates of ovsnet and of its references as bars, one group for each kind of traffic.

SVG by hand: it has a dozen rectangles, and its colours follow the reader's choice of light or dark. Pure. Called by
`bench_kernel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from figures import Figure, number

WIDTH, MARGIN = 780, 20
BAR, STEP, HEAD, GAP = 18, 26, 30, 16
"""Height of a bar, from bar to bar, of a group's title, and between groups."""
LABELS, LONGEST = 254, 290
"""Where bars begin, and how long the longest of a group is."""
OURS = "ovsnet"
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.group { font-weight: 600 }
.quiet { fill: #59636e }
.ours { fill: #0969da }
.other { fill: #aab4be }
.axis { stroke: #8c959f }
text.strong { font-weight: 600; fill: #1f2328 }
@media (prefers-color-scheme: dark) {
  text, text.strong { fill: #e6edf3 }
  .quiet { fill: #9198a1 }
  .ours { fill: #4493f8 }
  .other { fill: #57606a }
  .axis { stroke: #6e7681 }
}
"""


class Bar(NamedTuple):
    who: str
    rate: float
    verdict: str = ""
    """How ovsnet's rate compares with this one."""


def groups(figures: Iterable[Figure]) -> dict[str, list[Bar]]:
    """By title: ovsnet, then its references. Only what is a rate of packets."""
    found: dict[str, list[Bar]] = {}
    for each in figures:
        if each.reference is None or each.ratio is None or not each.unit.startswith("k "):
            continue
        title = f"{each.name}, in thousand {each.unit.removeprefix('k ').replace('/s', ' a second')}"
        bars = found.setdefault(title, [Bar(OURS, each.value)])
        goal = f", goal {each.least:g}x" if each.least else ""
        bars.append(Bar(each.reference_name, each.reference, f"{OURS} {each.ratio:.2f}x{goal}"))
    return found


def draw(figures: Iterable[Figure], title: str) -> str:
    """The whole file."""
    lines, y = [text(MARGIN, 30, title, "title")], 44
    for name, bars in groups(figures).items():
        y += GAP
        lines.append(text(MARGIN, y + BAR - 5, name, "group"))
        y += HEAD
        lines += group(bars, y)
        y += STEP * len(bars)
    height = y + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


def group(bars: Sequence[Bar], y: float) -> list[str]:
    """To a scale of their own: groups count different things."""
    most = max(bar.rate for bar in bars)
    lines = []
    for row, bar in enumerate(bars):
        top, length = y + STEP * row, LONGEST * bar.rate / most
        ours = bar.who == OURS
        lines.append(text(LABELS - 10, top + BAR - 4, bar.who, "strong" if ours else "", "end"))
        kind = "ours" if ours else "other"
        lines.append(
            f'<rect x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2" class="{kind}"/>'
        )
        after = LABELS + length + 8
        lines.append(text(after, top + BAR - 4, number(bar.rate), "strong" if ours else ""))
        lines += [text(after + 44, top + BAR - 4, bar.verdict, "quiet")] if bar.verdict else []
    foot = y + STEP * (len(bars) - 1) + BAR + 3
    lines.append(f'<line x1="{LABELS}" y1="{y - 3}" x2="{LABELS}" y2="{foot}" class="axis"/>')
    return lines


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
