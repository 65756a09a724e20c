"""Where the API server is and what it is shown: kubeconfigs, service accounts, and files that change."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path

import pytest

from ovsnet.errors import StoreError
from ovsnet.store.kubernetes.access import Access, Source

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters:
- name: other
  cluster: {server: "https://198.51.100.1"}
- name: main
  cluster: {server: "https://192.0.2.1:6443", certificate-authority: pki/ca.crt, tls-server-name: kubernetes}
users:
- name: agent
  user: {tokenFile: token}
contexts:
- name: here
  context: {cluster: main, user: agent}
current-context: here
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.crt").write_text("AUTHORITY")
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    return tmp_path


def test_a_kubeconfig_with_paths_of_its_own(folder: Path) -> None:
    source = Source(str(folder / "kubeconfig"))
    access = source.load()
    assert access == Access(
        server="https://192.0.2.1:6443",
        server_name="kubernetes",
        authority="AUTHORITY",
        token_file=str(folder / "token"),
    )
    assert source.token(access) == "secret"
    assert Source(str(folder / "kubeconfig"), "https://192.0.2.9").load().server == "https://192.0.2.9"
    assert Source(environment={"KUBECONFIG": f"{folder}/kubeconfig:/other"}).load() == access


def test_what_stands_in_the_kubeconfig_itself(folder: Path) -> None:
    def data(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    text = KUBECONFIG.replace(
        "certificate-authority: pki/ca.crt", f"certificate-authority-data: {data('CA')}"
    )
    user = f"{{client-certificate-data: {data('CERT')}, client-key-data: {data('KEY')}, token: inline}}"
    (folder / "kubeconfig").write_text(text.replace("{tokenFile: token}", user))
    source = Source(str(folder / "kubeconfig"))
    access = source.load()
    assert (access.authority, access.certificate, access.key) == ("CA", "CERT", "KEY")
    assert source.token(access) == "inline"


def test_a_pods_service_account(folder: Path) -> None:
    (folder / "ca.crt").write_text("POD")
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    access = Source(environment=environment, service_account=str(folder)).load()
    assert access == Access(server="https://10.96.0.1:443", authority="POD", token_file=str(folder / "token"))
    six = Source(environment={"KUBERNETES_SERVICE_HOST": "fd00::1"}, service_account=str(folder)).load()
    assert six.server == "https://[fd00::1]:443"
    alone = Source(server="https://192.0.2.1:6443", environment={}, service_account=str(folder)).load()
    assert alone.server == "https://192.0.2.1:6443"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("current-context: here", "", "there is no current-context"),
        ("current-context: here", "current-context: there", "contexts has no there"),
        ("cluster: main,", "cluster: away,", "clusters has no away"),
        ("user: agent}", "user: nobody}", "users has no nobody"),
        ('server: "https://192.0.2.1:6443", ', "", "has no server"),
        ("{tokenFile: token}", "{exec: {command: aws}}", "has `exec`, which the agent can't use"),
        ("{tokenFile: token}", "{client-certificate-data: '%'}", "client-certificate-data is not base64"),
        ("{tokenFile: token}", "{token: [a]}", "token must be text"),
        ("pki/ca.crt", "pki/none.crt", "pki/none.crt: No such file or directory"),
        ("apiVersion: v1", "apiVersion: [v1", "not YAML"),
        (KUBECONFIG, "", "it says nothing"),
    ],
)
def test_a_mistake_is_named_with_its_file(folder: Path, old: str, new: str, expected: str) -> None:
    assert old in KUBECONFIG
    (folder / "kubeconfig").write_text(KUBECONFIG.replace(old, new))
    with pytest.raises(StoreError) as caught:
        Source(str(folder / "kubeconfig")).load()
    assert expected in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.hint


def test_no_configuration_at_all_says_what_to_do() -> None:
    with pytest.raises(StoreError, match=r"set store\.kubernetes\.kubeconfig"):
        Source(environment={}).load()


def test_files_that_are_replaced_are_noticed(folder: Path) -> None:
    source = Source(str(folder / "kubeconfig"))
    source.load()
    assert not source.changed()
    (folder / "new").write_text("AUTHORITY OF TOMORROW")
    (folder / "pki" / "ca.crt").unlink()
    # Half replaced: what was read stays in force.
    assert not source.changed()
    (folder / "new").rename(folder / "pki" / "ca.crt")
    assert source.changed()
    assert source.load().authority == "AUTHORITY OF TOMORROW"
    assert not source.changed()
    source.forget()
    assert source.changed()


def test_a_token_is_kept_while_its_file_is_away(folder: Path) -> None:
    source = Source(str(folder / "kubeconfig"))
    access = source.load()
    assert source.token(access) == "secret"
    (folder / "token").write_text("next")
    assert source.token(access) == "secret"
    source.forget()
    assert source.token(access) == "next"
    (folder / "token").unlink()
    source.forget()
    assert source.token(access) == "next"
    with pytest.raises(StoreError, match="token: No such file"):
        Source(str(folder / "kubeconfig")).token(access)


def test_certificates_that_are_none(folder: Path) -> None:
    with pytest.raises(StoreError, match="can't be read"):
        Source(str(folder / "kubeconfig")).load().context()
    with pytest.raises(StoreError, match="can't be read"):
        Access(server="https://a", certificate="no", key="no").context()
    assert Access(server="https://a", insecure=True).context().verify_mode is ssl.CERT_NONE
    assert Access(server="https://a").context().verify_mode is ssl.CERT_REQUIRED
