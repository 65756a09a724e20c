"""A few requests to an API server, as the kubeconfig's user or with a token. Called by test_manifest_access."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

PLACES = {
    "Namespace": "api/v1/namespaces",
    "Node": "api/v1/nodes",
    "Service": "api/v1/namespaces/{namespace}/services",
    "NetworkPolicy": "apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "Pod": "api/v1/namespaces/{namespace}/pods",
    "ServiceAccount": "api/v1/namespaces/{namespace}/serviceaccounts",
    "ConfigMap": "api/v1/namespaces/{namespace}/configmaps",
    "ClusterRole": "apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "DaemonSet": "apis/apps/v1/namespaces/{namespace}/daemonsets",
    "ValidatingAdmissionPolicy": "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}

_REQUEST = """
import json, ssl, sys, tempfile, urllib.error, urllib.request
given = json.load(sys.stdin)
tls = ssl.create_default_context(cadata=given["ca"])
headers = {"Content-Type": given["kind"], "Accept": "application/json"}
if given["token"]:
    headers["Authorization"] = "Bearer " + given["token"]
if given["user"]:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(given["user"])
        file.flush()
        tls.load_cert_chain(file.name)
data = None if given["body"] is None else given["body"].encode()
request = urllib.request.Request(given["url"], data, headers, method=given["method"])
try:
    with urllib.request.urlopen(request, context=tls, timeout=30) as answer:
        code, text = answer.status, answer.read()
except urllib.error.HTTPError as error:
    code, text = error.code, error.read()
try:
    said = json.loads(text)
except ValueError:
    said = {"message": text.decode()}  # who has no such path says it in plain words
print(json.dumps([code, said]))
"""


class Refused(Exception):
    """What the API server said. code: HTTP's."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{code}: {words}")
        self.code = code


class Api:
    """run: runs a command with an input where the API server can be reached. token: whose requests these are, else
    the kubeconfig's user's."""

    def __init__(self, kubeconfig: Path, run: Callable[[list[str], str], str], token: str = "") -> None:
        self.kubeconfig = kubeconfig
        self.run = run
        self.token = token

    def with_token(self, token: str) -> Api:
        return Api(self.kubeconfig, self.run, token)

    def call(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        """The answer. Raises Refused."""
        document = yaml.safe_load(self.kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        request = {
            "method": method,
            "url": f"{cluster['server'].rstrip('/')}/{path}",
            "body": None if body is None else json.dumps(body),
            "kind": kind,
            "ca": _text(cluster, "certificate-authority"),
            "token": self.token,
            "user": "" if self.token else _text(user, "client-certificate") + _text(user, "client-key"),
        }
        code, answer = json.loads(self.run([sys.executable, "-I", "-c", _REQUEST], json.dumps(request)))
        if code >= 300:
            raise Refused(code, answer.get("message", ""))
        return answer

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


def _text(mapping: dict[str, str], key: str) -> str:
    """A certificate or key, from its file or the kubeconfig itself."""
    if key in mapping:
        return Path(mapping[key]).read_text()
    return base64.b64decode(mapping[f"{key}-data"]).decode()
