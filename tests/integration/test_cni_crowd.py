"""CNI requests to the real agent: many at once, races between them, and clients that misbehave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cni_node import cni, inside, nothing_leaks
from cni_world import EXECUTABLE, Answer, Cni, finish, new_container, path
from lab_world import agent_log

from ovsnet import names
from ovsnet.lab import files

__all__ = ["cni", "nothing_leaks"]


@pytest.mark.slow
def test_thirty_at_once(cni: Cni) -> None:
    containers = [new_container() for _ in range(30)]
    with cni.namespaces(*containers):
        for _ in range(2):
            answers = [finish(each) for each in [cni.process("ADD", c, netns=path(c)) for c in containers]]
            assert [answer.code for answer in answers] == [0] * 30
            given = [address for answer in answers for address in answer.addresses]
            assert len(set(given)) == 60
            assert cni.attached() == {(container, "eth0") for container in containers}
            cni.assert_nothing_leaked()
            for container, answer in list(zip(containers, answers, strict=True))[::7]:
                assert cni.check(container, answer.document).code == 0
                assert inside(cni, container, "ping", "-c1", "-W2", "10.244.1.1")
            answers = [finish(each) for each in [cni.process("DEL", c, netns=path(c)) for c in containers]]
            assert answers == [Answer(0, None)] * 30
            assert cni.attached() == set()


@pytest.mark.slow
def test_add_and_del_of_one_container_race(cni: Cni) -> None:
    """One after the other, in whatever order: afterwards the pod is there as a whole or not at all."""
    for milliseconds in range(0, 60, 10):
        container = new_container()
        with cni.namespaces(container):
            add = cni.process("ADD", container, netns=path(container))
            time.sleep(milliseconds / 1000)
            delete = cni.process("DEL", container, netns=path(container))
            added, deleted = finish(add), finish(delete)
            assert (added.code, deleted.code) == (0, 0)
            cni.assert_nothing_leaked()
            if (container, "eth0") in cni.attached():
                assert cni.check(container, added.document).code == 0


def test_five_adds_of_one_container_race(cni: Cni) -> None:
    with cni.namespaces("c1"):
        answers = [finish(each) for each in [cni.process("ADD", "c1", netns=path("c1")) for _ in range(5)]]
        assert sorted(answer.code for answer in answers) == [0, 100, 100, 100, 100]
        winner = next(answer for answer in answers if answer.code == 0)
        assert cni.check("c1", winner.document).code == 0


@pytest.mark.slow
def test_a_client_killed_in_mid_add(cni: Cni) -> None:
    """The ADD runs to its end; the runtime's DEL takes it back."""
    for milliseconds in range(0, 60, 8):
        container = new_container()
        with cni.namespaces(container):
            client = cni.process("ADD", container, netns=path(container))
            time.sleep(milliseconds / 1000)
            client.kill()
            client.communicate()
            cni.delete(container)
            cni.assert_nothing_leaked()
    assert cni.attached() == set()


@pytest.mark.slow
def test_a_namespace_destroyed_in_mid_add(cni: Cni) -> None:
    for milliseconds in range(10, 60, 12):
        container = new_container()
        with cni.namespaces(container):
            client = cni.process("ADD", container, netns=path(container))
            time.sleep(milliseconds / 1000)
            cni.remove_namespace(container)
            assert finish(client).code in (0, 4, 5)
            cni.delete(container)
            cni.assert_nothing_leaked()


GARBAGE = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "zeros": b"\0" * 4096,
    "huge": b"OVSNET1 99999999999\n",
    "short": b"OVSNET1 100\nabc",
    "long": b"OVSNET1 3\nabcdef",
    "no request": b"OVSNET1 3\nabc",
    "not UTF-8": b"OVSNET1 6\nA=\xff\xfe\0\0",
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_on_the_socket(cni: Cni, garbage: str) -> None:
    with connected(cni) as client:
        client.sendall(GARBAGE[garbage])
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        answer = client.recv(65536)
        assert not answer or answer.startswith(b"1 ")
    with cni.pod():
        assert "Traceback" not in agent_log(cni.node)


def test_clients_that_hang_disturb_nobody(cni: Cni) -> None:
    """Fifty say nothing, fifty stop in the middle; all others are served at once."""
    clients = [connected(cni) for _ in range(100)]
    try:
        for client in clients[50:]:
            client.sendall(b"OVSNET1 1000\nCNI_COMMAND=ADD\0")
        begun = time.monotonic()
        with cni.pod():
            pass
        assert time.monotonic() - begun < 10
    finally:
        for client in clients:
            client.close()


def connected(cni: Cni) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(cni.node.root / files.CNI_SOCKET.lstrip("/")))
    return client


def test_only_root_may_ask(cni: Cni) -> None:
    done = subprocess.run(
        [*cni.inside, "setpriv", "--reuid=65534", "--clear-groups", EXECUTABLE],
        env={"PATH": os.environ["PATH"], "CNI_COMMAND": "STATUS"},
        input='{"cniVersion":"1.1.0","name":"ovsnet","type":"ovsnet"}',
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 50


def test_the_names_of_ports_follow_the_pods(cni: Cni) -> None:
    """The row says whose port it is, in the runtime's own words."""
    variables = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;X=y"}
    with cni.pod(variables=variables) as (container, answer):
        row = cni.rows()[answer.document["interfaces"][0]["name"]]
        assert row.external_ids[names.KEY_POD] == "web-1"
        assert row.external_ids[names.KEY_NAMESPACE] == "shop"
        assert row.external_ids[names.KEY_CONTAINER] == container


@pytest.mark.slow
def test_everything_at_once(cni: Cni) -> None:
    """Pods come and go on eight threads for a while, some with two interfaces, while others are checked."""

    def live(number: int) -> None:
        for round_ in range(3):
            with cni.pod() as (container, answer):
                assert cni.check(container, answer.document).code == 0
                if (number + round_) % 2:
                    cni.add(container, ifname="net1")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(8)))
