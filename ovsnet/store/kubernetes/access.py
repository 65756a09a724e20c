"""Where the API server is and what this agent shows it: a kubeconfig, or the service account of a pod.

Owns nothing but the memory of which files it read: whoever connects asks `Source.changed` first, so that a rotated
certificate, authority or kubeconfig needs no restart. Never connects. Called by `client`.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

from ovsnet.errors import StoreError
from ovsnet.model import Frozen
from ovsnet.store import documents

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_AGE = 60.0
"""Seconds after which a token's file is read again: kubelet replaces it long before the token ends."""


class Access(Frozen):
    """A server and how to be believed by it. server_name: whose certificate it shows, "" for that of its address."""

    server: str
    server_name: str = ""
    proxy: str = ""
    authority: str = ""
    """PEM; "": the system's authorities."""
    insecure: bool = False
    certificate: str = ""
    key: str = ""
    """PEM."""
    token: str = ""
    token_file: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises StoreError when certificates are no certificates."""
        try:
            context = ssl.create_default_context(cadata=self.authority or None)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                _show(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise StoreError(
                f"Kubernetes API {self.server}: its certificate authority, or our certificate or key, can't be read:"
                f" {error}",
                "all three are PEM; correct the kubeconfig or the files it names",
            ) from error
        return context


class Source:
    """What the configuration says about the API server, and the files that follow from it."""

    def __init__(
        self,
        kubeconfig: str | None = None,
        server: str | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        service_account: str = SERVICE_ACCOUNT,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._server = server
        self._environment = environment
        self._account = service_account
        self._stamps: dict[str, tuple[int, int, int] | None] = {}
        self._token = ""
        self._token_read = 0.0

    def changed(self) -> bool:
        """Whether a file that `load` read is another one now; one that is missing just now does not count."""
        return any(
            (stamp := _stamp(path)) is not None and stamp != known for path, known in self._stamps.items()
        )

    def load(self) -> Access:
        """Reads everything anew. Raises StoreError."""
        self._stamps = {}
        self._token_read = 0.0
        path = self._kubeconfig or next(filter(None, self._environment.get("KUBECONFIG", "").split(":")), "")
        return self._from_kubeconfig(path) if path else self._from_service_account()

    def forget(self) -> None:
        """The server does not believe us: files are read again, whatever their stamps say."""
        self._stamps = dict.fromkeys(self._stamps)
        self._token_read = 0.0

    def token(self, access: Access) -> str:
        """What to send as bearer token; "" if nothing. An old one is better than none while its file is being replaced.

        Raises StoreError when there never was one.
        """
        if not access.token_file:
            return access.token
        now = time.monotonic()
        if not self._token_read or now - self._token_read > _TOKEN_AGE:
            try:
                self._token = Path(access.token_file).read_text("utf-8").strip()
                self._token_read = now
            except (OSError, UnicodeDecodeError) as error:
                if not self._token:
                    raise _unreadable(access.token_file, error) from error
        return self._token

    def _from_service_account(self) -> Access:
        server = self._server
        if not server:
            host = self._environment.get("KUBERNETES_SERVICE_HOST", "")
            port = self._environment.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise StoreError(
                    "store.kubernetes: no kubeconfig is given and this is no pod",
                    "set store.kubernetes.kubeconfig, or KUBECONFIG in the agent's environment",
                )
            server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return Access(
            server=server,
            authority=self._read(f"{self._account}/ca.crt"),
            token_file=f"{self._account}/token",
        )

    def _from_kubeconfig(self, path: str) -> Access:
        config = _Kubeconfig(path, self._read(path))
        cluster, user = config.chosen()
        server = self._server or config.text(cluster, "server")
        if not server:
            raise config.fault("the cluster of the current context has no server")
        for key in ("exec", "auth-provider", "username"):
            if user.get(key):
                raise config.fault(f"the user of the current context has `{key}`, which the agent can't use")
        token_file = config.path(user, "tokenFile")
        return Access(
            server=server,
            server_name=config.text(cluster, "tls-server-name"),
            proxy=config.text(cluster, "proxy-url"),
            authority=self._pem(config, cluster, "certificate-authority"),
            insecure=cluster.get("insecure-skip-tls-verify") is True,
            certificate=self._pem(config, user, "client-certificate"),
            key=self._pem(config, user, "client-key"),
            token="" if token_file else config.text(user, "token"),
            token_file=token_file,
        )

    def _pem(self, config: _Kubeconfig, entry: Mapping[str, object], key: str) -> str:
        if inline := config.text(entry, f"{key}-data"):
            try:
                return base64.b64decode(inline, validate=True).decode("utf-8")
            except (binascii.Error, ValueError) as error:
                raise config.fault(f"{key}-data is not base64 of text") from error
        path = config.path(entry, key)
        return self._read(path) if path else ""

    def _read(self, path: str) -> str:
        # Stamp first, then read: what is replaced in between is read again.
        self._stamps[path] = _stamp(path)
        try:
            return Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, error) from error


class _Kubeconfig:
    """A kubeconfig, as kubectl reads it: what its current context names."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        try:
            found = documents.read(text)
        except documents.Mistake as mistake:
            raise self.fault(str(mistake)) from mistake
        value = found[0].value if found else None
        if not isinstance(value, dict):
            raise self.fault("it says nothing")
        self._value: dict[str, object] = value

    def fault(self, what: str) -> StoreError:
        return StoreError(
            f"kubeconfig {self._path}: {what}",
            "it needs a current-context with a cluster, and a user with a certificate, token or tokenFile",
        )

    def chosen(self) -> tuple[dict[str, object], dict[str, object]]:
        """Cluster and user of the current context."""
        current = self._value.get("current-context")
        if not isinstance(current, str) or not current:
            raise self.fault("there is no current-context")
        context = self._named("contexts", "context", current)
        user = context.get("user")
        return self._named("clusters", "cluster", context.get("cluster")), (
            self._named("users", "user", user) if user else {}
        )

    def text(self, entry: Mapping[str, object], key: str) -> str:
        value = entry.get(key)
        if value is not None and not isinstance(value, str):
            raise self.fault(f"{key} must be text")
        return value or ""

    def path(self, entry: Mapping[str, object], key: str) -> str:
        """A path that is written as seen from the kubeconfig."""
        text = self.text(entry, key)
        return os.path.join(os.path.dirname(os.path.abspath(self._path)), text) if text else ""

    def _named(self, section: str, key: str, name: object) -> dict[str, object]:
        entries = self._value.get(section)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(key), dict):
                return entry[key]  # type: ignore[no-any-return]
        raise self.fault(f"{section} has no {name if isinstance(name, str) else 'such name'}")


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Has the context show the certificate. ssl takes files only: one in memory, so that no key comes to a disk."""
    descriptor = os.memfd_create("ovsnet-certificate", os.MFD_CLOEXEC)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{certificate.rstrip()}\n{key}")
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)


def _no_password() -> str:
    """An agent has nobody to ask."""
    raise ValueError("the key is encrypted; give one that is not")


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _unreadable(path: str, error: OSError | UnicodeDecodeError) -> StoreError:
    why = error.strerror if isinstance(error, OSError) else "not text"
    return StoreError(f"{path}: {why}", "the agent needs it to talk to the Kubernetes API")
