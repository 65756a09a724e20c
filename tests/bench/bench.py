"""What things cost: `python tests/bench/bench.py [PART...]`, or `tox -e bench`.

Without a part all are run, docs/benchmarks.json written and docs/benchmarks.md made anew. Needs root, makes
its own labs and takes them down. Fails only if something does not work, never because it is slow.
"""

from __future__ import annotations

import sys
import time

import bench_audit
import bench_cni
import bench_scale
import bench_traffic
import documents
import figures

PARTS = {"cni": bench_cni, "scale": bench_scale, "audit": bench_audit, "traffic": bench_traffic}


def main(parts: list[str]) -> None:
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    begun = time.monotonic()
    about = figures.machine()
    found: list[figures.Figure] = []
    for part in parts or PARTS:
        for each in PARTS[part].run(lambda text: say(begun, text)):
            found.append(each)
            print(figures.table([each]).splitlines()[-1], flush=True)
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()))
    print(figures.table(found))
    if not parts:
        documents.store(found, about, documents.GENERAL)


def say(begun: float, text: str) -> None:
    print(f"{time.monotonic() - begun:5.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
