"""Two clusters beside one another, and nothing of one that was removed, or cut short, is left on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from kube_world import namespace, running_cluster, server

from ovsnet.lab import limits
from ovsnet.lab.kubernetes import files
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.state import DISK, ROOT

PROJECT = Path(__file__).parents[2]
UP = (
    "import sys; from ovsnet.lab.kubernetes.cluster import Cluster; from ovsnet.lab.spec import LabSpec; "
    "Cluster(sys.argv[1], LabSpec(kubernetes=True, pods=0, nodes=1)).up()"
)


def leftovers(name: str) -> list[str]:
    """What names the lab: cgroups, mounts, folders and command lines."""
    # Cgroups of other labs go meanwhile, which `os.walk` minds not.
    folders = (os.path.join(root, each) for root, below, _ in os.walk("/sys/fs/cgroup") for each in below)
    found = [path for path in folders if f"ovsnet-lab.{name}." in path]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line]
    found += [str(root / name) for root in (ROOT, DISK) if (root / name).exists()]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue  # ended, and whose child it was has not looked yet
            if name.encode() in (path / "cmdline").read_bytes() + (path / "cgroup").read_bytes():
                found.append(str(path))
        except OSError:
            continue
    return found


def kernel_settings() -> dict[str, str]:
    """Settings of the machine that a kubelet would change."""
    return {name: Path("/proc/sys", name).read_text() for name in files.KERNEL_SETTINGS}


def test_a_second_cluster_comes_and_goes(cluster: Cluster) -> None:
    before = kernel_settings()
    with running_cluster(nodes=1) as other:
        with namespace(other, "short") as short:
            short.start(server("one"))
        assert kernel_settings() == before
        name = other.name
    assert leftovers(name) == []
    assert cluster.missing() == []
    for setting, wanted in limits.SYSCTLS.items():
        assert int(Path("/proc/sys", setting).read_text()) >= wanted, "the first one needs it still"


@pytest.mark.parametrize("seconds", [1.0, 5.0, 9.0])
def test_one_whose_start_was_cut_short_goes_too(cluster: Cluster, seconds: float) -> None:
    """Killed while namespaces, the API server and kubelets come."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen([sys.executable, "-c", UP, name], env=environment)
    time.sleep(seconds)
    process.kill()
    process.wait()
    Cluster(name).down()
    assert leftovers(name) == []
