"""pyroute2 without all that it brings along, and whole for whoever wants that."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_agent_brings_only_the_modules_that_it_uses() -> None:
    words = "import sys, ovsnet.agent.app; print(*(m for m in sys.modules if m.startswith('pyroute2.')))"
    loaded = python(words).split()
    assert "pyroute2.netlink.rtnl.ifinfmsg" in loaded
    assert not {"pyroute2.ndb", "pyroute2.iproute", "pyroute2.plan9"} & {*loaded}


@pytest.mark.parametrize(
    "code",
    [
        "import ovsnet.host.links, pyroute2; print(pyroute2.IPRoute.__name__)",
        "import ovsnet.host.links; from pyroute2 import IPRoute; print(IPRoute.__name__)",
        "import pyroute2, ovsnet.host.links; print(pyroute2.IPRoute.__name__)",
        "import ovsnet.host.links, pyroute2; pyroute2.__version__; print(pyroute2.IPRoute.__name__)",
    ],
)
def test_who_wants_all_of_it_gets_it(code: str) -> None:
    assert python(code) == "IPRoute"


def test_what_it_does_not_have_is_an_error() -> None:
    code = "import ovsnet.host.links, pyroute2\ntry: pyroute2.nothing\nexcept AttributeError as e: print(e)"
    assert "nothing" in python(code)
