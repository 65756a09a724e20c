"""What a support bundle must not hold."""

from __future__ import annotations

import json

import pytest
import yaml

from ovsnet.doctor import redact

SECRET = "swordfish"


@pytest.mark.parametrize(
    "line",
    [
        "token: swordfish",
        "bootstrapToken: 'sword # swordfish'",
        'password="a, swordfish; b"',
        "ipsec_psk = the swordfish, and more",
        'log: sending {"apiKey": "swordfish"}',
        "Authorization: Bearer swordfish",
        "curl -H 'x: bearer swordfish'",
        "https://admin:swordfish@192.0.2.1/",
        "MY_SECRET=swordfish",
        "client-key-data: swordfish",
        "PASSWD:swordfish",
        "kubeadm join --token swordfish 192.0.2.1",
        "-----BEGIN RSA PRIVATE KEY-----\nswordfish\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nswordfish",
    ],
)
@pytest.mark.parametrize("hide", [redact.text, redact.document, redact.answer, redact.ovsdb])
def test_a_line(line: str, hide: object) -> None:
    assert callable(hide)
    shown = hide(line)
    assert SECRET not in shown
    assert redact.HIDDEN in shown


def test_what_is_no_secret_stays() -> None:
    line = "node-a: 192.0.2.11 on eth0, MTU 1500; unix:/run/openvswitch/db.sock"
    assert redact.text(line) == line
    flow = "cookie=0x1, table=0, priority=1,in_port=4321 actions=drop"
    assert redact.text(flow, tunnels=True) == flow


def test_the_key_of_a_tunnel_is_a_number_of_a_network() -> None:
    line = 'options: {key="77", psk=swordfish, remote_ip="192.0.2.12"}'
    shown = redact.text(line, tunnels=True)
    assert 'key="77"' in shown
    assert "192.0.2.12" in shown
    assert SECRET not in shown
    assert SECRET not in redact.text('options: {key="swordfish"}', tunnels=True)
    assert "77" not in redact.text("key: 77")
    assert "77" not in redact.text('{ssh-key="77"}', tunnels=True)


MANIFEST = """
apiVersion: v1
kind: Node  # swordfish
metadata:
  name: node-a
  annotations:
    join/token: |
      swordfish
    kubectl.kubernetes.io/last-applied-configuration: '{"kind": "Pod", "env": [{"name": "A", "value": "swordfish"}]}'
---
kind: Secret
data: {a: swordfish}
---
kind: Pod
spec:
  containers:
    - name: web
      image: web:1
      args: [--port, "80", --password, swordfish]
      command: [serve, --token=swordfish]
      env:
        - name: HOME
          value: swordfish
---
password:
  nested: {deep: [swordfish]}
settings: [{name: db-password, value: swordfish}]
"""


def test_a_manifest() -> None:
    shown = redact.document(MANIFEST)
    assert SECRET not in shown
    documents = list(yaml.safe_load_all(shown))
    assert documents[0]["metadata"]["name"] == "node-a"
    assert documents[2]["spec"]["containers"][0]["image"] == "web:1"
    assert documents[2]["spec"]["containers"][0]["args"][:3] == ["--port", "80", "--password"]


BROKEN = """
kind: Node
metadata: {name: node-a
password: "some
  swordfish"
secrets:
- swordfish
- a: swordfish
token: |
  swordfish

  swordfish
env:
  - name: A
    value: swordfish
spec:
  podCIDR: 10.244.1.0/24
"""


def test_a_manifest_that_does_not_parse_is_still_to_be_seen() -> None:
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(BROKEN)
    shown = redact.document(BROKEN)
    assert SECRET not in shown
    assert "{name: node-a" in shown
    assert "10.244.1.0/24" in shown


def test_json_stays_json() -> None:
    shown = json.loads(redact.answer('{"seen": "it says token: swordfish", "key": {"a": 1}, "n": [1, null]}'))
    assert shown == {"seen": "it says token: (hidden)", "key": "(hidden)", "n": [1, None]}


def test_ovsdb() -> None:
    tables = [
        {"caption": "SSL table", "headings": ["_uuid", "private_key"],
         "data": [[["uuid", "1"], "/etc/swordfish.pem"]]},
        {"caption": "Interface table", "headings": ["name", "options", "other_config"],
         "data": [["vxl-1", ["map", [["key", "77"], ["psk", SECRET], ["remote_ip", "192.0.2.12"]]],
                   ["map", [["key", SECRET]]]]]},
    ]  # fmt: skip
    dump = "".join(f"{json.dumps(table)}\n" for table in tables)
    shown = [json.loads(line) for line in redact.ovsdb(dump).splitlines()]
    assert SECRET not in json.dumps(shown)
    assert shown[0]["data"][0] == [["uuid", "1"], "(hidden)"]
    assert shown[1]["data"][0][1] == [
        "map",
        [["key", "77"], ["psk", "(hidden)"], ["remote_ip", "192.0.2.12"]],
    ]


def test_a_kubeconfig() -> None:
    assert redact.is_kubeconfig("apiVersion: v1\nkind: Config\nusers: []\n")
    assert redact.is_kubeconfig('{"kind":"Config"}')
    assert not redact.is_kubeconfig("kind: ConfigMap\n")


def test_a_long_line_takes_no_time() -> None:
    assert len(redact.text("a" * 2_000_000)) == 2_000_000
