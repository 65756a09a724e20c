"""The framing of requests and replies."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovsnet.cni import client, framing, result

NAMES = st.text(st.characters(codec="ascii", categories=("Lu", "Nd")), min_size=1, max_size=20)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(variables=st.dictionaries(NAMES, VALUES, max_size=6), stdin=st.binary(max_size=200))
def test_a_request_survives_the_journey(variables: dict[str, str], stdin: bytes) -> None:
    header, _, body = framing.frame(variables, stdin).partition(b"\n")
    assert framing.body_length(header + b"\n") == len(body)
    assert framing.unpack(body) == (variables, stdin)


@given(code=st.integers(0, 255), stdout=st.binary(max_size=200), missing=st.integers(1, 300))
def test_a_reply_survives_the_journey_or_is_known_to_be_cut(code: int, stdout: bytes, missing: int) -> None:
    reply = framing.frame_reply(code, stdout)
    assert framing.unframe_reply(reply) == (code, stdout)
    with pytest.raises(framing.Malformed):
        framing.unframe_reply(reply[: -min(missing, len(reply))])


@given(st.binary(max_size=100))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    with contextlib.suppress(framing.Malformed):
        framing.body_length(data)
    with contextlib.suppress(framing.Malformed):
        framing.unpack(data)
    with contextlib.suppress(framing.Malformed):
        framing.unframe_reply(data)


@pytest.mark.parametrize(
    "header",
    [
        b"GET / HTTP/1.1\r\n",
        b"OVSNET2 5\n",
        b"OVSNET1 -5\n",
        b"OVSNET1 \n",
        b"\n",
        b"OVSNET1 1048577\n",
        b"OVSNET1 " + b"0" * 30,
    ],
)
def test_a_wrong_header_is_malformed(header: bytes) -> None:
    with pytest.raises(framing.Malformed):
        framing.body_length(header)


@pytest.mark.parametrize("header", [b"", b"OVS", b"OVSNET1 ", b"OVSNET1 12"])
def test_a_header_may_come_in_pieces(header: bytes) -> None:
    assert framing.body_length(header) is None


def test_the_executable_agrees_with_the_agent() -> None:
    assert client.VERSIONS == result.VERSIONS
    assert client.MAX_REQUEST == framing.MAX_REQUEST
