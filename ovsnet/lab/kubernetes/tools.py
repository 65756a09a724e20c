"""Programs of the machine that a cluster needs, and the Debian packages that have them.

Never installs any; `bootstrap.sh` does. Called by `build` and `images`.
"""

from __future__ import annotations

import os
import shutil

from ovsnet.lab.spec import LabError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where nodes' daemons look: whoever starts a lab may have no PATH for administrators."""
ON_NODES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "iptables": "iptables",
    "openssl": "openssl",
    "runc": "runc",
}
IN_PODS = {
    "bash": "bash",
    "busybox": "busybox-static",
    "curl": "curl",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "ping": "iputils-ping",
    "ss": "iproute2",
}
"""What test pods have beside agnhost: copies of this machine's."""


def require() -> None:
    """Raises LabError with the packages of all that is missing."""
    missing = sorted({package for tool, package in (ON_NODES | IN_PODS).items() if not find(tool)})
    if missing:
        raise LabError(
            f"programs that a Kubernetes lab needs are missing: {', '.join(missing)}",
            f"apt-get install {' '.join(missing)}",
        )


def find(tool: str) -> str | None:
    """The program's real path: Debian has links to alternatives."""
    path = shutil.which(tool, path=PATH)
    return os.path.realpath(path) if path else None


def path_of(tool: str) -> str:
    """The same. Raises LabError where it is missing."""
    path = find(tool)
    if not path:
        raise LabError(f"{tool} is not installed", f"apt-get install {(ON_NODES | IN_PODS).get(tool, tool)}")
    return path
