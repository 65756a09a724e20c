"""`python -m ovsnet.lab.kubernetes`: builds what a cluster needs, if that is not there yet, and nothing else.

--look only tells whether it can be built here. Called by `bootstrap.sh`, which has it built beside the first tests.
"""

from __future__ import annotations

import signal
import sys

from ovsnet.lab.kubernetes import build
from ovsnet.lab.spec import LabError


def main(arguments: list[str]) -> int:
    # So that what it has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        if arguments == ["--look"]:
            build.find_go()
        else:
            build.built(lambda text: print(text, flush=True))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
