"""The network configuration list that is installed for runtimes."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import pytest

from ovsnet import resources
from ovsnet.cni import client, netconf


def rendered(**values: Any) -> dict[str, Any]:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    document = json.loads(
        environment.get_template("10-ovsnet.conflist.j2").render(agent_socket="/run/a.sock", **values)
    )
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("values", "plugins"),
    [
        ({}, ["ovsnet", "portmap", "bandwidth"]),
        ({"portmap": False, "bandwidth": False}, ["ovsnet"]),
        (
            {"portmap": False, "tuning": {"sysctl": {"net.core.somaxconn": "512"}}},
            ["ovsnet", "bandwidth", "tuning"],
        ),
    ],
)
def test_the_plugins_of_the_list(values: dict[str, Any], plugins: list[str]) -> None:
    document = rendered(**values)
    assert [plugin["type"] for plugin in document["plugins"]] == plugins
    assert (document["cniVersion"], document["name"]) == ("1.0.0", "ovsnet")
    if "tuning" in values:
        assert document["plugins"][-1]["sysctl"] == {"net.core.somaxconn": "512"}


def test_agent_and_executable_understand_it() -> None:
    document = rendered(cni_version="1.1.0", network="blue")
    ours = {"cniVersion": document["cniVersion"], "name": document["name"], **document["plugins"][0]}
    text = json.dumps(ours).encode()
    assert netconf.decode(text).name == "blue"
    assert client._socket_path(bytearray(text)) == b"/run/a.sock"
