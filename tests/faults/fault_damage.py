"""Faults: what is killed, stopped, deleted, cut or filled up, and how each of them ends.

Every function does one thing to one node and leaves its end with the world. Knows nothing of what must hold
afterwards. Called by the state machine, and by scripts that replay what it found.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from pathlib import Path

from cni_world import Cni
from fault_guest import LATE, disturb
from fault_world import PREFIX, World

from ovsnet import names, pipeline
from ovsnet.host import linkchild
from ovsnet.lab.node import AGENT, OVSDB, Node
from ovsnet.lab.nsproc import start_time
from ovsnet.lab.pods import IFNAME, Pod
from ovsnet.lab.spec import DEFAULT
from ovsnet.lab.state import Process
from ovsnet.lab.underlay import BRIDGE, port_of

LINKS = "links"
"""The agent's child process for links."""

HARMS: dict[str, list[str]] = {
    "all flows deleted": ["ovs-ofctl del-flows br-int"],
    "flows of a table deleted": ["ovs-ofctl del-flows br-int table=0"],
    "flows altered": ["ovs-ofctl mod-flows br-int table=10,actions=drop"],
    "foreign flow": ["ovs-ofctl add-flow br-int cookie=0x77,priority=1,in_port=4321,actions=drop"],
    "foreign group": ["ovs-ofctl -O OpenFlow15 add-group br-int group_id=7,type=all,bucket=drop"],
    "gateway's port deleted": ["ovs-vsctl --if-exists del-port br-int ovsnet0"],
    "gateway down": ["ip link set ovsnet0 down"],
    "gateway's MTU altered": ["ip link set ovsnet0 mtu 1300"],
    "gateway's addresses deleted": ["ip address flush dev ovsnet0"],
    "gateway's IPv6 address deleted": ["ip -6 address flush dev ovsnet0 scope global"],
    "foreign address": ["ip address add 198.18.0.1/24 dev ovsnet0"],
    "routes deleted": ["ip route flush dev ovsnet0", "ip -6 route flush dev ovsnet0"],
    # Over the gateway: one over another link is somebody else's, which the agent leaves alone and complains of.
    "route altered": [
        *(f"ip route replace 10.244.{number}.0/{PREFIX} dev ovsnet0" for number in (1, 2)),
        "ip -6 route replace fd00:10:244:2::/64 dev ovsnet0",
    ],
    "foreign route": ["ip route add 198.18.0.0/24 dev ovsnet0"],
    "neighbours deleted": ["ip neigh flush dev ovsnet0 nud all", "ip -6 neigh flush dev ovsnet0 nud all"],
    "router's neighbour altered": [
        f"ip -6 neigh replace {pipeline.ROUTER.ipv6} lladdr 02:00:00:00:00:77 dev ovsnet0 nud permanent"
    ],
    "forwarding off": ["sysctl -q -w net.ipv4.ip_forward=0"],
    "IPv6 forwarding off": ["sysctl -q -w net.ipv6.conf.all.forwarding=0"],
    "strict rp_filter": ["sysctl -q -w net.ipv4.conf.ovsnet0.rp_filter=1"],
    "redirects on": ["sysctl -q -w net.ipv4.conf.ovsnet0.send_redirects=1"],
    "nft rule added": ["nft insert rule inet ovsnet postrouting counter drop comment faults"],
    "nft chain emptied": ["nft flush chain inet ovsnet postrouting"],
    "nft sets emptied": ["nft flush set inet ovsnet pods_ip", "nft flush set inet ovsnet peers_ip6"],
    "nft table deleted": ["nft delete table inet ovsnet"],
    "nft table flushed": ["nft flush table inet ovsnet"],
    "fail mode altered": ["ovs-vsctl set-fail-mode br-int standalone"],
}
"""By hand, at any time: whatever is there of it comes back, and what is not ours goes."""
GRAVE = ("bridge deleted", "pod's port deleted", "pod's identity deleted")
"""Each by itself: rows are where an agent knows its pods from. One that starts gives them back from the runtime's cache
(test_recovery), but what an interrupted ADD or DEL has left then could not be told from a pod."""
PORTS = {
    "tunnels deleted": "--if-exists del-port br-int {}",
    "tunnels' key altered": "--if-exists set Interface {} options:key=78",
    "tunnels' far ends altered": "--if-exists set Interface {} options:remote_ip=192.0.2.77",
    "tunnels' options deleted": "--if-exists clear Interface {} options",
    "tunnels' type altered": "--if-exists set Interface {} type=gre",
}
"""By ovs-vsctl, at any time, each of the node's tunnels."""
ENDS = {"pods' ports down": "down", "pods' ports narrow": "mtu 1300"}
"""By `ip link set`, at any time, each of the node's pods."""
CUTS = {
    "cut": "drop",
    "every third packet lost": "numgen inc mod 3 == 0 drop",
    "two of three packets lost": "numgen inc mod 3 < 2 drop",
}


def kill(world: World, node: int, daemon: str, seconds: float) -> None:
    """SIGKILL; started again after so many seconds. The agent starts another child by itself."""
    place = world.at(node)
    world.broken = True
    if daemon == LINKS:
        for child in children(place):
            child.kill()
        return
    world.ended.add((place.name, daemon))
    place.kill(daemon, signal.SIGKILL)
    world.later(seconds, lambda: world.restart(place, daemon))


def kill_amid(world: World, node: int, request: str, count: int, daemon: str, milliseconds: int) -> None:
    """SIGKILL so long after so many requests began: add or remove. Started again a moment later."""
    world.broken = True
    requests = world.add_pods if request == "add" else world.remove_pods
    runtime = threading.Thread(target=requests, args=(node, count))
    runtime.start()
    time.sleep(milliseconds / 1000)
    kill(world, node, daemon, 0.5)
    runtime.join()


def interrupt_add(world: World, node: int, milliseconds: int) -> None:
    """The client is killed in the middle; the runtime deletes and adds again later."""
    for pod in world.new_pods(world.at(node), 1):
        world.lab.manifests.write_pod(pod.pod, ())
        pod.start()
        (pod.node.path / f"{pod.sandbox}.adding").touch()
        kill_client("ADD", pod, milliseconds)


def interrupt_del(world: World, node: int, milliseconds: int) -> None:
    for pod in world.comers(world.at(node))[:1]:
        world.leaving.add(pod.name)
        kill_client("DEL", pod, milliseconds)


def kill_client(command: str, pod: Pod, milliseconds: int) -> None:
    arguments = {"K8S_POD_NAMESPACE": DEFAULT, "K8S_POD_NAME": pod.name}
    variables = {"CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items())}
    client = Cni(pod.node).process(
        command, pod.pod.container, netns=pod.netns, ifname=IFNAME, version="1.0.0", variables=variables
    )
    time.sleep(milliseconds / 1000)
    client.kill()
    client.communicate()


def stop(world: World, node: int, daemon: str, seconds: float) -> None:
    """SIGSTOP for so many seconds."""
    place = world.at(node)
    world.broken = True
    found = children(place) if daemon == LINKS else [place.daemon(daemon)]
    for process in filter(None, found):
        process.kill(signal.SIGSTOP, 0)
        world.later(seconds, lambda process=process: process.kill(signal.SIGCONT, 0))  # type: ignore[misc]


def harm(world: World, node: int, what: str) -> None:
    """Something of ours deleted or altered by hand."""
    place = world.at(node)
    cni = Cni(place)
    world.broken = True
    if what in PORTS:
        for port in tunnels(cni):
            cni.tool("ovs-vsctl", "-t5", *PORTS[what].format(port).split(), check=False)
        return
    if what in ENDS:
        for port in filter(names.is_host_interface, cni.links()):
            cni.tool("ip", "link", "set", port, *ENDS[what].split(), check=False)
        return
    for command in HARMS[what]:
        # What does it may find nothing any more, or nobody to ask.
        cni.tool("timeout", "5", *command.split(), check=False)


def harm_rows(world: World, node: int, what: str) -> None:
    """Called when all is well, and all must be well again before the next fault; pods stay."""
    place = world.at(node)
    cni = Cni(place)
    world.broken = True
    pods = [name for name, row in cni.rows().items() if row.role == names.ROLE_POD]
    if what == "bridge deleted":
        cni.tool("ovs-vsctl", "-t5", "del-br", "br-int")
        return
    for port in pods:
        if what == "pod's port deleted":
            cni.tool("ovs-vsctl", "-t5", "del-port", "br-int", port)
        else:
            cni.tool("ovs-vsctl", "-t5", "clear", "Port", port, "external_ids")


def delete_interface(world: World, node: int) -> None:
    """The first pod's pair is deleted: the runtime makes the pod again."""
    for pod in attached(world, world.at(node))[:1]:
        world.broken = True
        port = next(entry["name"] for entry in (pod.result() or {})["interfaces"] if "sandbox" not in entry)
        Cni(pod.node).tool("ip", "link", "delete", port, check=False)
        world.remade.add(pod.name)


def narrow(world: World, node: int, mtu: int) -> None:
    """The uplink takes no more than so many bytes, until everything is healed."""
    place = world.at(node)
    world.broken = True
    world.narrowed.add(place.name)
    world.set_uplink_mtu(place, mtu)


def cut(world: World, node: int, how: str, seconds: float) -> None:
    """What the node sends is lost, all or a part, in the segment that joins the nodes; or one of LATE."""
    if how in LATE:
        disturb(world, node, how, seconds)
        return
    underlay, port = world.lab.underlay, port_of(world.at(node).node)
    world.broken = True
    rule = f"chain from {{ type filter hook ingress device {port} priority 0; {CUTS[how]}; }};"
    table = f"faults_{port}"
    remove = f"table netdev {table}\ndelete table netdev {table}\n"
    underlay.call_on_network(["nft", "-f", "-"], f"{remove}table netdev {table} {{ {rule} }}\n", check=True)

    def mend() -> None:
        underlay.call_on_network(["nft", "-f", "-"], remove, check=True)

    world.at_last(seconds, mend)


def unplug(world: World, node: int, seconds: float) -> None:
    """The cable: nothing gets in or out."""
    underlay, place = world.lab.underlay, world.at(node)
    world.broken = True
    port = port_of(place.node)
    underlay.ip([f"link set {port} nomaster"])

    def mend() -> None:
        if world.there(place):
            underlay.ip([f"link set {port} master {BRIDGE}"])

    world.at_last(seconds, mend)


def fill_disk(world: World, node: int, seconds: float) -> None:
    """The database on a tiny file system that something else has filled up. Called when all is well."""
    place = world.at(node)
    cni = Cni(place)
    folder, aside = "/etc/openvswitch", "/var/lib/openvswitch/aside"
    world.broken = True
    world.ended.add((place.name, OVSDB))
    place.kill(OVSDB)
    cni.tool("sh", "-c", f"cp -a {folder} {aside} && mount -t tmpfs -o size=256k tmpfs {folder}")
    cni.tool("sh", "-c", f"cp -a {aside}/. {folder}/")
    place.start(OVSDB)
    cni.tool("sh", "-c", f"cat /dev/zero > {folder}/filler 2>/dev/null || true")
    # The journal's last block has room for some changes yet.
    change = "ovs-vsctl -t2 --no-wait set Bridge br-int external_ids:filler=$i"
    cni.tool("sh", "-c", f"for i in $(seq 100); do {change} || break; done", check=False)

    def free() -> None:
        if not world.there(place):
            return
        cni.tool("rm", "-f", f"{folder}/filler")
        place.kill(OVSDB)
        cni.tool("sh", "-c", f"cp -a {folder}/. {aside}/ && umount -l {folder}")
        cni.tool("sh", "-c", f"cp -a {aside}/. {folder}/ && rm -rf {aside}")

    world.at_last(seconds, free)


def attached(world: World, node: Node) -> list[Pod]:
    return [pod for pod in world.comers(node) if pod.result() is not None]


def tunnels(cni: Cni) -> list[str]:
    """Names of the tunnels' ports; none while ovsdb-server does not answer."""
    which = f"external_ids:{names.OWNER}={names.ROLE_TUNNEL}"
    return cni.tool(
        "ovs-vsctl", "-t5", "--bare", "--columns=name", "find", "Port", which, check=False
    ).split()


def children(node: Node) -> list[Process]:
    """The agent's child for links."""
    agent = node.daemon(AGENT)
    if agent is None:
        return []
    found = []
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
            if linkchild.__name__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(Process(int(pid), start_time(pid)))
    return found
