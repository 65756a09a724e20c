"""The file store with NetworkPolicies, Namespaces and Pods: what it hands out, keeps, and tells of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from store_world import folder as folder  # fixtures
from store_world import running, text

from ovsnet.store.file import read_folder


def policy(name: str, spec: str = "{podSelector: {}}") -> str:
    return f"kind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def namespace(name: str, labels: str = "{}") -> str:
    return f"kind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"


def pod(name: str, address: str) -> str:
    return (
        f"kind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n"
        f"status: {{podIPs: [{{ip: {address}}}]}}\n"
    )


def together(*documents: str) -> str:
    return "---\n".join(documents)


async def test_cluster_policies_are_a_kind_like_the_others(folder: Path) -> None:
    (folder / "node.yaml").write_text(text("a", 1))
    spec = "{tier: Admin, priority: 1, subject: {namespaces: {}}}"
    lock = f"kind: ClusterNetworkPolicy\nmetadata: {{name: lock}}\nspec: {spec}\n"
    (folder / "lock.yaml").write_text(lock)
    async with running(folder) as cluster:
        before = await cluster.until(lambda now: bool(now.cluster_policies))
        assert set(before.cluster_policies) == {"lock"}
        cluster.write("more.yaml", lock.replace("lock", "more"))
        after = await cluster.until(lambda now: len(now.cluster_policies) == 2)
        assert after.cluster_policies["lock"] is before.cluster_policies["lock"]
        assert after.policies is before.policies
        # What is no policy any more leaves the last good one.
        cluster.write("lock.yaml", lock.replace(spec, "7"))
        spoilt = await cluster.until(lambda now: bool(now.problems))
        assert spoilt.cluster_policies["lock"] is before.cluster_policies["lock"]
        (folder / "lock.yaml").unlink()
        await cluster.until(lambda now: set(now.cluster_policies) == {"more"})


async def test_they_come_and_go_and_others_are_the_same(folder: Path) -> None:
    (folder / "node.yaml").write_text(text("a", 1))
    (folder / "shop.yaml").write_text(
        together(policy("lock"), namespace("default"), pod("web", "10.0.0.1"), pod("db", "10.0.0.2"))
    )
    async with running(folder) as cluster:
        before = await cluster.until(lambda now: bool(now.policies))
        assert set(before.policies) == {"default/lock"}
        assert set(before.namespaces) == {"default"}
        assert set(before.pods) == {"default/web", "default/db"}
        cluster.write("more.yaml", pod("cache", "10.0.0.3"))
        after = await cluster.until(lambda now: len(now.pods) == 3)
        assert after.pods["default/web"] is before.pods["default/web"]
        for same in ("nodes", "services", "slices", "policies", "namespaces"):
            assert getattr(after, same) is getattr(before, same), same
        cluster.write(
            "shop.yaml",
            together(policy("lock"), namespace("default"), pod("web", "10.0.0.9"), pod("db", "10.0.0.2")),
        )
        moved = await cluster.until(lambda now: now.pods is not after.pods)
        assert str(moved.pods["default/web"].ips[0]) == "10.0.0.9"
        assert moved.pods["default/db"].ips == before.pods["default/db"].ips
        assert set(moved.policies) == {"default/lock"}
        (folder / "shop.yaml").unlink()
        gone = await cluster.until(lambda now: not now.policies)
        assert (gone.namespaces, set(gone.pods)) == ({}, {"default/cache"})


@pytest.mark.parametrize(
    "broken",
    [
        "kind: [",
        "# nothing\n",
        together(policy("lock"), namespace("Default"), pod("web", "10.0.0.1")),
        together(policy("lock"), namespace("default"), pod("web", "10.0.0.1").replace("app: web", "app: 5")),
        together(policy("Lock"), namespace("default"), pod("web", "10.0.0.1")),
        together("kind: 5\n", policy("lock")),
    ],
    ids=range(6),
)
async def test_what_is_broken_withdraws_nothing(folder: Path, broken: str) -> None:
    good = together(policy("lock"), namespace("default"), pod("web", "10.0.0.1"))
    (folder / "shop.yaml").write_text(good)
    async with running(folder) as cluster:
        before = await cluster.until(lambda now: bool(now.policies))
        cluster.write("shop.yaml", broken)
        now = await cluster.until(lambda now: bool(now.problems))
        for each in ("policies", "namespaces", "pods"):
            assert set(getattr(now, each)) == set(getattr(before, each))
        assert now.policies["default/lock"].ingress == ()
        cluster.write("shop.yaml", good)
        await cluster.until(lambda now: not now.problems)


async def test_a_policy_that_can_not_be_read_in_full_is_in_force(folder: Path) -> None:
    (folder / "lock.yaml").write_text(policy("lock", "{podSelector: {}, ingress: [{from: [{}]}]}"))
    found = await read_folder(folder)
    (rule,) = found.policies["default/lock"].ingress or ()
    assert rule.peers == ()
    assert found.problems == {
        str(
            folder / "lock.yaml"
        ): "NetworkPolicy default/lock: spec.ingress[0].from[0]: is nobody; give ipBlock, "
        "namespaceSelector, podSelector; the peer is left out"
    }
    assert found.unread_policies == frozenset()


async def test_of_two_objects_of_one_key_the_first_counts(folder: Path) -> None:
    (folder / "a.yaml").write_text(together(policy("lock"), pod("web", "10.0.0.1")))
    (folder / "b.yaml").write_text(together(policy("lock"), namespace("default")))
    (folder / "c.yaml").write_text(together(pod("web", "10.0.0.2"), namespace("default", "{team: a}")))
    found = await read_folder(folder)
    assert found.policies["default/lock"].ingress == ()
    assert str(found.pods["default/web"].ips[0]) == "10.0.0.1"
    assert "team" not in found.namespaces["default"].labels
    words = {Path(path).name: line for path, line in found.problems.items()}
    assert f"NetworkPolicy default/lock stands in {folder / 'a.yaml'}" in words["b.yaml"]
    assert f"Pod default/web stands in {folder / 'a.yaml'}" in words["c.yaml"]
    assert f"Namespace default stands in {folder / 'b.yaml'}" in words["c.yaml"]


async def test_of_policies_of_one_name_that_differ_neither_allows_anything(folder: Path) -> None:
    """And it is the same for whoever looks, whichever was there first."""
    web, db = "{podSelector: {matchLabels: {app: web}}, ingress: [{}]}", "{podSelector: {}, egress: [{}]}"
    (folder / "b.yaml").write_text(policy("lock", web))
    async with running(folder) as cluster:
        before = await cluster.until(lambda now: bool(now.policies))
        assert before.policies["default/lock"].ingress
        cluster.write("a.yaml", policy("lock", db))
        now = await cluster.until(lambda now: len(now.policies) == 2)
        again = await read_folder(folder)
        for found in (now, again):
            first, other = found.policies["default/lock"], found.policies["default/lock in b.yaml"]
            assert (first.ingress, first.egress, len(first.pods.requirements)) == ((), (), 0)
            assert (other.ingress, other.egress, len(other.pods.requirements)) == ((), None, 1)
            (line,) = found.problems.values()
            assert "neither allows anything" in line
        cluster.write("c.yaml", policy("more"))
        later = await cluster.until(lambda now: len(now.policies) == 3)
        assert later.policies["default/lock in b.yaml"] is now.policies["default/lock in b.yaml"]
        (folder / "a.yaml").unlink()
        after = await cluster.until(lambda now: len(now.policies) == 2)
        assert after.policies["default/lock"].ingress


async def test_a_folder_that_is_being_filled_is_read_when_it_is_full(tmp_path: Path) -> None:
    """Nodes without the policies would open pods for a moment."""
    late = tmp_path / "late"
    async with running(late) as cluster:
        late.mkdir()
        for number in range(20):
            cluster.write(f"{number}.yaml", policy(f"p{number}"))
            await asyncio.sleep(0.01)
        await cluster.until(lambda snapshot: bool(snapshot.policies))
        assert [len(each.policies) for each in cluster.published[:1]] == [20]


_SPEC = "{tier: Admin, priority: 1, subject: {namespaces: {}}}"
LOCK = f"kind: ClusterNetworkPolicy\nmetadata: {{name: lock}}\nspec: {_SPEC}\n"
WEB_SERVICE = "kind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n"


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        (LOCK.replace("spec", "spce"), True),
        (policy("Lock"), True),
        (pod("web", "10.0.0.1").replace("app: web", "app: 7"), True),
        (namespace("shop", "{team: 7}"), True),
        ("kind: Pod\nmetadata: {", True),
        ("metadata: {name: web}", True),
        (WEB_SERVICE.replace("80", "http"), False),
        (together(WEB_SERVICE.replace("80", "http"), LOCK), False),
        (policy("lock", "{podSelector: 7}"), False),
    ],
)
async def test_what_may_have_policies_that_nobody_has_read(folder: Path, text: str, unread: bool) -> None:
    """A file is known once each of its kinds was in order, if not all at one time."""
    path = folder / "file.yaml"
    path.write_text(text)
    (folder / "node.yaml").write_text("kind: Node\nmetadata: {name: a}\n")
    found = await read_folder(folder)
    assert set(found.problems) >= {str(folder / "node.yaml")}
    assert found.unread_policies == ({str(path)} if unread else set())
    async with running(folder) as cluster:
        await cluster.until(lambda now: bool(now.problems))
        cluster.write("file.yaml", together(LOCK, policy("lock")))
        now = await cluster.until(lambda now: bool(now.policies))
        assert now.unread_policies == frozenset()
        cluster.write("file.yaml", text + "\n---\n[")
        now = await cluster.until(lambda now: str(path) in now.problems)
        assert now.unread_policies == frozenset(), "what was good of it stays"
