"""The archive of `ovsnet support-bundle`, and what is never read into it. The whole command is tested in a lab."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from ovsnet.config import Config
from ovsnet.doctor import bundle, contents
from ovsnet.doctor.bundle import Item
from ovsnet.errors import OvsnetError


def test_the_archive_is_roots_alone_and_whole(tmp_path: Path) -> None:
    target = tmp_path / "b.tar.gz"
    bundle.write([Item("a/b.txt", "text\n"), Item("c.txt", "", "it is not there")], target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]
    with tarfile.open(target) as opened:
        assert opened.getnames() == ["b/a/b.txt", "b/c.txt"]
        missing = opened.extractfile("b/c.txt")
        assert missing is not None
        assert missing.read() == b"it is not there\n"


def test_no_file_is_ever_replaced(tmp_path: Path) -> None:
    target = tmp_path / "b.tar.gz"
    target.write_text("mine")
    with pytest.raises(OvsnetError, match="exists already"):
        bundle.write([Item("a", "text")], target)
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(OvsnetError, match="nowhere"):
        bundle.write([Item("a", "text")], tmp_path / "nowhere" / "b.tar.gz")


def test_logs(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("sent token=swordfish\n")
    (tmp_path / "config").write_text("kind: Config\nusers: [{user: {token: swordfish}}]\n")
    (tmp_path / "innocent.log").symlink_to("/etc/shadow")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long.log").write_bytes(b"token=" + b"swordfish" * 300_000 + b"\nlast\n")
    names = ("a.log", "config", "innocent.log", "pipe", "long.log", "absent.log")
    items = {item.name: item for item in bundle._logs([tmp_path / name for name in names])}
    assert "swordfish" not in "".join(item.text for item in items.values())
    assert items["logs/a.log"].text == "sent token=(hidden)\n"
    assert items["logs/long.log"].text == "last\n"
    for name in names[1:4]:
        assert "left out" in items[f"logs/{name}"].note
    assert "No such file" in items["logs/absent.log"].note


def test_documents(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("vni: 5\n")
    (tmp_path / "kube.yaml").write_text("kind: Config\nusers: [{user: {token: swordfish}}]\n")
    found = {item.name: item for item in (bundle._document(each, "config") for each in tmp_path.iterdir())}
    assert found["config/agent.yaml"].text == "vni: 5\n"
    assert "kubeconfig" in found["config/kube.yaml"].note
    assert found["config/kube.yaml"].text == ""


def test_every_answer_has_a_file_of_its_own_and_nothing_secret_is_asked_for() -> None:
    commands = contents.commands(Config(), "/etc/ovsnet/agent.yaml", "/run/x.ctl", "/run/x.mgmt")
    names = [command.name for command in commands]
    assert len(names) == len(set(names))
    words = {word for command in commands for word in command.argv}
    assert not words & {"env", "printenv", "show-environment", "xfrm", "cat"}
