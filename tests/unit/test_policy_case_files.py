"""The cases of tests/cluster/policies without a cluster: all can be read, and the oracle agrees with what they expect.

Who writes a wrong expectation learns of it here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import policy_cases
import pytest
from policy_agreement import MODEL, disagreements
from policy_matrix import MATRIX, PODS, Way, table

FILES = policy_cases.files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_oracle_agrees_with_a_case(path: Path) -> None:
    assert disagreements(policy_cases.load(path)) == []


def test_there_are_many_and_each_says_what_it_shows() -> None:
    shown = {policy_cases.load(path).shows for path in FILES}
    assert len(shown) == len(FILES) >= 60
    assert all(len(each) > 20 and each.endswith(".") for each in shown)


def test_a_wrong_expectation_is_found() -> None:
    case = policy_cases.load(policy_cases.FOLDER / "isolation-of-one-pod.yaml")
    wrong = replace(case.steps[0], table=table([{"denied": "all -> x/a x/b"}]))
    found = disagreements(replace(case, steps=(wrong,)))
    assert found
    assert all("-> x/b" in each and "is to be denied; the oracle: allowed" in each for each in found)


def test_the_matrix_is_every_pair() -> None:
    pairs = {(way.source, way.target) for way in MATRIX}
    assert {(source, target) for source in PODS for target in PODS if source != target} <= pairs
    assert len(MATRIX) == (9 * 8 + 2 * 9 * 4) * 8
    assert Way("node-a", "x/b", "UDP", 81, 6) in MATRIX
    assert {*policy_cases.places()} == {*MODEL}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shows: a", "'expect'"),
        ("{shows: a, expect: [{denied: all -> w}]}", "'w' is no place"),
        ("{shows: a, expect: [{denied: all}]}", "write SOURCES -> TARGETS"),
        ("{shows: a, expect: [{refused: all -> x}]}", "write denied: LINE or allowed: LINE"),
        ("{shows: a, expect: [], polices: {}}", "unknown: polices"),
        ("{shows: a, expect: [], remove: [x/p]}", "there is no 'x/p'"),
        ("{shows: a, expect: [], ask: ['all -> port:x/a']}", "is no Service"),
        ("{shows: a, expect: [], steps: [{expect: []}]}", "expect stand beside steps"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_of(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as raised:
        policy_cases.load(path)
    assert "wrong.yaml" in str(raised.value)
    assert said in str(raised.value)


def test_an_address_of_nobody_is_told_of() -> None:
    with pytest.raises(ValueError, match="there is no 'x/d'"):
        policy_cases.filled({"cidr": "<x/d IPv4>/32"}, MODEL)
