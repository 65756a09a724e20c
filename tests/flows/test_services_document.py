"""docs/services.md shows nothing that is not there."""

from __future__ import annotations

import pytest
from document_world import DOCUMENT, GROUP, Shown, is_there, shown, what_is_there
from ovs_sandbox import Sandbox

There = dict[str, list[str]]


@pytest.fixture(scope="module")
def there(ovs: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> There:
    return what_is_there(ovs, tmp_path_factory.mktemp("cluster"))


def test_all_that_the_document_shows_is_there(there: There) -> None:
    lines = list(shown(DOCUMENT.read_text(encoding="utf-8")))
    lies = [f"{each.number}: {each.place} {each.text}" for each in lines if not is_there(each, there)]
    assert not lies, "\n".join(["docs/services.md shows, by line, what is not there:", *lies])
    places = {each.place for each in lines}
    assert {"30 track", "38 service", "41 stick", GROUP, "nft prerouting", "ip rule", "ip route"} <= places


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("30 track", "priority=100,tcp,nw_dst=10.96.0.1,tp_dst=80 actions=goto_table:36"),
        ("30 track", "priority=100,tcp,nw_dst=10.96.0.1,tp_dst=81 actions=..."),
        ("31 track", "priority=100,tcp,nw_dst=10.96.0.1,tp_dst=80 actions=goto_table:32"),
        ("34 reply", "priority=100,tcp,nw_dst=10.96.0.1,tp_dst=80 actions=goto_table:32"),
        ("30 track", "priority=100,..."),
        (GROUP, "group_id=4202526430,...,actions=ct(...,nat(dst=10.244.2.3:8080),..."),
        ("nft output", "iifname ..."),
        ("ip route", "10.96.0.0/24 via ..."),
    ],
)
def test_what_is_not_there_is_told(there: There, place: str, text: str) -> None:
    assert not is_there(Shown(number=1, place=place, text=text), there)


def test_a_line_that_shows_nothing_known_is_told() -> None:
    with pytest.raises(ValueError, match="line 2 shows nothing"):
        list(shown("    30 track  priority=0 actions=drop\n    track priority=0\n"))


def test_a_line_may_go_on_with_the_next() -> None:
    text = "    30 track        priority=0 \n                    actions=drop\n    # a word\n"
    assert [each.text for each in shown(text)] == ["priority=0 actions=drop"]
