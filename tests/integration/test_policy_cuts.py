"""`policy.cutDenied`: when policies change, connections that they deny by now end, and no others; and how many packets
policies denied."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from lab_world import SLOWER, eventually, reconfigure
from policies_world import API, DB, WEB, ZONE, Pair, Policed, app, policed_cluster, port
from prometheus_client.parser import text_string_to_metric_families
from services_world import FAMILIES, PORT, Load, vip

from ovsnet.lab.lab import kernel_or_userspace

pytestmark = pytest.mark.slow
METRICS = 9477

EVERYBODY = [{"ipBlock": {"cidr": each}} for each in ("0.0.0.0/0", "::/0")]
OPEN: dict[str, Any] = {"podSelector": app("web"), "ingress": [{"from": EVERYBODY}]}
"""Isolated, and everybody is allowed: the connections are known."""
ONLY_API: dict[str, Any] = {"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("api")}]}]}
DENIED: tuple[Pair, ...] = (("a-db", "a-web"), ("b-db", "a-web"), ("a-db", "b-web"))
ALLOWED: tuple[Pair, ...] = (("a-api", "a-web"), ("b-api", "a-web"), ("a-api", "b-web"), ("node-a", "a-web"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Policed]:
    with policed_cluster() as cluster:
        for node in cluster.lab.nodes:
            reconfigure(node, policy={"cutDenied": True}, metrics={"port": METRICS})
        for node in cluster.lab.nodes:
            node.await_agent(30 * SLOWER)
        cluster.put("web", ["a-web"], 1)
        cluster.choose("web", "a-web")
        yield cluster


def service(version: int) -> str:
    return vip(1, version)


@contextlib.contextmanager
def under_way(
    cluster: Policed, pairs: Sequence[Pair], families: Sequence[int] = FAMILIES, patience: float = 1.0
) -> Iterator[dict[str, list[Load]]]:
    """Connections of each pair in each family, over TCP and UDP, and one of each client through the Service. patience:
    seconds that those over TCP wait for an answer."""
    with contextlib.ExitStack() as stack:
        targets = [
            (source, cluster.address(target, version)) for source, target in pairs for version in families
        ]
        clients = dict.fromkeys(source for source, target in pairs if target == "a-web")
        services = [(source, service(version)) for source in clients for version in families]
        tcp = [
            stack.enter_context(
                cluster.going("hold", source, host, number, up=3000, down=3000, seconds=patience)
            )
            for some, number in ((targets, PORT), (services, 80))
            for source, host in some
        ]
        udp = [
            stack.enter_context(
                cluster.going("stream", source, host, number, hosts=[host], protocol="udp", seconds=1.0)
            )
            for some, number in ((targets, PORT), (services, 80))
            for source, host in some
        ]
        yield {"tcp": tcp, "udp": udp}


def went_on(loads: dict[str, list[Load]]) -> None:
    """In user space one thread forwards all: held up by a busy machine it loses what sockets do not hold."""
    most = 0 if kernel_or_userspace() == "system" else 25
    for each in loads["tcp"]:
        done = each.stop()
        assert done.get("error") is None, done
        assert done["count"] > 20, done
    for each in loads["udp"]:
        (lost,) = each.stop()["lost"].values()
        assert lost <= most


def ended(loads: dict[str, list[Load]], datagrams: int) -> None:
    """So many datagrams at least had no answer."""
    for each in loads["tcp"]:
        assert each.stop().get("error") == "timed out"
    for each in loads["udp"]:
        (lost,) = each.stop()["lost"].values()
        assert lost > datagrams


def known(cluster: Policed, *words: str) -> list[str]:
    return cluster.connections("node-a", f"zone={ZONE}", *words)


def test_what_is_denied_by_now_ends_and_the_rest_goes_on(cluster: Policed) -> None:
    with cluster.policies(OPEN):
        for web in WEB:
            cluster.expect(web, (*API, *DB), (*API, *DB))
        with under_way(cluster, DENIED) as bad, under_way(cluster, ALLOWED, patience=10.0) as good:
            time.sleep(1.0)
            cluster.allow("p0", **ONLY_API)
            for web in WEB:
                cluster.expect(web, (*API, *DB), API)
            time.sleep(6.0 * SLOWER)
            assert not known(cluster, cluster.address("a-db", 4), "tcp"), "conntrack has forgotten it"
            ended(bad, 100)
            went_on(good)


@pytest.mark.parametrize("version", [pytest.param(4, marks=pytest.mark.kernel), 6])
def test_one_ends_and_the_one_beside_it_goes_on(cluster: Policed, version: int) -> None:
    with cluster.policies(OPEN):
        cluster.expect("a-web", ["b-api", "b-db"], ["b-api", "b-db"])
        with (
            under_way(cluster, [("b-db", "a-web")], [version]) as bad,
            under_way(cluster, [("b-api", "a-web")], [version], 10.0) as good,
        ):
            time.sleep(1.0)
            cluster.allow("p0", **ONLY_API)
            cluster.expect("a-web", ["b-api", "b-db"], ["b-api"])
            time.sleep(5.0 * SLOWER)
            # Who asked while a-web came to be isolated may have ended as a connection that a-web began.
            began = "orig=(src={},dst={},".format(
                *(cluster.address(name, version) for name in ("b-db", "a-web"))
            )
            assert not known(cluster, began), "conntrack has forgotten them"
            ended(bad, 80)
            went_on(good)


def test_pings_end(cluster: Policed) -> None:
    with cluster.policies(OPEN):
        cluster.expect("a-web", API, API)
        hosts = [
            (source, cluster.address("a-web", version))
            for source in ("b-db", "b-api")
            for version in FAMILIES
        ]
        pings = [
            subprocess.Popen(
                cluster.lab.command(source, ["ping", "-q", "-i", "0.1", "-c", "100", "-W", "1", host]),
                stdout=subprocess.PIPE,
                text=True,
            )
            for source, host in hosts
        ]
        time.sleep(4.0)
        cluster.allow("p0", **ONLY_API)
        received = [re.search(r"(\d+) received", each.communicate(timeout=60)[0]) for each in pings]
        counts = [int(each[1]) if each else -1 for each in received]
        assert all(10 < count < 80 for count in counts[:2]), counts
        assert min(counts[2:]) >= 98, counts


def test_who_is_allowed_again_goes_on_at_once(cluster: Policed) -> None:
    """Over UDP, from the same port."""
    host = cluster.address("a-web", 4)
    with (
        cluster.policies(OPEN),
        cluster.going("stream", "b-db", host, PORT, hosts=[host], protocol="udp", seconds=1.0) as load,
    ):
        source = cluster.address("b-db", 4)
        eventually(lambda: known(cluster, source, "udp"))
        cluster.allow("p0", **ONLY_API)
        eventually(lambda: not known(cluster, source, "udp"))
        time.sleep(1.0)
        cluster.allow("p0", **OPEN)
        eventually(lambda: known(cluster, source, "udp"))
        begun = time.monotonic()
        time.sleep(3.0)
        (lost,) = load.stop()["lost"].values()
        assert 0 < lost < 50 * (time.monotonic() - begun + 20 * SLOWER)


def test_the_direction_of_a_connection_counts(cluster: Policed) -> None:
    """What a pod began ends when its egress is denied; what others began at it does not, and the other way round."""
    both: dict[str, Any] = {
        "podSelector": app("db"),
        "ingress": [{"from": EVERYBODY}],
        "egress": [{"to": EVERYBODY}],
    }
    begun, met = (("a-db", "b-guest"),), (("b-guest", "a-db"), ("b-free", "a-db"))
    with cluster.policies(both):
        cluster.expect("a-db", ["b-guest", "b-free"], ["b-guest", "b-free"])
        with under_way(cluster, begun) as bad, under_way(cluster, met, patience=10.0) as good:
            time.sleep(1.0)
            cluster.allow("p0", **{**both, "egress": [{"to": [{"podSelector": app("web")}]}]})
            cluster.expect("b-guest", ["a-db", "b-db"], [])
            time.sleep(5.0 * SLOWER)
            ended(bad, 80)
            went_on(good)


def test_ports_count(cluster: Policed) -> None:
    with cluster.policies(OPEN):
        cluster.expect("a-web", DB, DB)
        with contextlib.ExitStack() as stack:
            loads = {
                protocol: [
                    stack.enter_context(
                        cluster.going(
                            do,
                            "b-db",
                            host,
                            PORT,
                            hosts=[host],
                            protocol=protocol,
                            up=100,
                            down=100,
                            seconds=10.0 if do == "hold" else 1.0,
                        )
                    )
                    for host in (cluster.address("a-web", version) for version in FAMILIES)
                ]
                for protocol, do in (("tcp", "hold"), ("udp", "stream"))
            }
            time.sleep(1.0)
            cluster.allow("p0", podSelector=app("web"), ingress=[{"from": EVERYBODY, "ports": [port(PORT)]}])
            cluster.expect("a-web", DB, DB, protocols=["tcp"])
            cluster.expect("a-web", DB, (), protocols=["udp"])
            time.sleep(5.0 * SLOWER)
            ended({"tcp": [], "udp": loads["udp"]}, 80)
            went_on({"tcp": loads["tcp"], "udp": []})


def denied(cluster: Policed, **labels: str) -> float:
    """Packets that the node's metrics tell of."""
    command = [sys.executable, "-I", "-S", "-c", SCRAPE, str(METRICS)]
    text = cluster.lab.node("node-a").run(command, check=True).stdout
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "ovsnet_denied_packets_total" and labels.items() <= sample.labels.items()
    )


SCRAPE = """
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode())
"""


def test_denied_packets_are_counted(cluster: Policed) -> None:
    # Not from a pod whose pings have been cut: for a minute such are dropped before they are judged.
    node = cluster.lab.node("node-a")
    who = {"namespace": "shop", "pod": "a-web", "direction": "ingress", "policies": "shop/p0"}
    with cluster.policies(ONLY_API):
        cluster.expect("a-web", (*API, *DB), API)
        before = denied(cluster, **who)
        cluster.lab.exec("a-db", ["ping", "-c", "20", "-i", "0.05", "-W", "1", cluster.address("a-web", 4)])
        eventually(lambda: before + 20 <= denied(cluster, **who) <= before + 40)
        before = denied(cluster, **who)
        # The flow is another one from then on, and its counter began anew.
        match = f"table=48,ip,nw_dst={cluster.address('a-web', 4)}"
        node.run(["ovs-ofctl", "-O", "OpenFlow15", "del-flows", "br-int", match], check=True)
        eventually(
            lambda: (
                match.partition(",")[2].partition(",")[2]
                in node.run(
                    ["ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br-int", "table=48"], check=True
                ).stdout
            )
        )
        assert denied(cluster, **who) >= before
        cluster.lab.exec("a-db", ["ping", "-c", "20", "-i", "0.05", "-W", "1", cluster.address("a-web", 4)])
        eventually(lambda: before + 20 <= denied(cluster, **who) <= before + 40)
        assert denied(cluster, **{**who, "direction": "egress"}) == 0
        drops = node.run(["/run/ovsnet/bin/ovsnet", "flows", "--drops"], check=True).stdout
        assert re.search(r"pod shop/a-web +ingress +\d+ packets  by shop/p0\n", drops), drops
