"""Rendering: the right macros, the object's cookie in front, and no work for what did not change."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import jinja2
import msgspec
import pytest

from ovsnet import names, pipeline, resources
from ovsnet.errors import OvsnetError
from ovsnet.model import Encap, LocalNode, Peer, Pod
from ovsnet.render import Lines, Renderer, cookie_of, kind_of

NODE = LocalNode(
    name="node-a",
    addresses=(ipaddress.ip_address("192.0.2.11"),),
    cidrs=(ipaddress.ip_network("10.244.1.0/24"),),
    gateways=(ipaddress.ip_address("10.244.1.1"),),
    mac="0a:58:0a:f4:01:01",
    ofport=1,
)


def pod(number: int, ofport: int = 16, name: str = "") -> Pod:
    ip = ipaddress.ip_address(f"10.244.1.{number}")
    name = name or f"p{number}"
    return Pod(
        namespace="default",
        name=name,
        container=name,
        ifname="eth0",
        netns="",
        network="ovsnet",
        port=f"pod-{ofport:08x}",
        ofport=ofport,
        mac=names.mac_of(ip),
        ips=(ip,),
    )


PEER = Peer(
    name="node-b",
    remote=ipaddress.ip_address("192.0.2.12"),
    encap=Encap.VXLAN,
    cidrs=(ipaddress.ip_network("10.244.2.0/24"),),
    addresses=(ipaddress.ip_address("192.0.2.12"),),
    port="vxl-b",
    ofport=20000,
    by_flow=False,
)


def folder(path: Path, **tables: str) -> Path:
    (path / pipeline.GROUPS).write_text("")
    for name, text in tables.items():
        (path / f"{name.removeprefix('t').replace('_', '-', 1)}.flows.j2").write_text(text)
    (path / pipeline.GROUPS).write_text("")
    return path


def test_each_line_has_cookie_and_table(tmp_path: Path) -> None:
    path = folder(
        tmp_path,
        t10_first="{% macro pod(pod) %}\npriority=1,in_port={{ pod.ofport }} actions=goto_table:{{ table.last }}\n\n"
        "{% endmacro %}",
        t90_last="{% macro pod(pod) %}\n  actions=drop\n{% endmacro %}"
        "{% macro node(node) %}\nactions=1\n{% endmacro %}",
    )
    renderer = Renderer(path)
    mine = f"cookie=0x{cookie_of(pod(5)):x}"
    assert renderer.object(pod(5)) == (
        f"{mine},table=10,priority=1,in_port=16 actions=goto_table:90",
        f"{mine},table=90,actions=drop",
    )
    assert renderer.object(NODE) == (f"cookie=0x{cookie_of(NODE):x},table=90,actions=1",)
    assert renderer.object(PEER) == ()


def test_lines_are_equal_to_others_that_say_the_same(tmp_path: Path) -> None:
    """Whoever has read them back from the switch has them as a tuple."""
    renderer = Renderer(
        folder(tmp_path, t10_first="{% macro pod(pod) %}a\nin_port={{ pod.ofport }}{% endmacro %}")
    )
    lines = renderer.object(pod(5))
    read: Lines = tuple(lines)
    nothing: Lines = ()
    assert len(lines) == len(read) == 2
    assert lines == read == lines == renderer.lines(pod(5))
    for other in (nothing, tuple(lines)[:1], renderer.lines(pod(5, ofport=7)), renderer.lines(pod(6))):
        assert lines != other
        assert other != lines
    assert renderer.object(NODE) == nothing == renderer.object(NODE)
    assert not renderer.object(NODE)


def test_filters_know_both_families(tmp_path: Path) -> None:
    path = folder(
        tmp_path,
        t10_first="{% macro peer(peer) %}{% for n in peer.cidrs %}{{ n | src }} {{ n | dst }}\n{% endfor %}"
        "{{ peer.remote | tun_src }} {{ peer.remote | set_tun_dst }}{% endmacro %}",
    )
    six = Peer(
        name="node-c",
        remote=ipaddress.ip_address("2001:db8::13"),
        encap=Encap.GENEVE,
        cidrs=(ipaddress.ip_network("10.244.3.0/24"), ipaddress.ip_network("fd00:3::/64")),
        addresses=(),
        port="geneve-flow",
        ofport=2,
        by_flow=True,
    )
    lines = [line.split("table=10,")[1] for line in Renderer(path).object(six)]
    assert lines == [
        "ip,nw_src=10.244.3.0/24 ip,nw_dst=10.244.3.0/24",
        "ipv6,ipv6_src=fd00:3::/64 ipv6,ipv6_dst=fd00:3::/64",
        "tun_ipv6_src=2001:db8::13 set_field:2001:db8::13->tun_ipv6_dst",
    ]


def test_only_what_changed_is_rendered_again() -> None:
    renderer = Renderer(resources.flows_dir())
    first = renderer.state([NODE, pod(5), pod(6)])
    second = renderer.state([NODE, pod(5), pod(6, ofport=99)])
    assert second[cookie_of(NODE)] is first[cookie_of(NODE)]
    assert second[cookie_of(pod(5))] is first[cookie_of(pod(5))]
    assert second[cookie_of(pod(6))] != first[cookie_of(pod(6))]


def test_what_is_gone_is_forgotten() -> None:
    renderer = Renderer(resources.flows_dir())
    first = renderer.state([NODE, pod(5)])
    assert renderer.state([NODE]).keys() == {cookie_of(NODE)}
    again = renderer.state([NODE, pod(5)])
    assert again == first
    assert again[cookie_of(pod(5))] is not first[cookie_of(pod(5))]


def test_a_pods_flows_don_t_depend_on_the_others() -> None:
    """What makes adding the 200th pod cost what the first did."""
    alone = Renderer(resources.flows_dir()).state([pod(5)])
    crowd = Renderer(resources.flows_dir()).state([NODE, PEER, *(pod(n, n) for n in range(6, 200)), pod(5)])
    assert crowd[cookie_of(pod(5))] == alone[cookie_of(pod(5))]


def test_the_kernels_datapath_is_not_asked_to_rewrite_discovery() -> None:
    """ovs-vswitchd would refuse every flow of the bundle."""
    renderer = Renderer(resources.flows_dir())
    six = msgspec.structs.replace(pod(5), ips=(ipaddress.ip_address("fd00::5"),))
    rewritten = [line for lines in renderer.state([NODE, PEER, six]).values() for line in lines]
    renderer.use("system")
    delivered = [line for lines in renderer.state([NODE, PEER, six]).values() for line in lines]
    for field in ("nd_reserved", "nd_options_type", "icmpv6_type"):
        assert [line for line in rewritten if f"->{field}" in line]
        assert [line for line in delivered if f"->{field}" in line] == []
    asked = [line for line in delivered if "nd_target=fd00::5" in line]
    assert any(line.endswith("actions=output:16") for line in asked)
    for owner in (NODE, six):
        assert any(
            f"dl_dst={owner.mac}" in line and line.endswith(f"actions=output:{owner.ofport}")
            for line in delivered
        )


def test_a_pod_that_moved_container_is_another_object() -> None:
    assert cookie_of(pod(5)) != cookie_of(pod(5, name="heir"))
    assert [kind_of(obj) for obj in (NODE, PEER, pod(5))] == ["node", "peer", "pod"]


def test_a_slip_in_a_template_is_no_empty_text(tmp_path: Path) -> None:
    renderer = Renderer(
        folder(tmp_path, t10_first="{% macro pod(pod) %}in_port={{ pod.ofprot }}{% endmacro %}")
    )
    with pytest.raises(jinja2.UndefinedError):
        renderer.object(pod(5))


def test_tables_are_numbered_by_their_files(tmp_path: Path) -> None:
    found = pipeline.tables(folder(tmp_path, t90_last="", t00_first=""))
    assert [(table.number, table.name) for table in found] == [(0, "first"), (90, "last")]


@pytest.mark.parametrize(
    ("names_", "words"),
    [
        (("10-a.flows.j2", "10-b.flows.j2"), "one number"),
        (("10-a.flows.j2", "20-a.flows.j2"), "one number or name"),
        (("1-a.flows.j2",), "not a table"),
        (("README.md",), "no table template"),
    ],
)
def test_a_folder_that_is_no_pipeline(tmp_path: Path, names_: tuple[str, ...], words: str) -> None:
    for name in names_:
        (tmp_path / name).write_text("")
    with pytest.raises(OvsnetError, match=words):
        pipeline.tables(tmp_path)
