"""The doctor's packets, and what it reads in answers to them."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from ovsnet.doctor.look import packets

MAC = bytes.fromhex("0a5800000001")
V4, V6 = ipaddress.ip_address("192.0.2.11"), ipaddress.ip_address("2001:db8::11")
IPV4_HEADER = b"\x45" + bytes(19)


def test_checksum_of_rfc_1071() -> None:
    assert packets.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


@given(st.binary(max_size=99).filter(lambda data: len(data) % 2 == 0))
def test_what_has_its_checksum_sums_up_to_nothing(data: bytes) -> None:
    assert packets.checksum(data + packets.checksum(data).to_bytes(2, "big")) == 0


def test_an_echo_request_has_the_size_that_is_asked_for() -> None:
    for version, header in ((4, 20), (6, 40)):
        assert len(packets.echo_request(version, 7, 1, 1500)) + header == 1500
    assert packets.checksum(packets.echo_request(4, 7, 1, 1501)) == 0


def test_an_echo_reply_is_known_by_its_identifier() -> None:
    four = packets.echo_request(4, 7, 3, 84)
    reply = IPV4_HEADER + b"\x00" + four[1:]
    assert packets.echo_reply(4, reply, 7) == (3, 84)
    assert packets.echo_reply(4, reply, 8) is None
    assert packets.echo_reply(4, IPV4_HEADER + four, 7) is None  # a request is no reply
    six = packets.echo_request(6, 7, 4, 104)
    assert packets.echo_reply(6, b"\x81" + six[1:], 7) == (4, 104)
    assert packets.echo_reply(6, b"", 7) is None


def test_a_syn_has_a_right_checksum() -> None:
    for source, target in (
        (V4, ipaddress.ip_address("192.0.2.12")),
        (V6, ipaddress.ip_address("2001:db8::12")),
    ):
        segment = packets.syn(source, target, 40000, 10250, 1)
        assert packets.checksum(packets.pseudo_header(source, target, 6, len(segment)) + segment) == 0


def test_answers_to_a_syn() -> None:
    def segment(flags: int, source: int = 10250) -> bytes:
        return struct.pack("!HHIIBBHHH", source, 40000, 0, 0, 5 << 4, flags, 0, 0, 0)

    for flags, answers in (
        (0x12, True),
        (0x14, True),
        (0x04, True),
        (0x02, False),
        (0x10, False),
        (0x18, False),
    ):
        assert (packets.answered_port(6, segment(flags), 10250) == 40000) is answers
        assert (packets.answered_port(4, IPV4_HEADER + segment(flags), 10250) == 40000) is answers
    assert packets.answered_port(6, segment(0x12, source=80), 10250) is None
    assert packets.answered_port(4, IPV4_HEADER, 10250) is None


def test_who_has_an_address_is_asked_from_nobodys() -> None:
    arp = packets.question(V4, MAC)
    assert arp[:6] == b"\xff" * 6
    assert arp[28:32] == bytes(4)
    assert arp[38:42] == V4.packed
    solicitation = packets.question(V6, MAC)
    assert solicitation[:6] == bytes.fromhex("3333ff000011")
    message = solicitation[54:]
    source, target = (ipaddress.ip_address(solicitation[at : at + 16]) for at in (22, 38))
    assert int(source) == 0
    assert packets.checksum(packets.pseudo_header(source, target, 58, len(message)) + message) == 0


def test_claims() -> None:
    other = bytes.fromhex("020000000002")
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + other + V4.packed + MAC + bytes(4)
    frame = MAC + other + b"\x08\x06" + body
    assert packets.claim(frame) == ("02:00:00:00:00:02", V4)
    header = struct.pack("!IHBB", 6 << 28, 24, 58, 255) + V6.packed + V6.packed
    advertisement = MAC + other + b"\x86\xdd" + header + b"\x88" + bytes(7) + V6.packed
    assert packets.claim(advertisement) == ("02:00:00:00:00:02", V6)
    assert packets.claim(packets.question(V6, MAC)) is None
    assert packets.claim(b"") is None
