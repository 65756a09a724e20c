"""Whether the kernel has Open vSwitch's datapath. Called by the agent when it chooses one.

Asks the generic netlink controller for the family `ovs_datapath` (linux/genetlink.h, linux/openvswitch.h);
the kernel loads the module for that, where there is one.
"""

from __future__ import annotations

import socket
import struct

_NETLINK_GENERIC, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_NAME = 16, 16, 3, 2
_NLM_F_REQUEST, _NLMSG_ERROR = 1, 2
_FAMILY = b"ovs_datapath\0"


def kernel_has_openvswitch() -> bool:
    attribute = struct.pack("=HH", 4 + len(_FAMILY), _CTRL_ATTR_FAMILY_NAME) + _FAMILY
    attribute += bytes(-len(attribute) % 4)
    body = struct.pack("=BBxx", _CTRL_CMD_GETFAMILY, 1) + attribute
    header = struct.pack("=IHHII", 16 + len(body), _GENL_ID_CTRL, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC) as control:
        control.send(header + body)
        answer = control.recv(65536)
    kind: int = struct.unpack_from("=IH", answer)[1]
    return kind != _NLMSG_ERROR
