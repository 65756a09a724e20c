"""`ovsnet install-cni`: what the agent's pod does to a node before the agent starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ovsnet import config
from ovsnet.cli.installcni import install_cni
from ovsnet.errors import ConfigError, HostFailure


class Pod:
    """The folders that the container has."""

    def __init__(self, folder: Path) -> None:
        self.cluster = folder / "cluster.yaml"
        self.agent = folder / "agent.yaml"
        self.source = folder / "made"
        self.binaries = folder / "bin"
        self.networks = folder / "net.d"
        for each in (self.binaries, self.networks):
            each.mkdir()
        self.cluster.write_text("vni: 5\n")
        self.source.write_bytes(b"\x7fELF")

    def run(self, name: str = "node-a") -> Result:
        arguments = {
            "--config": self.cluster,
            "--node-name": name,
            "--agent-config": self.agent,
            "--executable": self.source,
            "--bin": self.binaries,
            "--conf": self.networks,
        }
        words = [str(word) for pair in arguments.items() for word in pair]
        return CliRunner().invoke(install_cni, words)

    def plugin(self, name: str) -> None:
        (self.binaries / name).write_text("#!/bin/sh\n")
        (self.binaries / name).chmod(0o755)

    def types(self) -> list[str]:
        document = json.loads((self.networks / "10-ovsnet.conflist").read_text())
        return [each["type"] for each in document["plugins"]]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_everything_is_put_in_place(pod: Pod) -> None:
    pod.plugin("portmap")
    pod.plugin("bandwidth")
    done = pod.run()
    assert done.exit_code == 0, done.output
    assert (pod.binaries / "ovsnet").read_bytes() == b"\x7fELF"
    assert (pod.binaries / "ovsnet").stat().st_mode & 0o777 == 0o755
    loaded = config.load(pod.agent)
    assert (loaded.node_name, loaded.vni) == ("node-a", 5)
    assert pod.types() == ["ovsnet", "portmap", "bandwidth"]
    assert done.output.splitlines()[-1] == f"wrote {pod.networks}/10-ovsnet.conflist"
    assert sorted(path.name for path in pod.networks.iterdir()) == ["10-ovsnet.conflist"]


def test_plugins_that_are_missing_are_left_out_and_told(pod: Pod) -> None:
    pod.plugin("bandwidth")
    done = pod.run()
    assert pod.types() == ["ovsnet", "bandwidth"]
    assert f"{pod.binaries}/portmap is not there: pods get no portmap" in done.output


def test_a_second_time_changes_nothing(pod: Pod) -> None:
    pod.run()
    before = {path: path.stat() for path in pod.binaries.parent.rglob("*")}
    done = pod.run()
    assert done.output.count("is in place") == 3
    assert before == {path: path.stat() for path in pod.binaries.parent.rglob("*")}


def test_an_executable_in_use_is_replaced(pod: Pod) -> None:
    """As a new file: one that runs can't be written."""
    pod.run()
    old = (pod.binaries / "ovsnet").stat().st_ino
    pod.source.write_bytes(b"\x7fELF2")
    assert pod.run().exit_code == 0
    assert (pod.binaries / "ovsnet").read_bytes() == b"\x7fELF2"
    assert (pod.binaries / "ovsnet").stat().st_ino != old


def test_a_node_may_be_called_a_number(pod: Pod) -> None:
    assert pod.run("12").exit_code == 0
    assert config.load(pod.agent).node_name == "12"


def test_a_name_in_the_shared_configuration_is_refused(pod: Pod) -> None:
    pod.cluster.write_text("nodeName: a\n")
    error = pod.run().exception
    assert isinstance(error, ConfigError)
    assert "nodeName is set" in error.message
    assert not list(pod.networks.iterdir()), "the runtime would take the network for ready"


def test_a_missing_executable_is_told(pod: Pod) -> None:
    pod.source.unlink()
    error = pod.run().exception
    assert isinstance(error, HostFailure)
    assert str(pod.source) in error.message
    assert not list(pod.networks.iterdir())
