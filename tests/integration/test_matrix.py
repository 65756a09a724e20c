"""Every pod, node and the outside reach one another, whatever tunnels, families and underlay there are.

The ordinary run takes combinations in which every two settings meet once; OVSNET_FULL_MATRIX=1 takes all 36,
one after the other about two minutes:

    sudo OVSNET_FULL_MATRIX=1 tox -e integration -- tests/integration/test_matrix.py
"""

from __future__ import annotations

import itertools
import os

import pytest
from lab_world import assert_green, running

from ovsnet.lab.spec import LabSpec

ENCAPSULATIONS = ("vxlan", "geneve", "gre")
FAMILIES = ("4", "6", "dual")
TUNNELS = ("ports", "flow")
UNDERLAYS = ("4", "6")
EVERY = tuple(itertools.product(ENCAPSULATIONS, FAMILIES, TUNNELS, UNDERLAYS))

# Nine are the fewest in which every encapsulation meets every family; the rest follows a pattern.
PAIRS = (
    ("vxlan", "4", "ports", "4"),
    ("vxlan", "6", "flow", "6"),
    ("vxlan", "dual", "flow", "4"),
    ("geneve", "4", "flow", "6"),
    ("geneve", "6", "ports", "4"),
    ("geneve", "dual", "ports", "6"),
    ("gre", "4", "flow", "4"),
    ("gre", "6", "ports", "6"),
    ("gre", "dual", "ports", "4"),
)
QUICK = (PAIRS[1], PAIRS[5])
KERNEL = (PAIRS[5], PAIRS[7])
"""On the kernel's datapath, too, where all other tests are over VXLAN: the other encapsulations, over IPv6."""
Combination = tuple[str, str, str, str]


def chosen() -> list[object]:
    if os.environ.get("OVSNET_FULL_MATRIX"):
        return [pytest.param(each, id="-".join(each)) for each in EVERY]
    return [pytest.param(each, id="-".join(each), marks=marks(each)) for each in PAIRS]


def marks(combination: Combination) -> list[pytest.MarkDecorator]:
    slow = [] if combination in QUICK else [pytest.mark.slow]
    return [*slow, pytest.mark.kernel] if combination in KERNEL else slow


@pytest.mark.parametrize("combination", chosen())
def test_everything_reaches_everything(combination: Combination) -> None:
    encap, families, tunnels, underlay = combination
    first = combination == EVERY[0] or combination == PAIRS[0]
    with running(
        nodes=2, pods=2 if first else 1, encap=encap, families=families, tunnels=tunnels, underlay=underlay
    ) as lab:
        assert_green(lab)
        assert lab.up() == []


def test_the_ordinary_run_has_every_pair_of_settings() -> None:
    def pairs(combinations: tuple[Combination, ...]) -> set[tuple[tuple[int, str], tuple[int, str]]]:
        return {pair for each in combinations for pair in itertools.combinations(tuple(enumerate(each)), 2)}

    assert pairs(PAIRS) == pairs(EVERY)


def test_the_labs_default_is_among_them() -> None:
    default = LabSpec()
    assert (default.encap.value, default.families, default.tunnels.value) in {each[:3] for each in EVERY}
