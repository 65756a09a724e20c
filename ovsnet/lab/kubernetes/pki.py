"""The cluster's certificates, and the kubeconfigs that carry them; made with openssl, each once.

Two authorities: `ca` for everybody, `front-proxy-ca` for the API server as it speaks for others. Nobody keeps a key
that is not needed: nodes get their own alone. Called by `control` and `node`.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from ovsnet.lab.spec import LabError

CA, FRONT_PROXY_CA = "ca", "front-proxy-ca"
SERVICE_ACCOUNTS = "sa"
_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
_DAYS = "3650"


class Pki:
    """The folder with all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """The authorities and the key that signs service accounts' tokens."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "openssl.cnf").write_text(_CONFIG)
        for name in (CA, FRONT_PROXY_CA):
            extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
            self._make(name, [], f"/CN={name}", extensions)
        public = self.folder / f"{SERVICE_ACCOUNTS}.pub"
        if not public.exists():
            key = str(self.folder / f"{SERVICE_ACCOUNTS}.key")
            _openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", key])
            _openssl(["pkey", "-in", key, "-pubout", "-out", f"{public}.new"])
            Path(f"{public}.new").rename(public)

    def certificate(self, name: str, subject: str, names: Sequence[str] = (), authority: str = CA) -> None:
        """NAME.crt and NAME.key, for clients and servers. names: subjectAltName entries."""
        signing = [
            "-CA",
            str(self.folder / f"{authority}.crt"),
            "-CAkey",
            str(self.folder / f"{authority}.key"),
        ]
        extensions = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth,clientAuth"]
        if names:
            extensions.append(f"subjectAltName={','.join(names)}")
        self._make(name, signing, subject, extensions)

    def kubeconfig(self, name: str, subject: str, server: str) -> str:
        """The text of a kubeconfig that needs no other file, for a user of that subject."""
        self.certificate(name, subject)
        cluster = {"server": server, "certificate-authority-data": self._encoded(f"{CA}.crt")}
        user = {
            "client-certificate-data": self._encoded(f"{name}.crt"),
            "client-key-data": self._encoded(f"{name}.key"),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
            "current-context": "lab",
        }
        return str(yaml.safe_dump(document, sort_keys=False))

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def _encoded(self, name: str) -> str:
        return base64.b64encode(self.read(name)).decode()

    def _make(self, name: str, signing: Sequence[str], subject: str, extensions: Sequence[str]) -> None:
        """The certificate comes last: where it is, the key is too."""
        certificate = self.folder / f"{name}.crt"
        if certificate.exists():
            return
        new = self.folder / f"{name}.crt.new"
        _openssl(
            [
                *("req", "-x509", "-config", str(self.folder / "openssl.cnf"), *_KEY, "-days", _DAYS),
                *("-subj", subject, *signing),
                *(part for extension in extensions for part in ("-addext", extension)),
                *("-keyout", str(self.folder / f"{name}.key"), "-out", str(new)),
            ]
        )
        new.rename(certificate)


def _openssl(arguments: Sequence[str]) -> None:
    try:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise LabError("openssl is not installed", "apt-get install openssl") from error
    if done.returncode:
        raise LabError(
            f"`openssl {arguments[0]}` failed: {done.stderr.strip()}", "OpenSSL 3.0 or newer does it"
        )
