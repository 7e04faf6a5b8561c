"""Connections from the tests into a container that has a network of its own.

A socket belongs to the network namespace of the thread that makes it. So the calls that connect are
made on threads that have entered the container's; nothing stands in between, and a refused
connection is seen as such.
"""

import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx

T = TypeVar("T")

THREADS = 64  # calls that connect, or wait for the first byte of an answer, at the same time
CLONE_NEWNET = 0x40000000  # sched.h
LINK = "lab0"  # the interface of a container that leads to another


def link(one: int, other: int, addresses: tuple[Sequence[str], Sequence[str]]) -> None:
    """Joins the networks of two containers, by their PIDs 1. `addresses`, as 10.77.0.1/24, of each.

    The host's network is not touched. A link goes with the network of either, as at a reboot: then
    this is to be called again.
    """
    _ip(one, "link", "delete", LINK, check=False)  # if the kernel has not done it yet
    others = os.open(f"/proc/{other}/ns/net", os.O_RDONLY)
    try:
        peer = ("peer", "name", LINK, "netns", f"/proc/self/fd/{others}")
        _ip(one, "link", "add", LINK, "type", "veth", *peer, passed=(others,))
    finally:
        os.close(others)
    for leader, own in zip((one, other), addresses, strict=True):
        for address in own:
            _ip(leader, "address", "add", address, "dev", LINK)
        _ip(leader, "link", "set", LINK, "up")


def _ip(leader: int, *arguments: str, check: bool = True, passed: Sequence[int] = ()) -> None:
    """Runs the container's own `ip` in there, with these open files of ours."""
    enter = ["nsenter", "--target", str(leader), "--all", "--root", "--wd", "--"]
    done = subprocess.run([*enter, "ip", *arguments], capture_output=True, pass_fds=passed,
                          check=False, text=True)  # fmt: skip
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


class Network:
    """The network of the container whose PID 1 is `leader`; threads start when they are needed."""

    def __init__(self, leader: int) -> None:
        self._namespace = os.open(f"/proc/{leader}/ns/net", os.O_RDONLY)
        self._threads = ThreadPoolExecutor(THREADS, "in-container", self._enter)

    def _enter(self) -> None:
        # os.setns is there from Python 3.12 on.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self._namespace, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def call(self, function: Callable[[], T]) -> T:
        """Call it on a thread whose new sockets, and those of its new threads, are in there.

        Blocks. An event loop may be run in it: `network.call(lambda: asyncio.run(load()))`.
        """
        return self._threads.submit(function).result()

    def close(self) -> None:
        """Waits for the calls under way."""
        self._threads.shutdown()
        os.close(self._namespace)


class Transport(httpx.BaseTransport):
    """httpx's own, with connections into the container. For any number of threads at once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=THREADS)
        self._inner = httpx.HTTPTransport(limits=limits)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._network.call(lambda: self._inner.handle_request(request))

    def close(self) -> None:
        self._inner.close()
