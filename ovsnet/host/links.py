"""Pods' veth pairs: spares made ahead, moved into pods, inspected, deleted.

Owns every link named by `names.host_interface` and `names.spare_interface`. A pair is made as a spare, its
host end for the bridge; attaching it is one request that moves the other end (the kernel takes some 15 ms
for that, in which it waits for RCU) and one batch inside the pod. Never touches OVSDB, nor a link of anybody
else. Called by the agent's attachments, its pool of spares and its start.

The methods are coroutines for their callers' sake; what the kernel does, it does inside the system call.
`attach` does not give way between its first step and its last, so it happens wholly or not at all.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import socket
import struct
from collections.abc import Sequence
from typing import Self

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, rtnl
from pyroute2.netlink.rtnl.ifinfmsg import IFF_NOARP, IFF_UP

from ovsnet import names
from ovsnet.errors import AlreadyAttached, HostFailure
from ovsnet.host import netns, pod, sysctl
from ovsnet.host.messages import Request, all_links, link, link_name
from ovsnet.host.netlink import Netlink
from ovsnet.host.types import AttachSpec, PodInterface, VethPairs

_LEAVING = 0x6F76736E
"""Link group of host ends about to be deleted: one request deletes a group in one wait for RCU."""
_AT_ONCE = 4
"""Pairs made before other tasks get their turn."""
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_GONE = (errno.ENODEV,)


class Links:
    """The agent's hold on pods' links, in the namespace where it was opened."""

    def __init__(self, ours: Netlink, ioctl: socket.socket) -> None:
        self._ours = ours
        self._ioctl = ioctl
        self._leaving: list[str] = []
        self._deletion: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls) -> Self:
        return cls(Netlink(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def close(self) -> None:
        self._ours.close()
        self._ioctl.close()

    async def create_spares(self, tokens: Sequence[str], mtu: int, tx_off: bool) -> None:
        """Make a pair for each token; tx_off: the pod computes checksums, as OVS's userspace datapath needs.

        Raises HostFailure; pairs made before the failure stay, and `list_ours` shows them.
        """
        for start in range(0, len(tokens), _AT_ONCE):
            self._create(tokens[start : start + _AT_ONCE], mtu, tx_off)
            await asyncio.sleep(0)

    def _create(self, tokens: Sequence[str], mtu: int, tx_off: bool) -> None:
        self._ours.apply([_make_pair(token, mtu) for token in tokens])
        for token in tokens:
            # The host's kernel sees what a pod sends and must not answer: no IPv6 here, no ARP below.
            sysctl.ensure(f"ipv6/conf/{names.host_interface(token)}/disable_ipv6", 1)
            if tx_off:
                self._checksums_off(names.spare_interface(token))
        self._ours.apply([_bring_up(names.host_interface(token)) for token in tokens])

    def _checksums_off(self, name: str) -> None:
        """As `ethtool -K NAME tx off`: the kernel turns off what builds on checksums (TSO) with it."""
        value = array.array("I", (_ETHTOOL_STXCSUM, 0))
        try:
            fcntl.ioctl(
                self._ioctl, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), value.buffer_info()[0])
            )
        except OSError as error:
            raise HostFailure(f"cannot turn off checksum offload of {name}: {error.strerror}") from error

    async def attach(self, spec: AttachSpec) -> None:
        """Move a spare into a pod and set it up there. Loopback and default routes that exist are kept.

        Raises AlreadyAttached when the pod has an interface of that name, and then the spare is untouched;
        HostFailure for anything else, and then the pair is deleted.
        """
        spare = pod.index_of(names.spare_interface(spec.token))
        # Nothing is awaited in here: sockets stay where they were opened, but the thread is in the pod.
        with netns.entered(spec.netns), Netlink() as inside:
            if pod.index_of(spec.ifname):
                raise AlreadyAttached(
                    f"the pod has an interface {spec.ifname} already", "CNI_IFNAME must be new"
                )
            try:
                self._move(spec, spare)
                pod.configure(inside, spec)
            except BaseException:
                self._ours.attempt([_delete(names.host_interface(spec.token))])
                raise

    def _move(self, spec: AttachSpec, index: int) -> None:
        """Namespace, name, MAC and MTU in one request; the link is down, so none of them disturbs anybody."""
        spare = names.spare_interface(spec.token)
        if not index:
            raise HostFailure(
                f"interface {spare} is gone", "it was deleted by someone else; repeat the request"
            )
        message = link(
            ("IFLA_NET_NS_FD", spec.netns),
            ("IFLA_IFNAME", spec.ifname),
            ("IFLA_ADDRESS", spec.mac),
            ("IFLA_MTU", spec.mtu),
            index=index,
        )
        what = f"move {spare} into the pod as {spec.ifname} with MAC {spec.mac} and MTU {spec.mtu}"
        self._ours.apply([Request(rtnl.RTM_SETLINK, 0, message, what)])

    async def detach(self, token: str) -> None:
        """Delete a pair by its host end, wherever the other end is. One that is gone already is fine.

        Those asked for at the same moment go together: each wait for RCU takes some 15 ms.
        """
        self._leaving.append(names.host_interface(token))
        if self._deletion is None:
            self._deletion = asyncio.ensure_future(self._delete_leaving())
        await asyncio.shield(self._deletion)

    async def _delete_leaving(self) -> None:
        await asyncio.sleep(0)
        leaving, self._leaving, self._deletion = self._leaving, [], None
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

    async def inspect(self, namespace: int, ifname: str) -> PodInterface | None:
        """A pod's interface as it is; None when the pod has none of that name."""
        with Netlink(namespace) as inside:
            return pod.inspect(inside, ifname)

    async def list_ours(self) -> VethPairs:
        """The pairs whose host end is here, and whose other end is. One dump, whose cost is the kernel's."""
        veths = all_links(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}))
        ends = set(self._ours.dump(rtnl.RTM_GETLINK, veths, "list links", link_name))
        hosts = {names.token_of(name) for name in ends if name.startswith(names.host_interface(""))}
        spares = {token for token in hosts if names.spare_interface(token) in ends}
        return VethPairs(hosts=frozenset(hosts), spares=frozenset(spares))

    async def set_mtu(self, name: str, mtu: int, namespace: int | None = None) -> None:
        """Of a link here, or of one in the namespace of the descriptor."""
        message = link(("IFLA_IFNAME", name), ("IFLA_MTU", mtu))
        request = Request(rtnl.RTM_SETLINK, 0, message, f"set the MTU of {name} to {mtu}")
        if namespace is None:
            self._ours.apply([request])
            return
        with Netlink(namespace) as inside:
            inside.apply([request])


def _make_pair(token: str, mtu: int) -> Request:
    host, spare = names.host_interface(token), names.spare_interface(token)
    size = ("IFLA_MTU", mtu)
    peer = {"attrs": [("IFLA_IFNAME", spare), size]}
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]
    message = link(("IFLA_IFNAME", host), size, ("IFLA_LINKINFO", {"attrs": info}))
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Request(rtnl.RTM_NEWLINK, flags, message, f"make the veth pair {host}, {spare}")


def _bring_up(name: str) -> Request:
    flags = IFF_UP | IFF_NOARP
    message = link(("IFLA_IFNAME", name), flags=flags, change=flags)
    return Request(rtnl.RTM_SETLINK, 0, message, f"bring up {name}")


def _delete(name: str) -> Request:
    return Request(rtnl.RTM_DELLINK, 0, link(("IFLA_IFNAME", name)), f"delete {name}", _GONE)
