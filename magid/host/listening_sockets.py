"""Whether one process alone listens on a port, from the kernel.

inet_diag lists the sockets that listen on one port, however many connections there are, and a
process's descriptors say which of them it holds. That takes less than a millisecond; `owners_of`,
which names any process, walks all of /proc.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from magid.host.ports import EVERY_ADDRESS, HostPort, plain

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST_DUMP: Final = 0x0301
_ERROR, _DONE = 2, 3
_LISTEN: Final = 1 << 10  # among the states of TCP
_HEAD: Final = struct.Struct("=IHHII")  # nlmsghdr
_QUERY: Final = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, ext, states
_PORT: Final = struct.Struct("!H46x")  # inet_diag_sockid: of its fields, the port alone
_REPLY: Final = struct.Struct("=4x2s2x16s44xI")  # inet_diag_msg: port, address, inode
_MOST_BYTES: Final = 65_536


def is_held_by(endpoint: HostPort, pid: int) -> bool:
    """Whether sockets listen there and the process holds all of them. Does not block.

    False also where that cannot be told: the kernel has no inet_diag, or hides the process.
    """
    try:
        found = sockets_on(endpoint)
        return bool(found) and found <= _sockets_of(pid)
    except OSError:
        return False


def sockets_on(endpoint: HostPort) -> set[int]:
    """Returns the inodes of the sockets that listen there. Raises OSError."""
    found: set[int] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as netlink:
            netlink.sendto(_request(family, endpoint.port), (0, 0))
            found.update(_inodes(netlink, family, endpoint))
    return found


def _request(family: int, port: int) -> bytes:
    body = _QUERY.pack(family, socket.IPPROTO_TCP, 0, _LISTEN) + _PORT.pack(port)
    return _HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, _REQUEST_DUMP, 0, 0) + body


def _inodes(netlink: socket.socket, family: int, endpoint: HostPort) -> Iterator[int]:
    """Reads a whole dump: several messages in each datagram, until one that ends it."""
    while True:
        data, at = netlink.recv(_MOST_BYTES), 0
        while at + _HEAD.size <= len(data):
            length, kind, *_ = _HEAD.unpack_from(data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError("the kernel cannot list sockets")
            port, address, inode = _REPLY.unpack_from(data, at + _HEAD.size)
            packed = address[:4] if family == socket.AF_INET else address
            if int.from_bytes(port) == endpoint.port and _overlap(packed, endpoint.host):
                yield inode
            at += -(-max(length, _HEAD.size) // 4) * 4


def _overlap(packed: bytes, host: str) -> bool:
    address = str(plain(str(ip_address(packed))))
    return address == host or not EVERY_ADDRESS.isdisjoint((address, host))


def _sockets_of(pid: int) -> set[int]:
    """Returns the inodes of the process's sockets. Raises OSError for another user's."""
    found = set()
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):  # noqa: PTH208 - pathlib would only wrap it
        with suppress(OSError):  # closed since
            kind, _, inode = os.readlink(f"{folder}/{number}").partition(":[")  # noqa: PTH115
            if kind == "socket":
                found.add(int(inode.rstrip("]")))
    return found
