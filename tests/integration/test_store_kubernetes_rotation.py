"""What a store goes by is replaced while it runs, as kubelet does in a pod; and a server that was away for long."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from scripted_api import ALWAYS, NODES, SERVICES, SLICES, Request, node, refuse, service, serving, slice_
from store_kubernetes_world import World, following, running

from ovsnet.lab.kubernetes.pki import CA, Pki
from ovsnet.store.kubernetes import access
from ovsnet.store.kubernetes.access import Source
from ovsnet.store.kubernetes.store import KubernetesStore

HOUR = 3600.0


class Account:
    """The folder of a pod's service account: its files are links through `..data`, which is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = 0
        path.mkdir()
        for name in ("ca.crt", "token"):
            (path / name).symlink_to(f"..data/{name}")

    def replace(self, authority: bytes, token: str) -> None:
        self._made += 1
        versioned = self.path / f"..version_{self._made}"
        versioned.mkdir()
        (versioned / "ca.crt").write_bytes(authority)
        (versioned / "token").write_text(token)
        link = self.path / "..data_tmp"
        link.symlink_to(versioned.name)
        link.rename(self.path / "..data")


class Authority:
    """Certificates of one that is its own."""

    def __init__(self, folder: Path) -> None:
        self._pki = Pki(folder)
        self._pki.prepare()
        self._pki.certificate("server", "/CN=server", ["IP:127.0.0.1"])
        self.certificate = self._pki.read(f"{CA}.crt")

    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._pki.folder / "server.crt", self._pki.folder / "server.key")
        return context


@contextlib.asynccontextmanager
async def in_a_pod(folder: Path, authority: Authority) -> AsyncIterator[tuple[World, Account]]:
    """A store that follows a server as a pod does."""
    account = Account(folder / "account")
    account.replace(authority.certificate, "first")
    async with serving(authority.server()) as api:
        await api.put(NODES, node("node-a", 1))
        await api.put(SERVICES, service("web", 1))
        world = World(api, folder, 150)
        environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
        source = Source(environment=environment, service_account=str(account.path))
        world.store = KubernetesStore(source)
        world.store.subscribe(lambda: world.published.append(world.now))
        async with running(world):
            await world.until_services("web")
            await world.watching()
            yield world, account


def bearers(world: World) -> list[str]:
    return [each.headers.get("authorization", "") for each in world.api.log]


async def test_an_authority_that_is_replaced_under_way(tmp_path: Path) -> None:
    """The server comes back with a certificate of the next one, and kubelet brings that some time later."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    async with in_a_pod(tmp_path, old) as (world, account):
        before = world.now
        await world.api.stop()
        world.api.tls = new.server()
        await world.api.start()
        await world.until(lambda: "certificate verify failed" in " ".join(world.now.problems.values()))
        account.replace(new.certificate, "first")
        await world.until(lambda: not world.now.problems, 40)
        await world.watching(2)
        await world.api.put(SERVICES, service("new", 7))
        await world.until_services("web", "new")
        assert all(each.services.items() >= before.services.items() for each in world.published)
        assert all(each.nodes == before.nodes for each in world.published)


async def test_a_token_that_is_replaced_is_shown_before_the_old_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to refuse the old one for that."""
    authority = Authority(tmp_path / "authority")
    async with in_a_pod(tmp_path, authority) as (world, account):
        assert set(bearers(world)) == {"Bearer first"}
        account.replace(authority.certificate, "second")
        monkeypatch.setattr(access, "_TOKEN_AGE", 0.0)
        await world.api.end_watches(SERVICES)
        await world.until(lambda: world.api.count("watch", SERVICES) == 2)
        assert bearers(world)[-1] == "Bearer second"
        assert world.api.count("list") == len(ALWAYS)
        assert len(world.published) == 1


@pytest.mark.parametrize("forgets", [False, True], ids=["it knows", "it forgets"])
async def test_a_server_that_was_away_for_an_hour(tmp_path: Path, forgets: bool) -> None:
    """Everything is listed again, and nothing is withdrawn before that is complete."""
    async with following(tmp_path) as world:
        before = world.now
        await world.api.stop()
        await world.until(lambda: bool(world.now.problems))
        for each in world.store._always:
            each._contact -= HOUR
        api = world.api
        api.objects[SERVICES].pop("default/web")
        api.objects[SERVICES]["default/dns"] = service("dns", 5)
        api.objects[NODES]["/node-c"] = node("node-c", 3)
        api.version += 100_000
        if forgets:
            # The rest of the first list, too.
            api.once[SERVICES, "list"] = [refuse("410 Gone")]
        await api.start()
        after = await world.until_services("dns")
        await world.until(lambda: len(world.now.nodes) == 3)
        await world.watching(2)
        assert all(api.count("list", each) == 2 for each in ALWAYS if each != SERVICES)
        assert api.count("list", SERVICES) == 2 + forgets
        assert after.slices == before.slices
        assert all(each.services and each.nodes for each in world.published)


async def test_kinds_that_come_in_another_order(tmp_path: Path) -> None:
    """A slice before its Service, the Service gone before its slice, a Node after the endpoints on it."""
    async with following(tmp_path) as world:
        await world.api.put(SLICES, slice_("late", "10.244.3.5"))
        await world.until(lambda: "default/late-1" in world.now.slices)
        assert "default/late" not in world.now.services
        await world.api.put(SERVICES, service("late", 9))
        await world.until_services("web", "late")
        await world.api.put(NODES, node("node-c", 3))
        await world.until(lambda: "node-c" in world.now.nodes)
        assert not world.now.problems
        await world.api.remove(SERVICES, "default/late")
        await world.until_services("web")
        assert "default/late-1" in world.now.slices
        await world.api.remove(SLICES, "default/late-1")
        await world.until(lambda: set(world.now.slices) == {"default/web-1"})
        assert not world.now.problems


@pytest.mark.parametrize("verb", ["watch", "check"])
async def test_a_server_that_asks_for_time_is_given_it_by_watches_too(tmp_path: Path, verb: str) -> None:
    asked: list[float] = []

    async with following(tmp_path) as world:
        loop = asyncio.get_running_loop()

        async def busy(request: Request) -> None:
            asked.append(loop.time())
            await refuse("429 Too Many Requests", Retry_After="2")(request)

        world.api.once[SERVICES, verb] = [busy]
        await asyncio.sleep(0.1)
        await world.api.end_watches(SERVICES)
        await world.until(lambda: world.api.count("watch", SERVICES) == (3 if verb == "watch" else 2))
        assert loop.time() - asked[0] >= 2
        assert world.api.count("list") == len(ALWAYS)
        await world.api.put(SERVICES, service("new", 7))
        await world.until_services("web", "new")
