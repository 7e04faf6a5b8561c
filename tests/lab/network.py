"""Connections from the tests into a container that has a network of its own.

A socket belongs to the network namespace of the thread that makes it. So the calls that connect are
made on threads that have entered the container's; nothing stands in between, and a refused
connection is seen as such.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx

T = TypeVar("T")

THREADS = 64  # calls that connect, or wait for the first byte of an answer, at the same time
CLONE_NEWNET = 0x40000000  # sched.h


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
