"""Services of many endpoints, and many Services: that they install, how long that and a change take (`pytest -s`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from lab_world import agent_log, eventually
from services_world import PORT, Cluster, assert_clean, cluster_of, service, vip

from ovsnet.frontends import BUCKETS

pytestmark = pytest.mark.slow
MANY = 2000


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[Cluster]:
    with cluster_of(pods=1) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """Without Services."""
    yield running_cluster
    for name in ("many", "all", "one"):
        running_cluster.remove(name)
    eventually(lambda: not running_cluster.groups(), 60)


def invented(number: int, version: int) -> str:
    """An address of node-b's that nobody has."""
    return f"10.244.2.{number}" if version == 4 else f"fd00:10:244:2::{number:x}"


def endpoints_of(cluster: Cluster, count: int, version: int) -> list[str]:
    """The two pods and so many others, at first of the range of node-b, then of one that no node has."""
    others = [invented(10 + number, version) for number in range(min(count, 200))]
    rest = [
        f"198.18.0.{n}" if version == 4 else f"2001:db8:e::{n:x}" for n in range(1, count - len(others) + 1)
    ]
    return [cluster.address("a1", version), cluster.address("b1", version), *others, *rest]


def put(cluster: Cluster, addresses: dict[int, list[str]]) -> None:
    documents = [service("many", 1)]
    for version, found in addresses.items():
        slices = cluster.slice_of(
            "many", [{"place": "", "address": each} for each in found], {"": PORT}, version
        )
        documents.append(slices)
    cluster.write("many", documents)


def timed(condition: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    begun = time.monotonic()
    eventually(condition, seconds)
    print(f"{what}: {time.monotonic() - begun:.2f} s")


def backends(cluster: Cluster) -> int:
    return sum(line.count("nat(dst=") for line in cluster.groups())


def buckets(cluster: Cluster) -> list[int]:
    return [line.count("bucket=") for line in cluster.groups()]


def test_three_hundred_endpoints(cluster: Cluster) -> None:
    """In groups of a group: no message of OpenFlow is too large, and an endpoint that goes changes one group."""
    full = {version: endpoints_of(cluster, 298, version) for version in (4, 6)}
    put(cluster, full)
    timed(lambda: backends(cluster) == 2 * 2 * 300, "300 endpoints, both families and protocols")
    assert max(buckets(cluster)) <= BUCKETS
    assert_clean(cluster.lab)
    before = set(cluster.groups())
    put(cluster, {version: found[:-1] for version, found in full.items()})
    timed(lambda: backends(cluster) == 2 * 2 * 299, "one endpoint gone")
    # Of each family and protocol the group that had it, as it was and as it is; not the group of groups.
    assert len(before ^ set(cluster.groups())) == 2 * 2 * 2
    put(cluster, {version: found[:2] for version, found in full.items()})
    # One of the two has two buckets.
    timed(lambda: backends(cluster) == 2 * 2 * 3, "all but two gone, in one group")
    assert_clean(cluster.lab)
    assert cluster.names("a1", vip(1, 4)) == {"a1", "b1"}
    cluster.remove("many")
    timed(lambda: not cluster.groups(), "gone")


def numbered(number: int, version: int) -> str:
    return f"10.97.{number // 250}.{number % 250 + 1}" if version == 4 else f"fd00:10:97::{number + 1:x}"


def many(cluster: Cluster, last: str) -> list[object]:
    """Documents of so many Services of one endpoint; the last one has that."""
    documents: list[object] = []
    for number in range(MANY):
        name = f"s{number}"
        document = service(name, 1)
        document["spec"] |= {
            "clusterIP": numbered(number, 4),
            "clusterIPs": [numbered(number, 4)],
            "ports": [{"name": "tcp", "port": 80, "protocol": "TCP"}],
        }
        place = last if number == MANY - 1 else ("a1", "b1")[number % 2]
        documents += [document, cluster.slice_of(name, [place], {"": PORT}, 4)]
    return documents


def test_two_thousand_services(cluster: Cluster) -> None:
    cluster.write("all", many(cluster, "a1"))
    timed(lambda: len(cluster.groups()) == MANY, f"{MANY} Services")
    # The switch tells groups of a bundle before its flows are in force; an audit waits for the whole.
    begun = time.monotonic()
    assert_clean(cluster.lab)
    print(f"audits: {time.monotonic() - begun:.2f} s")
    assert cluster.names("b1", numbered(MANY - 1, 4), count=5) == {"a1"}
    assert cluster.names("b1", numbered(7, 4), count=5) == {"b1"}
    groups = set(cluster.groups())
    cluster.write("all", many(cluster, "b1"))
    timed(
        lambda: len(groups ^ set(cluster.groups())) == 2,
        "one endpoint of one Service changed, all in one file",
    )
    assert_clean(cluster.lab)
    assert cluster.names("a1", numbered(MANY - 1, 4), count=5) == {"b1"}
    cluster.put("one", ["a1"], 9)
    timed(lambda: len(cluster.groups()) == MANY + 4, "one more Service, in a file of its own")
    cluster.put("one", ["b1"], 9)
    timed(lambda: cluster.chosen("one") == {"b1"}, "its endpoint changed")
    cluster.remove("all")
    cluster.remove("one")
    timed(lambda: not cluster.groups(), "all gone")
    assert_clean(cluster.lab)
    assert "Traceback" not in agent_log(cluster.lab.node("node-a"))
