"""A Kubernetes lab before anything of it runs: addresses, command lines, files, cgroups, limits, what is missing."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest
import yaml

from ovsnet.lab import cgroups, limits
from ovsnet.lab.kubernetes import build, files, plan, tools
from ovsnet.lab.kubernetes.images import Layer
from ovsnet.lab.spec import LabError, LabSpec, node_spec

DUAL = LabSpec(kubernetes=True, pods=0)
FOUR = LabSpec(kubernetes=True, pods=0, families="4", underlay="4")
SIX = LabSpec(kubernetes=True, pods=0, families="6", underlay="6")


def test_pods_are_not_the_labs_to_make() -> None:
    with pytest.raises(LabError, match="starts without pods"):
        LabSpec(kubernetes=True)


def test_nodes_have_the_pods_first_family() -> None:
    with pytest.raises(LabError, match="IPv6"):
        LabSpec(kubernetes=True, pods=0, families="6", underlay="4")


def test_the_api_server_is_found_at_its_own_address() -> None:
    assert plan.api_url(DUAL) == "https://192.0.2.10:6443"
    assert plan.api_url(SIX) == "https://[2001:db8:0:1::10]:6443"
    assert {"IP:192.0.2.10", "IP:10.96.0.1", "IP:fd00:10:96::1", "DNS:kubernetes.default.svc"} <= {
        *plan.api_names(DUAL)
    }


def test_ranges_are_of_the_pods_families() -> None:
    assert "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112" in plan.apiserver(DUAL)
    assert "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48" in plan.controllers(DUAL)
    assert "--node-cidr-mask-size-ipv6=64" in plan.controllers(DUAL)
    assert "--node-cidr-mask-size=24" in plan.controllers(FOUR)
    assert "--cluster-cidr=fd00:10:244::/48" in plan.controllers(SIX)


def test_a_node_has_the_addresses_of_the_underlay() -> None:
    node = node_spec(0)
    assert "--node-ip=192.0.2.11,2001:db8:0:1::11" in plan.kubelet(DUAL, node)
    assert "--node-ip=2001:db8:0:1::11" in plan.kubelet(SIX, node)


def test_the_kubelets_file_and_the_manifests_are_yaml() -> None:
    assert yaml.safe_load(files.kubelet(DUAL))["clusterDNS"] == ["10.96.0.10", "fd00:10:96::a"]
    objects = list(yaml.safe_load_all(files.manifests(SIX)))
    service = next(each for each in objects if each["kind"] == "Service")
    assert (service["spec"]["clusterIP"], service["spec"]["ipFamilyPolicy"]) == (
        "fd00:10:96::a",
        "SingleStack",
    )


def fake_go(folder: Path, version: str) -> None:
    program = folder / "go"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)


def test_no_go_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"no Go here.*install Go 1\.24"):
        build.find_go(str(tmp_path))


def test_a_go_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_go(tmp_path, "go1.19.8")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=rf"{tmp_path}/go is go1\.19\.8: too old"):
        build.find_go(str(tmp_path))


def test_go_is_found_beside_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bin").mkdir()
    fake_go(tmp_path / "bin", "go1.26.8")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert build.find_go(str(tmp_path / "bin")) == f"{tmp_path}/bin/go"


def test_another_go_builds_anew(tmp_path: Path) -> None:
    digests = set()
    for version in ("go1.25.1", "go1.26.8"):
        fake_go(tmp_path, version)
        digests.add(build.digest(str(tmp_path / "go")))
    assert len(digests) == 2


def test_a_layer_has_folders_before_what_is_in_them_and_is_the_same_each_time() -> None:
    def made() -> bytes:
        layer = Layer()
        layer.add("/usr/bin/program", b"text", 0o755)
        layer.add("bin/link", b"/usr/bin/program", 0o777, kind=tarfile.SYMTYPE)
        return layer.tar()

    assert made() == made()
    with tarfile.open(fileobj=io.BytesIO(made())) as archive:
        assert archive.getnames() == ["usr", "usr/bin", "usr/bin/program", "bin", "bin/link"]
        assert archive.getmember("bin/link").linkname == "/usr/bin/program"


@pytest.mark.parametrize(
    ("controllers", "at", "own", "folder", "leaf", "data"),
    [
        ("memory", "memory", "/some/job", "memory/some/job/x", "memory/some/job/x", "memory"),
        ("cpu,cpuacct", "cpu,cpuacct", "/", "cpu,cpuacct/x", "cpu,cpuacct/x", "cpu,cpuacct"),
        ("name=systemd", "systemd", "/", "systemd/x", "systemd/x", "none,name=systemd"),
        ("", "unified", "/", "unified/x", "unified/x", ""),
        ("", "", "/user.slice/session", "x", "x/init", ""),
    ],
    ids=["version 1", "two together", "systemd", "version 2 beside version 1", "version 2"],
)
def test_cgroups_are_below_our_own(
    controllers: str, at: str, own: str, folder: str, leaf: str, data: str
) -> None:
    found = cgroups.hierarchy("x", controllers, at, own)
    root = "/sys/fs/cgroup"
    assert (found["folder"], found["leaf"], found["data"]) == (f"{root}/{folder}", f"{root}/{leaf}", data)
    assert found["aliases"] == (["cpu", "cpuacct"] if "," in controllers else [])


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Settings of a machine as Linux has them at first."""
    for name in limits.SYSCTLS:
        (tmp_path / "proc" / name).parent.mkdir(parents=True)
        (tmp_path / "proc" / name).write_text("128\n")
    return tmp_path / "proc"


def current(proc: Path) -> set[int]:
    return {int((proc / name).read_text()) for name in limits.SYSCTLS}


def test_limits_last_as_long_as_the_last_lab(proc: Path, tmp_path: Path) -> None:
    for lab in ("one", "two"):
        (tmp_path / lab).mkdir()
        limits.claim(tmp_path, lab, proc)
    assert current(proc) == {*limits.SYSCTLS.values()}
    limits.release(tmp_path, "one", proc)
    assert current(proc) == {*limits.SYSCTLS.values()}
    limits.release(tmp_path, "never there", proc)
    limits.release(tmp_path, "two", proc)
    assert current(proc) == {128}
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "proc"}


def test_a_limit_that_somebody_set_meanwhile_stays(proc: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    limits.claim(tmp_path, "one", proc)
    for name in limits.SYSCTLS:
        (proc / name).write_text("9999")
    limits.release(tmp_path, "one", proc)
    assert current(proc) == {9999}


def test_bootstrap_installs_what_is_needed() -> None:
    text = (Path(__file__).parents[2] / "bootstrap.sh").read_text()
    found = re.findall(r"\b([a-z0-9-]+):([a-z0-9-]+)\b", text)
    missing = {*(tools.ON_NODES | tools.IN_PODS).items()} - {*found} - {("ctr", "containerd")}
    assert not missing


def test_compilers_have_memory_where_there_is_enough_and_nobody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOGC", "GOMEMLIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build, "_MEMORY", 1)
    assert build.environment()["GOMEMLIMIT"] == "1GiB"
    monkeypatch.setenv("GOGC", "100")
    assert "GOMEMLIMIT" not in build.environment()
    monkeypatch.delenv("GOGC")
    monkeypatch.setattr(build, "_MEMORY", 1 << 60)
    assert not {"GOGC", "GOMEMLIMIT"} & build.environment().keys()


def test_the_error_of_a_build_is_told_though_packages_follow(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text(
        "#!/bin/sh\necho '# k8s.io/x'\necho 'x.go:1:2: undefined: y'\nseq -f 'k8s.io/p%g' 99\nexit 1\n"
    )
    go.chmod(0o755)
    with pytest.raises(LabError, match=r"# k8s.io/x\nx.go:1:2: undefined: y \("):
        build._compile(str(go), tmp_path, tmp_path / "log", print)
