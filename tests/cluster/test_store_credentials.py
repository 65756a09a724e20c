"""What a store shows an API server ends, is revoked and replaced while it follows, and so is what the server shows."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from api_server_world import (
    ACCOUNTS,
    KINDS,
    ApiServer,
    World,
    admin,
    agent_account,
    answered,
    api_server,
    following,
    kubeconfig_text,
    running,
    token_of,
)
from api_store_world import Cluster
from api_wire import HOST, PORT, Wire

from ovsnet.lab.kubernetes.pki import Pki
from ovsnet.store.kubernetes import access
from ovsnet.store.kubernetes.access import Source

__all__ = ["admin"]
SECRETS = "/api/v1/namespaces/default/secrets"
UNBELIEVED = "is the agent's token or certificate still valid?"
SERVING, CLIENT = ("apiserver.crt", "apiserver.key"), ("admin.crt", "admin.key")
kubernetes = api_server


LEEWAY = 60
"""Seconds for which the API server believes a token that has ended."""


def ending(server: ApiServer, token: str, seconds: float) -> str:
    """The token, believed for so many seconds; signed as the API server does it (RFC 7515, RFC 7518 section 3.4)."""
    header, claims, _ = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    said["exp"] = int(time.time() + seconds - LEEWAY)
    key = str(server.control.pki.folder / "sa.key")
    text = f"{header}.{_encoded(json.dumps(said).encode())}"
    der = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", key], input=text.encode(), capture_output=True, check=True
    ).stdout
    size = der[3]
    numbers = der[4 : 4 + size], der[6 + size :]
    return f"{text}.{_encoded(b''.join(each[-32:].rjust(32, bytes(1)) for each in numbers))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def follows(world: World, port: int) -> None:
    """Nothing was listed anew or ever away, and what is new arrives."""
    assert world.wire.count("list") == len(KINDS)
    assert not any(map(world.lacks, world.published))
    await world.point(port)


async def first_token(server: ApiServer, admin: Cluster, how: str, account: str) -> str:
    """One that is believed now."""
    bound = None
    if how == "bound":
        secret = await admin.create(SECRETS, {"metadata": {"name": account}})
        bound = {"kind": "Secret", "apiVersion": "v1", "name": account, "uid": secret["metadata"]["uid"]}
    token = await token_of(admin, account, bound)
    return ending(server, token, 12) if how == "ended" else token


async def loses(server: ApiServer, kubeconfig: Path, admin: Cluster, folder: Path, how: str) -> None:
    """A store whose token is `bound` to an object that goes, of an account that was `remade`, or has `ended`."""
    account = f"{admin.name}-{how}"
    await agent_account(admin, account)
    first = await first_token(server, admin, how, account)
    await answered(server, 200, first)
    async with following(server, kubeconfig, folder, first) as world:
        if how == "bound":
            await admin.delete(f"{SECRETS}/{account}")
        elif how == "remade":
            await admin.delete(f"{ACCOUNTS}/{account}")
            await admin.create(ACCOUNTS, {"metadata": {"name": account}})
        second = await token_of(admin, account)
        await answered(server, 401, first)
        since = len(world.wire.asked)
        if how == "remade":
            await world.wire.cut()
            await world.until(lambda: UNBELIEVED in str(world.now.problems))
            (folder / "token").write_text(second)
            await world.until(lambda: world.watching(since) and not world.now.problems, 60)
        else:
            # It is there already, and the store has not looked.
            (folder / "token").write_text(second)
            await world.wire.cut()
            await world.until(lambda: world.watching(since))
            assert not any(each.problems for each in world.published)
        assert {each.token for each in world.wire.asked[since:] if each.status == 401} == {first}
        await follows(world, 81)


async def test_tokens_that_are_believed_no_more(
    kubernetes: ApiServer, kubeconfig: Path, tmp_path: Path, admin: Cluster
) -> None:
    """All at once, since the server remembers for ten seconds whom it believed."""
    ways = ("bound", "remade", "ended")
    for each in ways:
        (tmp_path / each).mkdir()
    await asyncio.gather(*(loses(kubernetes, kubeconfig, admin, tmp_path / each, each) for each in ways))


async def test_a_token_is_replaced_before_it_ends(
    kubernetes: ApiServer, kubeconfig: Path, tmp_path: Path, admin: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store looks once a minute, and does not wait to be refused."""
    await agent_account(admin, admin.name)
    first, second = [await token_of(admin, admin.name) for _ in range(2)]
    await answered(kubernetes, 200, first)
    async with following(kubernetes, kubeconfig, tmp_path, first) as world:
        (tmp_path / "token").write_text(second)
        monkeypatch.setattr(access, "_TOKEN_AGE", 0.0)
        since = len(world.wire.asked)
        await world.wire.cut()
        await world.until(lambda: world.watching(since))
        assert {(each.token, each.status) for each in world.wire.asked[since:]} == {(second, 200)}
        await follows(world, 81)


async def test_certificates_of_another_authority(
    kubernetes: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    """First the server shows one, then it takes no other from clients; the store's files come later each time."""
    theirs, ours = kubernetes.control.pki.folder, tmp_path / "ours"
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(theirs, old)
    shutil.copytree(theirs, ours)
    authority = Pki(new)
    authority.prepare()
    authority.certificate("apiserver", "/CN=kube-apiserver", [f"IP:{HOST}"])
    authority.certificate("admin", "/O=system:masters/CN=admin")
    wire = Wire(None)
    await wire.open()
    user = {"client-certificate": "admin.crt", "client-key": "admin.key"}
    text = kubeconfig_text(f"https://{HOST}:{wire.port}", {"certificate-authority": "ca.crt"}, user)
    (ours / "kubeconfig").write_text(text)
    world = World(kubeconfig, Source(str(ours / "kubeconfig")), wire)

    async def refused(words: str) -> None:
        await wire.cut()
        await world.until(lambda: words in str(world.now.problems))

    async def believed(folder: Path, *names: str) -> None:
        give(folder, ours, *names)
        await world.until(lambda: not world.now.problems, 60)

    async with running(world):
        try:
            give(new, theirs, *SERVING)
            await shown(new)
            await refused("certificate verify failed")
            await believed(new, "ca.crt")
            give(new, theirs, "ca.crt")
            await answered(kubernetes, 401, user="admin")
            await refused(UNBELIEVED)
            await believed(new, *CLIENT)
        finally:
            give(old, theirs, *SERVING, "ca.crt")
        await shown(old)
        await answered(kubernetes, 200, user="admin")
        await refused("certificate verify failed")
        await believed(old, *CLIENT, "ca.crt")
        assert not any(map(world.lacks, world.published))
        await world.point(81)


def give(source: Path, target: Path, *names: str) -> None:
    """Replace files by those of another folder, each at one moment."""
    for name in names:
        shutil.copy(source / name, target / ".given")
        (target / ".given").rename(target / name)


async def shown(folder: Path) -> None:
    """Wait until the API server shows the certificate that is there, which it reads without a restart."""
    expected = (folder / "apiserver.crt").read_text()
    for _ in range(300):
        if ssl.get_server_certificate((HOST, PORT)).strip() == expected.strip():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it shows the one before")
