"""The kubernetes store through everything that an API server and the way to it do wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest
from scripted_api import ALWAYS, NODES, SERVICES, Request, cut, failing_watch, refuse, said, service, silent
from store_kubernetes_world import World, following, made, running

from ovsnet.store.kubernetes.backoff import Backoff


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ovsnet.store")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if each.levelname == "WARNING"]


async def works(world: World) -> None:
    """What happens now still arrives."""
    await world.api.put(SERVICES, service("new", 77))
    await world.until(lambda: "default/new" in world.now.services)


async def test_a_watch_that_ends_goes_on_where_it_was(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await world.api.bookmark(SERVICES, world.api.version + 5)
        world.api.version += 10
        await asyncio.sleep(0.1)
        await world.api.end_watches(SERVICES)
        await world.until(lambda: world.api.count("watch", SERVICES) == 2)
        (last,) = [each for each in world.api.log if each.verb == "watch" and each.path == SERVICES][1:]
        assert last.params["resourceVersion"] == str(world.api.version - 5)
        assert last.params["allowWatchBookmarks"] == "true"
        assert 300 <= int(last.params["timeoutSeconds"]) <= 600
        assert world.api.count("list") == len(ALWAYS)
        await asyncio.sleep(0.05)
        await works(world)


async def test_a_server_that_is_killed_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path) as world:
        before = world.now
        await world.api.stop()
        await world.until(lambda: bool(world.now.problems))
        await asyncio.sleep(3)
        assert world.now.services is before.services
        assert world.now.nodes is before.nodes
        assert world.store.figures()["store_away"] == 1
        (line,) = warnings(caplog)
        assert line.endswith(
            "Connection refused (is it up, and is its address right?); 2 nodes and 1 Services stay as they are"
        )
        await world.api.start()
        await world.until(lambda: not world.now.problems, 40)
        await world.watching(2)
        await works(world)
        assert world.api.count("list") == len(ALWAYS)
        assert f"Kubernetes API {world.api.url} is there" in caplog.messages
        assert world.store.figures()["store_away"] == 0


async def test_who_finds_the_server_again_tells_the_others(tmp_path: Path) -> None:
    """It is one server: nobody waits for longer because its own attempt came a moment too early."""
    async with following(tmp_path) as world:
        await world.api.stop()
        await world.until(lambda: len(world.store._troubles) == len(ALWAYS))
        for each in world.store._always[1:]:
            each._backoff = Backoff(60, 60)
        # Now all but one wait for a minute.
        await asyncio.sleep(4)
        await world.api.start()
        await world.until(lambda: not world.now.problems, 10)
        await world.watching(2)
        await works(world)


@pytest.mark.parametrize(
    "behaviour",
    [refuse("410 Gone"), failing_watch(410, "Expired"), failing_watch(410, "Gone")],
    ids=["status", "expired event", "gone event"],
)
async def test_a_past_that_is_forgotten_is_listed_again(tmp_path: Path, behaviour: object) -> None:
    async with following(tmp_path) as world:
        before = world.now
        world.api.objects[SERVICES].pop("default/web")
        world.api.objects[SERVICES]["default/dns"] = service("dns", 5)
        world.api.once[SERVICES, "watch"] = [behaviour]  # type: ignore[list-item]
        await world.api.end_watches(SERVICES)
        after = await world.until_services("dns")
        assert world.api.count("list", SERVICES) == 2
        assert world.api.count("list", NODES) == 1
        assert after.nodes is before.nodes
        # Never was there a moment without either.
        assert all(each.services for each in world.published)


async def test_who_was_away_for_long_does_not_wait_for_as_long_to_list_again(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await world.api.stop()
        await world.until(lambda: len(world.store._troubles) == len(ALWAYS))
        for each in world.store._always:
            each._backoff._next = 60
        world.api.objects[SERVICES]["default/dns"] = service("dns", 5)
        world.api.once[SERVICES, "watch"] = [failing_watch(410, "Expired")]
        await world.api.start()
        for each in world.store._always:
            each.retry()
        await world.until_services("web", "dns")
        assert world.api.count("list", SERVICES) == 2


async def test_a_list_that_breaks_off_withdraws_nothing(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        before = world.now
        broken = [cut, refuse("500 Internal Server Error")]

        async def half(request: Request) -> None:
            await request.answer({"metadata": {"resourceVersion": "9", "continue": "x"}, "items": []})

        async def nonsense(request: Request) -> None:
            await request.answer(b"<html>login</html>")

        world.api.once[SERVICES, "watch"] = [refuse("410 Gone")]
        world.api.once[SERVICES, "list"] = [*broken, nonsense, half, cut]
        await world.api.end_watches(SERVICES)
        await world.until(lambda: world.api.count("watch", SERVICES) == 3, 60)
        assert all(each.services == before.services for each in world.published)
        await asyncio.sleep(0.05)
        await works(world)


async def test_a_server_that_asks_to_be_left_alone_is(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        world.api.once[SERVICES, "list"] = [refuse("429 Too Many Requests", Retry_After="2")]
        started = time.monotonic()
        async with running(world):
            await world.until_services("web")
        assert 2 <= time.monotonic() - started < 6
        assert world.api.count("list", SERVICES) == 2


async def test_attempts_become_fewer(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        world.api.always[SERVICES, "list"] = refuse("503 Service Unavailable")
        async with running(world):
            await asyncio.sleep(6)
        assert 3 <= world.api.count("list", SERVICES) <= 6


async def test_a_watch_that_says_nothing_any_more_is_opened_anew(tmp_path: Path) -> None:
    async with following(tmp_path, silence=1.0) as world:
        world.api.once[SERVICES, "watch"] = [silent]
        await world.api.end_watches(SERVICES)
        await world.until(lambda: world.api.count("watch", SERVICES) >= 3)
        assert world.api.count("list") == len(ALWAYS)
        await asyncio.sleep(0.05)
        await works(world)


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\n",
        b"{}\n",
        b'{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n',
        b'{"type":"ADDED","object":5}\n',
        b'{"type":"NEWS","object":{"metadata":{"name":"x","resourceVersion":"1"}}}\n',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"5"}}}\n',
        b'{"type":"ADDED","obj',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
    ],
    ids=range(9),
)
async def test_nonsense_in_a_watch_changes_nothing(tmp_path: Path, data: bytes) -> None:
    async with following(tmp_path) as world:
        before = world.now
        world.api.once[SERVICES, "watch"] = [said(data)]
        await world.api.end_watches(SERVICES)
        await world.until(lambda: world.api.count("watch", SERVICES) >= 3)
        await asyncio.sleep(0.05)
        await works(world)
        assert world.now.services["default/web"] is before.services["default/web"]
        assert world.api.count("list") == len(ALWAYS)


async def test_an_event_that_never_can_be_read_is_passed_by_with_a_list(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        world.api.once[SERVICES, "watch"] = [said(b"garbage\n")] * 3
        world.api.objects[SERVICES]["default/dns"] = service("dns", 5)
        await world.api.end_watches(SERVICES)
        await world.until_services("web", "dns")
        assert world.api.count("list", SERVICES) == 2


async def test_a_backup_that_was_restored(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await works(world)
        await world.api.stop()
        world.api.version = 500
        world.api.objects[SERVICES].pop("default/new")
        await world.api.start()
        await world.until_services("web")
        await world.watching(2)
        assert world.api.count("list") == 2 * len(ALWAYS)


async def test_a_backup_that_has_come_past_the_versions_of_some_kinds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is undone is undone for all of them: one that is higher shows it, also to those that watch again already."""
    async with following(tmp_path) as world:
        api = world.api

        async def late(request: Request) -> None:
            await world.until(lambda: api.count("watch", NODES) == 2)
            await asyncio.sleep(0.05)
            await api._list(request)

        restored = {path: dict(api.objects[path]) for path in ALWAYS}
        await api.remove(NODES, "/node-b")
        await world.until(lambda: "node-b" not in world.now.nodes)
        api.version += 100
        await works(world)
        await api.stop()
        api.objects |= restored
        api.version -= 50
        api.once[SERVICES, "check"] = [late]
        await api.start()
        await world.until(lambda: "node-b" in world.now.nodes and "default/new" not in world.now.services)
        await world.watching(2)
        await api.remove(NODES, "/node-a")
        await world.until(lambda: set(world.now.nodes) == {"node-b"})
        assert all(api.count("list", path) in (2, 3) for path in ALWAYS)
        assert caplog.text.count("was restored from a backup") == 1


async def test_events_twice_and_late(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await works(world)
        item = world.api.objects[SERVICES]["default/new"]
        published = len(world.published)
        for kind in ("ADDED", "MODIFIED", "ADDED"):
            await world.api.tell(SERVICES, kind, item)
        await asyncio.sleep(0.1)
        assert len(world.published) == published
        await world.api.remove(SERVICES, "default/new")
        await world.api.tell(SERVICES, "DELETED", item)
        await world.until_services("web")


async def test_a_token_that_ended_is_read_again(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        assert world.api.log[-1].headers["authorization"] == "Bearer first"
        world.token.write_text("second\n")

        async def picky(request: Request) -> None:
            right = request.headers.get("authorization") == "Bearer second"
            if right:
                await world.api._list(request)
            else:
                await refuse("401 Unauthorized", "token has expired")(request)

        for path in ALWAYS:
            world.api.always[path, "check"] = picky
        await world.api.end_watches(SERVICES)
        await world.until(lambda: world.api.count("watch", SERVICES) == 2)
        assert world.api.log[-1].headers["authorization"] == "Bearer second"
        assert world.api.count("check", SERVICES) == 2
        assert not world.now.problems


async def test_a_token_that_is_refused_is_told_and_not_tried_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with made(tmp_path) as world:
        for path in ALWAYS:
            world.api.always[path, "list"] = refuse("403 Forbidden", f"can't list {path[-5:]}")
        async with running(world):
            await asyncio.sleep(3)
        assert 4 <= len(world.api.log) <= 24
        assert any("403 can't list nodes (give the agent the rights" in line for line in warnings(caplog))
        assert len(warnings(caplog)) <= 5


async def test_a_kubeconfig_that_is_missing_and_then_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with made(tmp_path) as world:
        path = tmp_path / "kubeconfig"
        text = path.read_text()
        path.unlink()
        async with running(world):
            await asyncio.sleep(0.5)
            (line,) = warnings(caplog)
            assert line.startswith(f"{path}: No such file or directory")
            path.write_text(text)
            await world.until_services("web")


async def test_a_kubeconfig_that_names_another_server(tmp_path: Path) -> None:
    async with following(tmp_path) as world, made(_sub(tmp_path)) as other:
        await other.api.put(SERVICES, service("there", 9))
        other.api.version += 1000
        (tmp_path / "kubeconfig").write_text((tmp_path / "sub" / "kubeconfig").read_text())
        for path in ALWAYS:
            await world.api.end_watches(path)
        await other.watching()
        await other.api.put(SERVICES, service("more", 10))
        await world.until(lambda: "default/more" in world.now.services)


def _sub(folder: Path) -> Path:
    (folder / "sub").mkdir()
    return folder / "sub"


async def test_a_large_event_and_a_long_line(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        large = service("large", 9)
        large["metadata"]["annotations"] = {"note": "x" * 3_000_000}
        await world.api.put(SERVICES, large)
        await world.until(lambda: "default/large" in world.now.services)
        world.api.once[SERVICES, "watch"] = [said(b"x" * 17 * 2**20)]
        await world.api.end_watches(SERVICES)
        await world.until(lambda: world.api.count("watch", SERVICES) >= 3)
        await asyncio.sleep(0.05)
        await works(world)
        assert json.dumps(world.now.problems) == "{}"
