"""Remembers which server a conversation went to, by digests of its messages. Bounded, oldest first.

The next request of a conversation repeats all messages before it, so its chain of digests passes
through the remembered one. Hashing only the first message would send all clients with the same
system prompt to one server.
"""

from collections import OrderedDict
from collections.abc import Sequence

from msgspec import Struct, field

from magid.discovery.tiers import Tier
from magid.gateway.routing.request import Prompt

KEPT = 20_000  # digests; some 10 MB
# Of one request: where the others go on from is near its end, or near its beginning, as examples
# that many requests have in common are. One long conversation must not crowd out all others.
KEPT_ENDS = 16
KEPT_BETWEEN = 32
KEPT_PROCESSES = 8  # for each digest: more servers than that change nothing


class _Seen(Struct):
    processes: dict[str, None] = field(default_factory=dict)  # the latest one last
    tier: Tier | None = None  # that was chosen for it


class Conversations:
    """Lives on the event loop."""

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def remember(self, prompt: Prompt, process: str, tier: Tier | None) -> None:
        """Notes that this process has read the prompt; `tier` was chosen for the conversation."""
        for digest in _kept(prompt.chain):
            seen = self._seen.pop(digest, None) or _Seen()
            seen.processes.pop(process, None)
            seen.processes[process] = None
            if len(seen.processes) > KEPT_PROCESSES:
                del seen.processes[next(iter(seen.processes))]
            self._seen[digest] = seen
        if tier is not None and prompt.chain:
            self._seen[prompt.chain[-1]].tier = tier
        while len(self._seen) > self._limit:
            self._seen.popitem(last=False)

    def cached_chars(self, prompt: Prompt) -> dict[str, int]:
        """Returns process -> how much of the prompt it has read before, in characters."""
        found: dict[str, int] = {}
        for digest, chars in zip(reversed(prompt.chain), reversed(prompt.chars), strict=True):
            seen = self._seen.get(digest)
            for process in seen.processes if seen else ():
                found.setdefault(process, chars)
        return found

    def before(self, prompt: Prompt) -> tuple[Tier | None, str | None]:
        """The tier and the process of the conversation's last request, if this goes on with it.

        A first message is no conversation yet: many begin with the same one.
        """
        for digest in reversed(prompt.chain[:-1]):
            seen = self._seen.get(digest)
            if seen is not None and seen.tier is not None:
                return seen.tier, _latest(list(seen.processes))
        return None, None


def _kept(chain: Sequence[bytes]) -> Sequence[bytes]:
    """The first and last ones, and of those between some that the next request keeps as well."""
    between = len(chain) - 2 * KEPT_ENDS
    if between <= KEPT_BETWEEN:
        return chain
    step = 1 << (between // KEPT_BETWEEN).bit_length()
    return [
        *chain[:KEPT_ENDS],
        *chain[step * (KEPT_ENDS // step + 1) : -KEPT_ENDS : step],
        *chain[-KEPT_ENDS:],
    ]


def _latest(processes: Sequence[str]) -> str | None:
    return processes[-1] if processes else None
