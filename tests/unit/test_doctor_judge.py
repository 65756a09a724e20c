"""The doctor's judgements: from facts to level and words. What finds the facts is tested in a lab."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from ovsnet.config import Datapath
from ovsnet.doctor.finding import Finding, Level
from ovsnet.doctor.judge import agent, cni, kernel, peers, switch
from ovsnet.doctor.judge.kernel import Disk, Files
from ovsnet.doctor.judge.peers import Echo, PeerLook, Tcp
from ovsnet.doctor.judge.switch import Socket

OK, WARNING, FAULT = Level.OK, Level.WARNING, Level.FAULT
MIB = 1 << 20
REMOTE = "unix:/run/openvswitch/db.sock"
NODE, PEER = ipaddress.ip_address("192.0.2.11"), ipaddress.ip_address("192.0.2.12")
GATEWAY, FAR = ipaddress.ip_address("10.244.1.1"), ipaddress.ip_address("10.244.2.1")


def expect(finding: Finding, level: Level, *words: str) -> None:
    assert finding.level is level, finding
    for word in words:
        assert word in finding.seen + finding.todo, finding
    # What is not well always says what to do, and only that.
    assert bool(finding.todo) == (level is not OK), finding


def worst(findings: Sequence[Finding]) -> Finding:
    order = [OK, WARNING, FAULT]
    return max(findings, key=lambda finding: order.index(finding.level))


def unix(mode: int = 0o750, folder: int = 0o755, uid: int = 0, kind: str = "socket") -> Socket:
    return Socket(path="/run/x.sock", kind=kind, uid=uid, mode=mode, folder_mode=folder)


# --- Open vSwitch --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("socket", "trouble", "level", "words"),
    [
        (unix(), None, OK, ["0750"]),
        (None, None, OK, [REMOTE]),
        (unix(), "refused", FAULT, ["refused", "systemctl"]),
        (unix(kind=""), "refused", FAULT, ["no socket"]),
        (unix(0o777), None, WARNING, ["0777", "chmod"]),
        (unix(0o777, 0o700), None, OK, []),
    ],
)
def test_ovsdb(socket: Socket | None, trouble: str | None, level: Level, words: list[str]) -> None:
    expect(switch.ovsdb(REMOTE, socket, trouble), level, *words)


@pytest.mark.parametrize(
    ("trouble", "version", "told", "level", "words"),
    [
        (None, "3.1.0", "ovs-vswitchd (Open vSwitch) 3.1.0\n", OK, ["3.1.0"]),
        (None, None, "ovs-vswitchd (Open vSwitch) 3.1.0\n", OK, ["3.1.0"]),
        (None, "3.1.0", "ovs-vswitchd (Open vSwitch) 3.3.1\n", WARNING, ["3.1.0", "3.3.1", "restart"]),
        ("no pid file", "3.1.0", "", FAULT, ["no pid file"]),
    ],
)
def test_vswitchd(
    trouble: str | None, version: str | None, told: str, level: Level, words: list[str]
) -> None:
    expect(switch.vswitchd(trouble, version, told), level, *words)


BOTH = ("netdev", "system")


@pytest.mark.parametrize(
    ("wanted", "bridge", "offered", "has_kernel", "alive", "level", "word"),
    [
        (Datapath.AUTO, "netdev", BOTH, False, True, OK, "netdev"),
        (Datapath.AUTO, "system", BOTH, True, True, OK, "system"),
        (Datapath.AUTO, "", BOTH, True, True, OK, "system"),
        (Datapath.SYSTEM, "system", BOTH, False, True, FAULT, "modprobe"),
        (Datapath.AUTO, "system", BOTH, False, True, FAULT, "modprobe"),
        (Datapath.AUTO, None, BOTH, True, True, WARNING, "no bridge"),
        (Datapath.AUTO, "system", ("netdev",), True, True, FAULT, "offered"),
        (Datapath.AUTO, "system", ("netdev",), True, False, OK, "system"),
        (Datapath.NETDEV, "system", BOTH, True, True, WARNING, "netdev"),
    ],
)
def test_datapath(
    wanted: Datapath,
    bridge: str | None,
    offered: Sequence[str],
    has_kernel: bool,
    alive: bool,
    level: Level,
    word: str,
) -> None:
    expect(switch.datapath(wanted, bridge, offered, has_kernel, alive), level, word)


def test_restore_wait_is_a_fault_only_when_nobody_will_clear_it() -> None:
    command = "ovs-vsctl remove Open_vSwitch . other_config flow-restore-wait"
    expect(switch.restore_wait(False, False), OK)
    expect(switch.restore_wait(True, True), OK)
    expect(switch.restore_wait(True, False), FAULT, command)


def test_bridge_ports_and_flows() -> None:
    expect(switch.bridge("br-int", True, True, True), OK, "br-int")
    expect(switch.bridge("br-int", False, False, True), FAULT, "log")
    expect(switch.bridge("br-int", False, False, False), FAULT, "start the agent")
    expect(switch.bridge("br-int", True, False, True), FAULT, "external_ids:ovsnet=bridge")
    expect(switch.ports(3, {}), OK, "3")
    expect(switch.ports(9, {f"p{number}": "no such device" for number in range(9)}), FAULT, "p0", "4 more")
    expect(switch.flows(7, False), OK, "7")
    expect(switch.flows(0, True), FAULT, "log")
    expect(switch.flows(0, False), FAULT, "start the agent")
    expect(switch.flows(0, True, "did not answer"), FAULT, "did not answer", "restart")


# --- agent, configuration, manifests -------------------------------------------------------------


def test_agent() -> None:
    expect(agent.answers("/run/x", {"ready": True}), OK)
    expect(agent.answers("/run/x", {"ready": False, "trouble": "no store"}), FAULT, "no store")
    expect(agent.answers("/run/x", None), FAULT, "/run/x", "systemctl")


@pytest.mark.parametrize(
    ("socket", "level", "word"),
    [
        (unix(0o600), OK, "0600"),
        (unix(0o660), FAULT, "chmod"),
        (unix(0o600, uid=1000), FAULT, "1000"),
        (unix(kind="other"), FAULT, "no socket"),
        (unix(kind=""), FAULT, "not there"),
    ],
)
def test_agents_socket(socket: Socket, level: Level, word: str) -> None:
    expect(agent.socket(socket), level, word)


def test_configuration_and_manifests() -> None:
    expect(agent.configuration("a.yaml", None, ()), OK, "a.yaml")
    expect(agent.configuration("a.yaml", None, (), True), WARNING, "has changed", "restart the agent")
    expect(agent.configuration("a.yaml", "a.yaml: 1 problem", ["line 3: vni"]), FAULT, "line 3: vni")
    expect(agent.manifests(2, {})[0], OK, "2")
    wrong = agent.manifests(2, {"b.yaml": "not YAML", "c.yaml": "no name"})
    assert [finding.seen for finding in wrong] == ["b.yaml: not YAML", "c.yaml: no name"]
    expect(wrong[0], FAULT)
    expect(agent.objects(2, {})[0], OK, "2")
    wrong = agent.objects(2, {"Service default/web": "10.244.1.7 lies in podCIDRs", "Node b": "no ranges"})
    expect(wrong[0], FAULT, "Node b: no ranges", "correct the object")
    expect(wrong[1], WARNING, "Service default/web: 10.244.1.7", "correct the object")
    expect(agent.unread("no folder", "is it there?"), FAULT, "no folder", "is it there?", "store.file")
    expect(agent.remembered("a", 2, (), None)[0], WARNING, "not looked at", "a and 2 peers")
    expect(agent.remembered("a", None, (), None)[0], WARNING, "not looked at", "gateway and peers")
    expect(agent.remembered("a", 2, ["overlaps"], None)[0], FAULT, "overlaps")
    expect(agent.remembered("a", None, (), "too small")[0], FAULT, "too small")
    expect(agent.topology("a", True, (), None)[0], OK)
    expect(agent.topology("a", True, ["overlaps"], None)[0], FAULT, "overlaps")
    expect(agent.topology("a", False, (), None)[0], WARNING, "Node object a")
    expect(agent.topology("a", True, (), "no ranges")[0], FAULT, "no ranges")
    assert agent.published(()) == []
    expect(agent.published(["node b publishes 1430"])[0], WARNING, "node b publishes 1430", "in a minute")


# --- CNI -----------------------------------------------------------------------------------------

OURS = '{"name": "ovsnet", "plugins": [{"type": "ovsnet", "agentSocket": "/run/x"}, {"type": "portmap"}]}'
THEIRS = '{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}'


@pytest.mark.parametrize(
    ("files", "binaries", "level", "words"),
    [
        ({"10-ovsnet.conflist": OURS}, ["ovsnet", "portmap"], OK, ["10-ovsnet.conflist"]),
        ({"10-ovsnet.conflist": OURS, "README": "", "x.conflist.bak": ""}, ["portmap"], OK, []),
        ({"10-ovsnet.conflist": OURS}, ["ovsnet"], FAULT, ["portmap", "/opt/cni/bin"]),
        ({"10-ovsnet.conflist": OURS, "05-calico.conflist": THEIRS}, ["portmap"], FAULT, ["05-calico", "mv"]),
        ({"10-ovsnet.conflist": OURS, "05-broken.conf": "{"}, ["portmap"], FAULT, ["05-broken.conf"]),
        ({"10-ovsnet.conflist": OURS, "87-podman.conflist": THEIRS}, ["portmap"], WARNING, ["87-podman"]),
        ({"05-calico.conflist": THEIRS}, [], FAULT, ["05-calico", "bootstrap.sh"]),
        ({"10-ovsnet.conflist": "{"}, [], FAULT, ["10-ovsnet.conflist"]),
        ({"10-ovsnet.conflist": "[]", "a.json": '{"plugins": 3}'}, [], FAULT, []),
        ({}, [], FAULT, ["no file"]),
        ({"10-ovsnet.conflist": OURS.replace("/run/x", "/run/y")}, ["portmap"], FAULT, ["/run/y", "/run/x"]),
    ],
)
def test_networks(files: dict[str, str], binaries: list[str], level: Level, words: list[str]) -> None:
    expect(worst(cni.networks(files, binaries, "/run/x")), level, *words)


def test_cni_executable() -> None:
    expect(cni.executable(True, True), OK)
    expect(cni.executable(True, False), FAULT, "chmod")
    expect(cni.executable(False, False), FAULT, "bootstrap.sh")


@pytest.mark.parametrize(
    ("links", "chains", "level", "word"),
    [
        (["lo", "eth0", "ovsnet0", "pod-12345678", "docker0", "caliper"[:3]], ["forward"], OK, "none"),
        (["cali0"], [], FAULT, "Calico"),
        (["cali12345"], [], FAULT, "cali12345"),
        (["tunl0", "ip6tnl0", "gre0"], [], OK, "none"),
        (["vxlan.calico"], [], FAULT, "Calico"),
        (["cni0"], [], FAULT, "ip link delete cni0"),
        (["flannel.1"], [], FAULT, "flannel"),
        (["weave"], [], FAULT, "Weave"),
        (["antrea-gw0"], [], FAULT, "Antrea"),
        (["ovn-k8s-mp0"], [], FAULT, "OVN"),
        (["cilium_host"], [], FAULT, "Cilium"),
        (["kube-ipvs0"], ["KUBE-SERVICES"], OK, "kube-proxy"),
        ([], ["cali-FORWARD"], WARNING, "Calico"),
        ([], ["FLANNEL-POSTRTG"], WARNING, "flannel"),
        ([], ["WEAVE-NPC"], WARNING, "Weave"),
    ],
)
def test_leftovers(links: list[str], chains: list[str], level: Level, word: str) -> None:
    expect(worst(cni.leftovers(links, chains)), level, word)


# --- the kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holders", "level", "word"),
    [
        ([], OK, "free"),
        (["kernel", "kernel"], OK, "kernel"),
        (["ovs-vswitchd"], OK, "ovs-vswitchd"),
        (["python3", "kernel"], FAULT, "held by python3"),
    ],
)
def test_udp_port(holders: list[str], level: Level, word: str) -> None:
    expect(kernel.udp_port(4789, holders), level, word)


@pytest.mark.parametrize(
    ("everything", "gateway", "level"),
    [
        (0, 0, OK),
        (0, 2, OK),
        (1, 2, OK),
        (2, 1, OK),
        (1, 0, FAULT),
        (0, 1, FAULT),
        (1, 1, FAULT),
        (1, None, WARNING),
    ],
)
def test_rp_filter_is_the_larger_of_two(everything: int, gateway: int | None, level: Level) -> None:
    expect(kernel.rp_filter(everything, gateway), level)


def test_forwarding_of_the_families_that_pods_have() -> None:
    expect(kernel.forwarding(1, 1, [4, 6]), OK)
    expect(kernel.forwarding(1, 0, [4]), OK)
    expect(kernel.forwarding(0, 1, [6]), OK)
    expect(kernel.forwarding(0, 1, [4, 6]), FAULT, "sysctl -w net.ipv4.ip_forward=1")
    expect(kernel.forwarding(1, 0, [4, 6]), FAULT, "net.ipv6.conf.all.forwarding")
    expect(kernel.forwarding(None, None, [4, 6]), OK)


@pytest.mark.parametrize(
    ("count", "most", "level"),
    [(10, 100, OK), (79, 100, OK), (80, 100, WARNING), (100, 100, FAULT), (None, None, OK), (0, 0, OK)],
)
def test_conntrack(count: int | None, most: int | None, level: Level) -> None:
    expect(kernel.conntrack(count, most), level)


def test_neighbours() -> None:
    expect(kernel.neighbours(4, 1024, 100, 50), OK)
    expect(kernel.neighbours(4, 1024, 110, 900), WARNING, "gc_thresh3=4040")
    expect(kernel.neighbours(6, None, 110, 900), OK)


def test_files_and_inotify() -> None:
    expect(kernel.files([Files(who="the system", used=1, most=100)]), OK)
    scarce = Files(who="ovs-vswitchd", used=90, most=100)
    expect(
        kernel.files([Files(who="the system", used=1, most=100), scarce]), WARNING, "ovs-vswitchd 90 of 100"
    )
    expect(kernel.files([Files(who="ovs-vswitchd", used=100, most=100)]), FAULT, "LimitNOFILE")
    expect(kernel.files([]), OK)
    expect(kernel.inotify(None), OK)
    expect(kernel.inotify("Too many open files"), FAULT, "max_user_instances")


@pytest.mark.parametrize(
    ("free", "size", "level"),
    [
        (500 * MIB, 1000 * MIB, OK),
        (30 * MIB, 1000 * MIB, WARNING),
        (100 * MIB, 100_000 * MIB, WARNING),
        (0, 1000 * MIB, FAULT),
        (0, 0, OK),  # a file system that has no size, such as an overlay's
    ],
)
def test_disk(free: int, size: int, level: Level) -> None:
    expect(kernel.disk(Disk(path="/run", free=free, size=size)), level)


@pytest.mark.parametrize(
    ("now", "synchronised", "level", "word"),
    [
        (2e9, True, OK, "synchronised"),
        (2e9, None, OK, "plausible"),
        (2e9, False, WARNING, "nobody"),
        (1e9, True, WARNING, "slow"),
    ],
)
def test_clock(now: float, synchronised: bool | None, level: Level, word: str) -> None:
    expect(kernel.clock(now, 1.5e9, synchronised), level, word)


# --- peers ---------------------------------------------------------------------------------------


def look(
    underlay: int = 1500, tunnel: int = 1450, tcp: Tcp | None = None, route: str = "eth0", ms: float = 0.3
) -> PeerLook:
    """largest packets that came back by either way"""
    return PeerLook(
        name="node-b",
        remote=PEER,
        route=route,
        route_error="" if route else "there is no route to 192.0.2.12",
        uplink="eth0",
        underlay=Echo(source=NODE, target=PEER, full=1500, largest=underlay, milliseconds=ms),
        tunnels=(Echo(source=GATEWAY, target=FAR, full=1450, largest=tunnel, milliseconds=ms),),
        tcp=(tcp or exchange(kernel=True, kernel_seen=True, software=True),),
    )


def exchange(kernel: bool = False, kernel_seen: bool = False, software: bool = False) -> Tcp:
    return Tcp(source=GATEWAY, target=FAR, kernel=kernel, kernel_seen=kernel_seen, software=software)


@pytest.mark.parametrize(
    ("seen", "levels", "words"),
    [
        (look(), [OK, OK, OK], ["1500 bytes pass", "1450 bytes pass", "checksums are right"]),
        (look(ms=250), [WARNING, WARNING, OK], ["250.0 ms"]),
        (look(route=""), [FAULT], ["no route"]),
        (look(route="eth1"), [WARNING, OK, OK, OK], ["eth1"]),
        (look(0, 0), [FAULT], ["unreachable"]),
        (look(0), [WARNING, OK, OK], ["does not answer pings"]),
        (look(1400, 1350), [FAULT, FAULT, OK], ["1400 bytes do", "1350 bytes do", "mtu: 1350"]),
        (look(1500, 0), [OK, FAULT], ["nothing passes", "UDP port"]),
        (look(tcp=exchange()), [OK, OK, WARNING], ["no SYN was answered"]),
        (look(tcp=exchange(software=True)), [OK, OK, FAULT], ["offload"]),
        (
            look(tcp=exchange(kernel_seen=True, software=True)),
            [OK, OK, FAULT],
            ["answers arrive", "on node-b"],
        ),
    ],
)
def test_peer(seen: PeerLook, levels: list[Level], words: list[str]) -> None:
    found = peers.peer(seen)
    assert [finding.level for finding in found] == levels, found
    text = "\n".join(finding.seen + finding.todo for finding in found)
    for word in words:
        assert word in text
    assert all("node-b" in finding.title for finding in found)


def test_peers_without_time() -> None:
    assert peers.left_out([]) == []
    expect(peers.left_out([f"n{number}" for number in range(7)])[0], WARNING, "7 of them", "--peer")


def test_uplink_and_gateway() -> None:
    expect(peers.uplink("eth0", [NODE], 1500, 1450, 50, ""), OK, "eth0")
    expect(peers.uplink("eth0", [NODE], 1500, 1460, 50, ""), FAULT, "mtu: 1450")
    expect(peers.uplink(None, (), 0, 0, 50, "no interface has the address"), FAULT, "nodeAddress")
    expect(peers.gateway(True, [GATEWAY], 1450, [GATEWAY], 1450), OK)
    expect(peers.gateway(True, [GATEWAY], 1500, [GATEWAY], 1450), FAULT, "MTU 1500, not 1450")
    six = ipaddress.ip_address("fd00::1")
    expect(peers.gateway(True, [GATEWAY], 1450, [GATEWAY, six], 1450), FAULT, "IPv6")
    expect(peers.gateway(False, [], 0, [GATEWAY], 1450), FAULT, "not there")


def test_addresses_that_two_have() -> None:
    expect(peers.claims(NODE, "eth0", []), OK)
    expect(peers.claims(NODE, "eth0", ["02:00:00:00:00:01"]), FAULT, "02:00:00:00:00:01", "arping -D")
    expect(peers.twice({"p1": [GATEWAY], "p2": [FAR]}), OK)
    expect(peers.twice({"p1": [GATEWAY], "p2": [FAR], "p3": [GATEWAY]}), FAULT, "10.244.1.1", "p1, p3")
