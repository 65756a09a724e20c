"""Pods' veth pairs: made with one end in the pod, set up there, inspected, deleted.

Owns every link named by `names.host_interface`. The pod's end is made in the pod's namespace, where it takes a
fraction of a millisecond; moving it there would take some 15 ms, in which the kernel waits for RCU with all other
changes of links locked out. Never touches OVSDB, nor a link of anybody else. Called by `worker` for the agent.

What the kernel does, it does inside the system call, and deleting a link takes 15 ms there: `worker` runs all of
this in a process of its own.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Sequence

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, rtnl
from pyroute2.netlink.rtnl.ifinfmsg import IFF_NOARP, IFF_PROMISC, IFF_UP

from ovsnet import names
from ovsnet.errors import AlreadyAttached, HostFailure
from ovsnet.host import netns, pod, sysctl
from ovsnet.host.messages import Request, all_links, is_up, link, name_and_mtu
from ovsnet.host.netlink import Netlink
from ovsnet.host.types import AttachSpec, PodInterface

_LEAVING = 0x6F76736E
"""Link group of host ends about to be deleted: one request deletes a group in one wait for RCU."""
_HOST_FLAGS = IFF_UP | IFF_NOARP | IFF_PROMISC
"""Of host ends, from their first moment: each later change is news at which vswitchd looks at all of its ports, and it
would set the last one itself."""
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_GONE = (errno.ENODEV,)


class Links:
    """The hold on pods' links, in the namespace where it was made."""

    def __init__(self) -> None:
        self._ours = Netlink()

    def make(self, spec: AttachSpec) -> None:
        """Make a pair with one end in the pod, which is still down; `set_up` completes it.

        Raises AlreadyAttached when the pod has an interface of that name, HostFailure for anything else;
        nothing was made then.
        """
        host = names.host_interface(spec.token)
        for failure in self._ours.attempt([_make_pair(spec)]):
            if failure.code == errno.EEXIST:
                raise AlreadyAttached(
                    f"the pod has an interface {spec.ifname} already", "CNI_IFNAME must be new"
                )
            raise failure.error
        try:
            # The host's kernel sees what the pod sends and must not answer: no IPv6 here, no ARP above. The host's
            # end is up, but as long as the pod's is not it has no carrier, and the kernel gives it no address.
            sysctl.ensure(f"ipv6/conf/{host}/disable_ipv6", 1)
        except BaseException:
            self._ours.attempt([_delete(host)])
            raise

    def set_up(self, spec: AttachSpec, tx_off: bool) -> None:
        """Set up the pod's end of a pair. Loopback and default routes that are there are kept.

        tx_off: the pod computes checksums. Raises HostFailure; the pair stays, to be detached.
        """
        # Sockets stay where they were opened, but the process is in the pod.
        with (
            netns.entered(spec.netns),
            Netlink() as inside,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ioctl,
        ):
            if tx_off:
                _checksums_off(ioctl, spec.ifname)
            pod.configure(inside, spec)

    def detach(self, tokens: Sequence[str]) -> None:
        """Delete pairs by their host ends, wherever the other ends are. One that is gone already is fine.

        They go together: each wait for RCU takes some 15 ms.
        """
        leaving = [names.host_interface(token) for token in tokens]
        if len(leaving) == 1:
            self._ours.apply([_delete(leaving[0])])
            return
        group = ("IFLA_GROUP", _LEAVING)
        requests = [
            Request(
                rtnl.RTM_SETLINK, 0, link(("IFLA_IFNAME", name), group), f"mark {name} for deletion", _GONE
            )
            for name in leaving
        ]
        everything = f"delete {', '.join(leaving)}"
        requests.append(Request(rtnl.RTM_DELLINK, 0, link(group), everything, _GONE))
        self._ours.apply(requests)

    def inspect(self, ifname: str, namespace: int) -> PodInterface | None:
        """A pod's interface as it is; None when the pod has none of that name."""
        with Netlink(namespace) as inside:
            return pod.inspect(inside, ifname)

    def list_ours(self) -> dict[str, int]:
        """The MTU of each pair whose host end is here, by token."""
        return {names.token_of(name): mtu for name, mtu, _ in self._host_ends()}

    def raise_fallen(self) -> list[str]:
        """Set up host ends that somebody set down; their tokens."""
        return [names.token_of(name) for name, _, up in self._host_ends() if not up and self._raise(name)]

    def _host_ends(self) -> list[tuple[str, int, bool]]:
        """Name, MTU and whether it was set up. One dump, whose cost is the kernel's."""
        veths = all_links(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}))
        ends = self._ours.dump(
            rtnl.RTM_GETLINK, veths, "list links", lambda data: (*name_and_mtu(data), is_up(data))
        )
        return [end for end in ends if names.is_host_interface(end[0])]

    def _raise(self, name: str) -> bool:
        """False: it was about to be deleted."""
        for failure in self._ours.attempt([_bring_up(name)]):
            if failure.code not in _GONE:
                raise failure.error
            return False
        return True

    def set_mtu(self, host: str, ifname: str, mtu: int, namespace: int) -> None:
        """Of both ends of a pair, the host's last. Raises HostFailure, also where `ifname` is not the other end.

        namespace: a descriptor; of what the path of a pod's namespace leads to now, which may be another's.
        """
        index = pod.index_of(host)
        with Netlink(namespace) as inside:
            found = pod.find(inside, ifname)
            if found is None or not index or found.get_attr("IFLA_LINK") != index:
                raise HostFailure(f"{ifname} there is not the other end of {host}", "is the pod gone?")
            inside.apply([_set_mtu(ifname, mtu)])
        self._ours.apply([_set_mtu(host, mtu)])


def _set_mtu(name: str, mtu: int) -> Request:
    message = link(("IFLA_IFNAME", name), ("IFLA_MTU", mtu))
    return Request(rtnl.RTM_SETLINK, 0, message, f"set the MTU of {name} to {mtu}")


def _make_pair(spec: AttachSpec) -> Request:
    host, mtu = names.host_interface(spec.token), ("IFLA_MTU", spec.mtu)
    there = [("IFLA_NET_NS_FD", spec.netns), ("IFLA_IFNAME", spec.ifname), ("IFLA_ADDRESS", spec.mac), mtu]
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": there})]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    message = link(("IFLA_IFNAME", host), mtu, ("IFLA_LINKINFO", info), flags=_HOST_FLAGS, change=_HOST_FLAGS)
    what = f"make the pair of {host} and the pod's {spec.ifname} with MAC {spec.mac} and MTU {spec.mtu}"
    return Request(rtnl.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, message, what)


def _checksums_off(ioctl: socket.socket, name: str) -> None:
    """As `ethtool -K NAME tx off`: the kernel turns off what builds on checksums (TSO) with it.

    ioctl: any socket of the namespace that has the interface.
    """
    value = array.array("I", (_ETHTOOL_STXCSUM, 0))
    try:
        fcntl.ioctl(ioctl, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), value.buffer_info()[0]))
    except OSError as error:
        raise HostFailure(f"cannot turn off checksum offload of {name}: {error.strerror}") from error


def _bring_up(name: str) -> Request:
    message = link(("IFLA_IFNAME", name), flags=_HOST_FLAGS, change=_HOST_FLAGS)
    return Request(rtnl.RTM_SETLINK, 0, message, f"bring up {name}")


def _delete(name: str) -> Request:
    return Request(rtnl.RTM_DELLINK, 0, link(("IFLA_IFNAME", name)), f"delete {name}", _GONE)
