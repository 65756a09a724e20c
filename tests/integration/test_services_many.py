"""Services of many endpoints, and many Services: that they install, how long that and a change take (`pytest -s`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from lab_world import agent_log, eventually
from services_world import FAMILIES, PORT, Cluster, assert_clean, cluster_of, service, vip

from ovsnet.frontends import BUCKETS

pytestmark = pytest.mark.slow
MANY, PART = 10_000, 2000
"""Services, and those of them in one file, which may have 4 MiB."""
PARTS = range(MANY // PART)
SLICE = 1000
"""Endpoints of an EndpointSlice: no more are allowed."""
ANYBODY = ("198.18.0.0/16", "2001:db8:e::/64")
"""Of these all addresses are the outside's."""


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[Cluster]:
    with cluster_of(pods=1) as cluster:
        cluster.lab.outside.ip([f"route add local {network} dev lo" for network in ANYBODY])
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """Without Services."""
    yield running_cluster
    for name in ("many", "one", *(f"part-{part}" for part in PARTS)):
        running_cluster.remove(name)
    eventually(lambda: not groups(running_cluster), 60)


def invented(number: int, version: int) -> str:
    """An address of node-b's that nobody has."""
    return f"10.244.2.{number}" if version == 4 else f"fd00:10:244:2::{number:x}"


def anybody(number: int, version: int) -> str:
    """One of the outside's addresses."""
    return f"198.18.{number >> 8}.{number & 255}" if version == 4 else f"2001:db8:e::{number:x}"


def endpoints_of(cluster: Cluster, count: int, version: int, made_up: int = 0) -> list[str]:
    """The two pods and others: so many of the range of node-b that nobody has, the rest outside."""
    rest = [invented(10 + number, version) for number in range(made_up)]
    rest += [anybody(number, version) for number in range(1, count - made_up - 1)]
    return [cluster.address("a1", version), cluster.address("b1", version), *rest]


def put(cluster: Cluster, addresses: dict[int, list[str]]) -> None:
    documents = [service("many", 1)]
    for version, found in addresses.items():
        for at in range(0, len(found), SLICE):
            entries = [{"place": "", "address": each} for each in found[at : at + SLICE]]
            slices = cluster.slice_of("many", entries, {"": PORT}, version)
            slices["metadata"]["name"] += f"-{at}"
            documents.append(slices)
    cluster.write("many", documents)


def timed(condition: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    begun = time.monotonic()
    eventually(condition, seconds)
    print(f"{what}: {time.monotonic() - begun:.2f} s")


def count(cluster: Cluster, words: str, dump: str = "dump-groups br-int") -> int:
    """How often it stands in the groups of node-a."""
    command = f"ovs-ofctl -O OpenFlow15 {dump} | grep -oF '{words}' | wc -l"
    return int(cluster.lab.node("node-a").run(["sh", "-c", command], check=True).stdout)


def backends(cluster: Cluster) -> int:
    return count(cluster, "nat(dst=")


def answers(cluster: Cluster) -> int:
    """Flows of endpoints' answers: those over UDP stay until conntrack has forgotten who asked."""
    return count(cluster, f"tp_src={PORT}", "dump-flows br-int table=34")


def groups(cluster: Cluster) -> int:
    return count(cluster, "group_id=")


def buckets(cluster: Cluster) -> list[int]:
    return [line.count("bucket=") for line in cluster.groups()]


@pytest.mark.parametrize("many", [300, 5000])
def test_many_endpoints(cluster: Cluster, many: int) -> None:
    """In groups of a group: no message of OpenFlow is too large, and an endpoint that goes changes one group."""
    made_up = 200 if many < 1000 else 0
    full = {version: endpoints_of(cluster, many, version, made_up) for version in FAMILIES}
    put(cluster, full)
    timed(lambda: backends(cluster) == 2 * 2 * many, f"{many} endpoints, both families and protocols")
    assert max(buckets(cluster)) <= BUCKETS
    if made_up:
        assert_clean(cluster.lab)
    else:
        for version, protocol in ((4, "tcp"), (4, "udp"), (6, "tcp")):
            names = cluster.names("a1", vip(1, version), count=60, protocol=protocol)
            assert "outside" in names <= {"a1", "b1", "outside"}
    before = set(cluster.groups())
    put(cluster, {version: found[:-1] for version, found in full.items()})
    timed(lambda: backends(cluster) == 2 * 2 * (many - 1), "one endpoint gone")
    # Of each family and protocol the group that had it, as it was and as it is; not the group of groups.
    assert len(before ^ set(cluster.groups())) == 2 * 2 * 2
    put(cluster, {version: found[:2] for version, found in full.items()})
    # One of the two has two buckets.
    timed(lambda: backends(cluster) == 2 * 2 * 3, "all but two gone, in one group")
    timed(lambda: answers(cluster) == 2 * 2 * 2, "and nobody waits for their answers any more")
    assert_clean(cluster.lab)
    assert cluster.names("a1", vip(1, 4)) == {"a1", "b1"}
    cluster.remove("many")
    timed(lambda: not groups(cluster), "gone")


def numbered(number: int, version: int) -> str:
    return f"10.97.{number // 250}.{number % 250 + 1}" if version == 4 else f"fd00:10:97::{number + 1:x}"


def put_part(cluster: Cluster, part: int, last: str) -> None:
    """A part of the Services, which have one endpoint each; the last of all has that."""
    documents: list[object] = []
    for number in range(part * PART, (part + 1) * PART):
        name = f"s{number}"
        document = service(name, 1)
        document["spec"] |= {
            "clusterIP": numbered(number, 4),
            "clusterIPs": [numbered(number, 4)],
            "ports": [{"name": "tcp", "port": 80, "protocol": "TCP"}],
        }
        place = last if number == MANY - 1 else ("a1", "b1")[number % 2]
        documents += [document, cluster.slice_of(name, [place], {"": PORT}, 4)]
    cluster.write(f"part-{part}", documents)


def test_ten_thousand_services(cluster: Cluster) -> None:
    for part in PARTS:
        put_part(cluster, part, "a1")
    timed(lambda: groups(cluster) == MANY, f"{MANY} Services")
    # The switch tells groups of a bundle before its flows are in force; an audit waits for the whole.
    node = cluster.lab.node("node-a")
    timed(lambda: node.run(["/run/ovsnet/bin/ovsnet", "audit"]).returncode == 0, "audited")
    assert cluster.names("b1", numbered(MANY - 1, 4), count=5) == {"a1"}
    for number in (7, 5007, 9997):
        assert cluster.names("b1", numbered(number, 4), count=5) == {"b1"}
    before = set(cluster.groups())
    put_part(cluster, PARTS[-1], "b1")
    timed(lambda: len(before ^ set(cluster.groups())) == 2, f"one endpoint changed, in a file of {PART}")
    eventually(lambda: cluster.names("a1", numbered(MANY - 1, 4), count=5) == {"b1"})
    cluster.put("one", ["a1"], 9)
    timed(lambda: groups(cluster) == MANY + 4, "one more Service, in a file of its own")
    cluster.put("one", ["b1"], 9)
    timed(lambda: cluster.chosen("one") == {"b1"}, "its endpoint changed")
    for name in ("one", *(f"part-{part}" for part in PARTS)):
        cluster.remove(name)
    timed(lambda: not groups(cluster), "all gone")
    assert_clean(cluster.lab)
    assert "Traceback" not in agent_log(node)
