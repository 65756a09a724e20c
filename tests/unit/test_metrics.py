"""What the agent tells Prometheus, as a scrape sees it."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ovsnet.agent.metrics import COUNTERS, GAUGES, Figures, Metrics

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def scrape(port: int, path: str = "/metrics") -> tuple[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return head.partition("\r\n")[0], body


async def test_a_scrape_has_every_figure_that_there_is() -> None:
    figures: Figures = {
        "pods": 3,
        "ready": 1.0,
        "addresses_free": {"10.244.1.0/24": 7, "fd00::/64": 2.0**64},
        "drift": {"flow": 2},
        "flow_modifications": 40,
    }
    metrics, port = Metrics(lambda: figures), free_port()
    metrics.programmed("Service", 0.03)
    metrics.programmed("EndpointSlice", 0.3)
    await metrics.serve("127.0.0.1", port)
    try:
        status, body = await scrape(port)
        assert (await scrape(port, "/"))[0] == "HTTP/1.1 404 Not Found"
    finally:
        metrics.close()
    assert status == "HTTP/1.1 200 OK"
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert samples["ovsnet_pods",] == 3
    assert samples["ovsnet_drift_total", "flow"] == 2
    assert samples["ovsnet_addresses_free", "10.244.1.0/24"] == 7
    assert samples["ovsnet_addresses_free", "fd00::/64"] == 2.0**64
    assert samples["ovsnet_flow_modifications_total",] == 40
    assert samples["ovsnet_program_seconds_bucket", "Service", "0.02"] == 0
    assert samples["ovsnet_program_seconds_bucket", "Service", "0.05"] == 1
    assert samples["ovsnet_program_seconds_count", "EndpointSlice"] == 1
    assert not any(name.startswith("ovsnet_api") for name, *_ in samples), "there is no API server"


async def test_a_port_that_is_taken_is_told_and_nothing_else_happens(caplog: object) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        metrics = Metrics(dict)
        await metrics.serve("127.0.0.1", taken.getsockname()[1])
        metrics.close()
    assert "choose another with metrics.port" in getattr(caplog, "text", "")


def test_names_are_told_once() -> None:
    assert not GAUGES.keys() & COUNTERS.keys()


def test_the_document_has_every_metric_and_no_other() -> None:
    written = {*re.findall(r"`ovsnet_(\w+)`", DOCUMENT.read_text())}
    others = {"denied_packets_total", "program_seconds"}
    assert written == {*GAUGES} | {f"{name}_total" for name in COUNTERS} | others
