"""The file store with Services and EndpointSlices: what it hands out, keeps, and tells of."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from store_world import folder as folder  # fixtures
from store_world import running, text

from ovsnet import config
from ovsnet.model import Node
from ovsnet.store import choice
from ovsnet.store.file import read_folder


def service(name: str, number: int, extra: str = "") -> str:
    return (
        f"kind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]{extra}}}\n"
    )


def slice_(name: str, address: str) -> str:
    return (
        f"kind: EndpointSlice\nmetadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n"
        f"addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [{address}]}}]\n"
    )


async def test_services_come_and_go_and_others_are_the_same(folder: Path) -> None:
    (folder / "node.yaml").write_text(text("a", 1))
    (folder / "web.yaml").write_text(f"{service('web', 1)}---\n{slice_('web', '10.0.0.1')}")
    async with running(folder) as cluster:
        before = await cluster.until(lambda now: set(now.services) == {"default/web"})
        assert set(before.slices) == {"default/web-1"}
        cluster.write("dns.yaml", service("dns", 2))
        after = await cluster.until(lambda now: len(now.services) == 2)
        assert after.services["default/web"] is before.services["default/web"]
        assert after.slices is before.slices
        assert after.nodes is before.nodes
        cluster.write("web.yaml", f"{service('web', 1)}---\n{slice_('web', '10.0.0.2')}")
        moved = await cluster.until(lambda now: now.slices is not after.slices)
        assert moved.services is after.services
        (folder / "web.yaml").unlink()
        gone = await cluster.until(lambda now: set(now.services) == {"default/dns"})
        assert gone.slices == {}


async def test_a_snapshot_says_when_the_first_event_came_of_what_is_different(folder: Path) -> None:
    (folder / "web.yaml").write_text(f"{service('web', 1)}---\n{slice_('web', '10.0.0.1')}")
    async with running(folder) as cluster:
        first = await cluster.until(lambda now: len(now.services) == 1)
        assert set(first.heard) == {"Service", "EndpointSlice"}
        published: list[float] = []
        cluster.store.subscribe(lambda: published.append(time.monotonic()))
        written = time.monotonic()
        cluster.write("web.yaml", f"{service('web', 1)}---\n{slice_('web', '10.0.0.2')}")
        now = await cluster.until(lambda now: now.slices is not first.slices)
        assert set(now.heard) == {"EndpointSlice"}
        # From the event on it has waited whether more come.
        assert written <= now.heard["EndpointSlice"] <= published[0] - 0.01
        (folder / "other.yaml").write_text("kind: [")
        assert (await cluster.until(lambda now: bool(now.problems))).heard == {}


async def test_a_broken_file_withdraws_no_service(folder: Path) -> None:
    (folder / "web.yaml").write_text(f"{service('web', 1)}---\n{slice_('web', '10.0.0.1')}")
    async with running(folder) as cluster:
        before = await cluster.until(lambda now: len(now.services) == 1)
        half = f"{service('web', 1).replace('80', 'x')}---\n{slice_('web', '10.0.0.1')}"
        for broken in ("kind: [", half, "# nothing\n"):
            cluster.write("web.yaml", broken)
            now = await cluster.until(lambda now, was=cluster.now: now is not was and bool(now.problems))  # type: ignore[misc]
            assert now.services is before.services
            assert now.slices is before.slices
        cluster.write("web.yaml", f"{service('web', 1)}---\n{slice_('web', '10.0.0.1')}")
        back = await cluster.until(lambda now: not now.problems)
        assert back.services["default/web"] is before.services["default/web"]


async def test_a_broken_service_keeps_no_node_that_is_gone(folder: Path) -> None:
    (folder / "all.yaml").write_text(f"{text('a', 1)}---\n{text('b', 2)}---\n{service('web', 1)}")
    async with running(folder) as cluster:
        before = await cluster.until(lambda now: len(now.nodes) == 2 and len(now.services) == 1)
        cluster.write("all.yaml", f"{text('a', 1)}---\n{service('web', 1).replace('80', 'x')}")
        now = await cluster.until(lambda now: bool(now.problems))
        assert set(now.nodes) == {"a"}
        assert now.services is before.services
    (folder / "fresh.yaml").write_text(f"{text('c', 3)}---\n{service('dns', 2).replace('80', 'x')}")
    found = await read_folder(folder)
    assert (found.unread_nodes, found.unread_policies) == (frozenset(), frozenset())


async def test_what_is_merely_remarked_upon_is_no_reason_to_keep_what_is_gone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = service("web", 1, ", externalTrafficPolicy: Near")
    (folder / "web.yaml").write_text(f"{odd}---\n{service('dns', 2)}")
    async with running(folder) as cluster:
        await cluster.until(lambda now: len(now.services) == 2)
        cluster.write("web.yaml", odd)
        now = await cluster.until(lambda now: set(now.services) == {"default/web"})
        assert "'Near' is unknown here" in now.problems[str(folder / "web.yaml")]
        assert now.unread_policies == frozenset()
        await asyncio.sleep(0.1)
    assert sum("Near" in record.message for record in caplog.records) == 2  # the second one has another place


async def test_services_that_collide_are_told_by_file(folder: Path) -> None:
    (folder / "a.yaml").write_text(service("web", 1))
    (folder / "b.yaml").write_text(service("dns", 1))
    (folder / "c.yaml").write_text(service("web", 3))
    found = await read_folder(folder)
    assert set(found.services) == {"default/dns"}
    words = {Path(path).name: text for path, text in found.problems.items()}
    assert "Service default/web: 10.96.0.1 port 80/TCP is Service default/dns's" in words["a.yaml"]
    assert f"Service default/web stands in {folder / 'a.yaml'} too" in words["c.yaml"]


async def test_the_configuration_limits_what_a_folders_services_have(folder: Path) -> None:
    async def nobody() -> dict[str, Node]:
        return {}

    (folder / "web.yaml").write_text(service("web", 1).replace("port: 80", "port: 80, nodePort: 22"))
    (folder / "pod.yaml").write_text(service("pod", 1).replace("10.96.0.1", "10.9.0.7"))
    (folder / "node.yaml").write_text(service("node", 1).replace("10.96.0.1", "198.51.100.7"))
    text = f"podCIDRs: [10.9.0.0/24]\nnodeAddress: {{address: 198.51.100.7}}\nstore: {{file: {folder}}}\n"
    found = await choice.look(config.parse(text), 1, nobody)
    words = {Path(path).name: text for path, text in found.problems.items()}
    assert words.keys() == {"web.yaml", "pod.yaml", "node.yaml"}
    assert words["web.yaml"].startswith(
        "Service default/web: node port 22/TCP of port 80 is outside of 30000-32767, nodePortRange"
    )
    assert "Service default/pod: 10.9.0.7 lies in podCIDRs 10.9.0.0/24" in words["pod.yaml"]
    assert "Service default/node: 198.51.100.7 is nodeAddress" in words["node.yaml"]
    assert [port.node_port for port in found.services["default/web"].ports] == [0]
    wider = await choice.look(config.parse(f"{text}nodePortRange: 1-65535\n"), 1, nobody)
    assert [port.node_port for port in wider.services["default/web"].ports] == [22]


async def test_a_node_that_comes_over_a_cluster_ip_has_it_while_it_is_there(folder: Path) -> None:
    (folder / "web.yaml").write_text(service("web", 1))
    (folder / "dns.yaml").write_text(service("dns", 2).replace("10.96.0.2", "10.0.2.53"))
    async with running(folder) as cluster:
        before = await cluster.until(lambda now: len(now.services) == 2)
        cluster.write("node.yaml", text("b", 2))
        now = await cluster.until(lambda now: bool(now.nodes))
        assert now.services == {"default/web": before.services["default/web"]}
        assert now.services["default/web"] is before.services["default/web"]
        assert set(now.heard) == {"Node", "Service"}
        (problem,) = now.problems.values()
        assert problem.startswith(
            "Service default/dns: 10.0.2.53 lies in 10.0.2.0/24, a range of pods of node b ("
        )
        (folder / "node.yaml").unlink()
        after = await cluster.until(lambda now: not now.nodes)
        assert (after.services, after.problems) == (before.services, {})
