"""How long the answer to a wrong sign-in waits.

Only wrong ones wait: a caller with the right token is let in at once, whatever others behind the
same address try. A token has 256 random bits, so what a delay saves is work and log lines.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from magid.errors import RateLimited

_FREE = 3  # wrong ones that do not wait: slips
_FIRST_S = 0.5
_LONGEST_S = 8.0
_FORGOTTEN_S = 600.0  # after the last wrong one
_MAX_WAITING = 8  # of one address
_PEERS = 1024


class _Failures(Struct):
    """Of one address."""

    count: int
    last: float
    waiting: int = 0


class SignInDelays:
    """One for all connections. `clock` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_peer: OrderedDict[str, _Failures] = OrderedDict()

    @contextmanager
    def failed(self, peer: str) -> Iterator[float]:
        """Yields for how many seconds the answer to a wrong sign-in is to wait, in this block.

        Raises RateLimited where too many of this address wait already.
        """
        now = self._clock()
        found = self._of(network_of(peer), now)
        if found.waiting >= _MAX_WAITING:
            raise RateLimited(
                f"cannot sign in: {found.waiting} wrong sign-ins from this address wait already; "
                "try again later",
                retryAfterSeconds=int(_LONGEST_S),
            )
        found.count += 1
        found.last = now
        found.waiting += 1
        try:
            yield _delay_s(found.count)
        finally:
            found.waiting -= 1

    def _of(self, network: str, now: float) -> _Failures:
        found = self._by_peer.get(network)
        if found is None or (now - found.last > _FORGOTTEN_S and not found.waiting):
            found = self._by_peer[network] = _Failures(0, now)
        self._by_peer.move_to_end(network)
        if len(self._by_peer) > _PEERS:
            self._by_peer.popitem(last=False)
        return found


def _delay_s(count: int) -> float:
    if count <= _FREE:
        return 0.0
    return float(min(_FIRST_S * 2 ** min(count - _FREE - 1, 16), _LONGEST_S))


def network_of(peer: str) -> str:
    """Returns an IPv4 address, or the /64 of an IPv6 one, all of which one client may have."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
