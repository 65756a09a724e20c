"""A few requests to an API server, as the kubeconfig's user or with a token. Called by test_manifest_access."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

PLACES = {
    "Namespace": "api/v1/namespaces",
    "Node": "api/v1/nodes",
    "Pod": "api/v1/namespaces/{namespace}/pods",
    "ServiceAccount": "api/v1/namespaces/{namespace}/serviceaccounts",
    "ConfigMap": "api/v1/namespaces/{namespace}/configmaps",
    "ClusterRole": "apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "DaemonSet": "apis/apps/v1/namespaces/{namespace}/daemonsets",
    "ValidatingAdmissionPolicy": "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}


class Refused(Exception):
    """What the API server said. code: HTTP's."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{code}: {words}")
        self.code = code


class Api:
    """token: whose requests these are; the kubeconfig's user without."""

    def __init__(self, kubeconfig: Path, token: str | None = None) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self.server = cluster["server"].rstrip("/")
        self.token = token
        with tempfile.TemporaryDirectory() as folder:
            self.tls = ssl.create_default_context(cafile=_file(cluster, "certificate-authority", folder))
            if token is None:
                chain = _file(user, "client-certificate", folder), _file(user, "client-key", folder)
                self.tls.load_cert_chain(*chain)

    def call(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        """The answer. Raises Refused."""
        headers = {"Content-Type": kind, "Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server}/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.load(error).get("message", "")) from None

    def apply(self, document: dict[str, Any], options: str = "") -> Any:
        """As `kubectl apply --server-side --validate=strict`."""
        query = f"?fieldManager=test&force=true&fieldValidation=Strict{options}"
        return self.call("PATCH", place(document) + query, document, "application/apply-patch+yaml")

    def patch(self, path: str, change: dict[str, Any]) -> Any:
        return self.call("PATCH", path, change, "application/merge-patch+json")

    def remove(self, document: dict[str, Any]) -> None:
        try:
            self.call("DELETE", place(document) + "?gracePeriodSeconds=0")
        except Refused as refused:
            if refused.code != 404:
                raise


def place(document: dict[str, Any]) -> str:
    """Where the object is."""
    metadata = document["metadata"]
    folder = PLACES[document["kind"]].format(namespace=metadata.get("namespace", ""))
    return f"{folder}/{metadata['name']}"


def _file(mapping: dict[str, str], key: str, folder: str) -> str:
    if key in mapping:
        return mapping[key]
    path = Path(folder, key)
    path.write_bytes(base64.b64decode(mapping[f"{key}-data"]))
    return str(path)
