"""Messages are found in ovsdb-server's stream wherever it is cut."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovsnet.switch.wire import Framer

AWKWARD: list[dict[str, object]] = [
    {"id": 1, "result": {}, "error": None},
    {
        "method": "update3",
        "params": ["a", "b", {"Port": {"u": {"insert": {"name": 'a "quoted" } name \\'}}}}],
        "id": None,
    },
    {"text": '} { ] [ \\" \\\\', "deep": {"a": [{"b": {}}, {"c": ["}"]}]}},
    {"umlaut": "Köln \U0001f680", "empty": ""},
]

_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def stream(messages: list[dict[str, object]], *, ascii_only: bool) -> bytes:
    return b"".join(json.dumps(message, ensure_ascii=ascii_only).encode() for message in messages)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_stream_cut_at_every_byte_gives_the_same_messages(ascii_only: bool) -> None:
    data = stream(AWKWARD, ascii_only=ascii_only)
    for cut in range(len(data) + 1):
        framer = Framer()
        messages = framer.feed(data[:cut]) + framer.feed(data[cut:])
        assert [json.loads(message) for message in messages] == AWKWARD


def test_byte_by_byte_each_message_comes_with_its_last_byte() -> None:
    data = stream(AWKWARD, ascii_only=False)
    framer = Framer()
    ends = [place for place in range(len(data)) for _ in framer.feed(data[place : place + 1])]
    lengths = [len(stream([message], ascii_only=False)) for message in AWKWARD]
    assert ends == [sum(lengths[: count + 1]) - 1 for count in range(len(lengths))]


@given(st.lists(st.dictionaries(st.text(), _values, max_size=4), max_size=5), st.integers(1, 40))
def test_any_messages_in_pieces_of_any_size(messages: list[dict[str, object]], size: int) -> None:
    data = stream(messages, ascii_only=False)
    framer = Framer()
    found = [message for at in range(0, len(data), size) for message in framer.feed(data[at : at + size])]
    assert [json.loads(message) for message in found] == messages


def test_a_message_that_ends_before_it_starts_is_refused() -> None:
    framer = Framer()
    with pytest.raises(ValueError, match="before it starts"):
        framer.feed(b'"text" }')


def test_a_large_message_in_small_pieces_takes_linear_time() -> None:
    rows = {f"row{number}": {"insert": {"name": "x" * 200, "map": ["map", []]}} for number in range(10_000)}
    data = json.dumps(rows).encode()
    framer = Framer()
    started = time.process_time()
    found = [message for at in range(0, len(data), 1024) for message in framer.feed(data[at : at + 1024])]
    assert found == [data]
    assert time.process_time() - started < 1.0
