"""OpenFlow messages out of a stream, and what a stream that is none comes to."""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovsnet.switch import monitor, openflow
from ovsnet.switch.messages import ECHO_REPLY, ECHO_REQUEST, HELLO, Framer, Message, NotOpenFlow, message
from ovsnet.switch.openflow import OpenFlow

SENT = [Message(HELLO, 1, b""), Message(ECHO_REQUEST, 77, b"ping"), Message(19, 0xFFFFFFFF, bytes(65527))]
STREAM = b"".join(message(*each) for each in SENT)
OPENING = len(message(HELLO, 1)) * 3 + len(monitor.forward_requests()) + len(monitor.request())


def header(version: int, kind: int, length: int) -> bytes:
    return struct.pack(">BBHI", version, kind, length, 9)


@given(st.lists(st.integers(0, len(STREAM))))
def test_however_a_stream_is_cut_its_messages_are_the_same(cuts: list[int]) -> None:
    framer = Framer()
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert [each for part in parts for each in framer.feed(part)] == SENT


@pytest.mark.parametrize(
    "garbage",
    [*(header(6, ECHO_REQUEST, length) for length in range(8)), header(6, HELLO, 7)]
    + [header(version, ECHO_REQUEST, 8) for version in (0, 1, 5, 7, 255)],
    ids=lambda data: data.hex(),
)
def test_a_header_that_makes_no_sense_is_told_after_what_came_before(garbage: bytes) -> None:
    came = Framer().feed(STREAM + garbage + bytes(100))
    assert list(itertools.islice(came, len(SENT))) == SENT
    with pytest.raises(NotOpenFlow, match=garbage.hex(" ")):
        next(came)


@pytest.mark.parametrize("version", [1, 5, 7])
def test_a_hello_is_of_any_version(version: int) -> None:
    assert list(Framer().feed(header(version, HELLO, 8) + message(ECHO_REPLY, 2))) == [
        Message(HELLO, 9, b""),
        Message(ECHO_REPLY, 2, b""),
    ]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_more_is_kept_than_less_than_a_message(parts: list[bytes]) -> None:
    framer = Framer()
    try:
        for part in parts:
            list(framer.feed(part))
            assert len(framer._buffer) < 1 << 16
    except NotOpenFlow:
        pass


async def test_garbage_ends_the_watch_of_vswitchd(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection too; it is told of once."""
    monkeypatch.setattr(openflow, "_AGAIN", 0.01)
    garbage = header(6, ECHO_REQUEST, 3)
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(OPENING)
        writer.write(message(HELLO, 1) + message(ECHO_REQUEST, 77, b"ping"))
        assert await reader.readexactly(12) == message(ECHO_REPLY, 77, b"ping")
        writer.write(garbage)
        ended.put_nowait(await reader.read())
        writer.close()

    path = tmp_path / "mgmt"
    switch = OpenFlow(str(path))
    async with await asyncio.start_unix_server(serve, path), asyncio.timeout(10):
        for _ in range(2):
            await switch.wait_down()
            assert await ended.get() == b""
    told = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert len(told) == 1
    assert f"{path} is no OpenFlow ({garbage.hex(' ')})" in told[0]


async def test_what_comes_as_the_patience_ends_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop was held up for longer than that: the end of the patience and the data are there at once."""
    monkeypatch.setattr(openflow, "_PROBE", 0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(OPENING)
        for number in range(3):
            writer.write(message(ECHO_REQUEST, number))
            time.sleep(0.1)  # noqa: ASYNC251
            while await reader.readexactly(8) != message(ECHO_REPLY, number):
                pass  # its own question, whether anybody is there
        writer.close()

    path = tmp_path / "mgmt"
    async with await asyncio.start_unix_server(serve, path), asyncio.timeout(10):
        await OpenFlow(str(path)).wait_down()
