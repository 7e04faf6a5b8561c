"""Which healthy server takes a request: whose turn it is, and which one knows the conversation.

A server with a free slot always comes before one without; equals take turns. Lives on the event
loop; `choose` is pure.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from magid.catalog.profile import LoadBalancingRules, Strategy
from magid.gateway.proxy.server import DEFAULT_PREFILL_RATE, DEFAULT_SERVICE_S, UpstreamServer
from magid.gateway.routing.conversations import Conversations
from magid.gateway.routing.request import CHARS_PER_TOKEN, ParsedRequest
from magid.gateway.routing.resolver import ModelRoute


class LoadBalancer:
    """Chooses servers by `rules`, the active profile's; the dispatcher sets them."""

    def __init__(self) -> None:
        self.rules = LoadBalancingRules()
        self.conversations = Conversations()
        self._floors: dict[str, float] = {}  # by pool: where turns count from

    def pick(
        self, request: ParsedRequest, route: ModelRoute, healthy: list[UpstreamServer]
    ) -> UpstreamServer | None:
        """The conversation's own server, else one by the rules; None if all are full.

        `healthy` is not empty. Changes nothing.
        """
        rules = self.rules
        if not rules.enabled or len(healthy) == 1:
            return healthy[0] if healthy[0].has_room else None
        for server in healthy:
            if server.backend.process == route.process and server.has_room:
                return server
        floor = self._floors.get(route.pool, 0.0)
        missing = self._missing_tokens(request, healthy)
        by_key = {server.backend.process: server for server in healthy}
        loads = [load_of(one, floor, missing.get(key, 0.0)) for key, one in by_key.items()]
        chosen = choose(rules.strategy, loads)
        return None if chosen is None else by_key[chosen.key]

    def taken(self, request: ParsedRequest, route: ModelRoute, server: UpstreamServer) -> None:
        """The server has had its turn, and has read this prompt."""
        # A server that was away has not saved up turns: they count from the pool's floor on.
        floor = max(server.turns, self._floors.get(route.pool, 0.0))
        self._floors[route.pool] = floor
        server.turns = floor + 1 / server.backend.weight
        tier = route.tier if route.parts else None
        if request.endpoint.generates and (tier is not None or self._follows_prefixes):
            server.learns_rates = True
            self.conversations.remember(request.prompt, server.backend.process, tier)

    @property
    def _follows_prefixes(self) -> bool:
        return self.rules.enabled and self.rules.strategy is Strategy.PREFIX_AFFINITY

    def _missing_tokens(
        self, request: ParsedRequest, healthy: list[UpstreamServer]
    ) -> dict[str, float]:
        """By process: how much of the prompt it would have to read."""
        if not request.endpoint.generates or not self._follows_prefixes:
            return {}
        cached = self.conversations.cached_chars(request.prompt)
        total = request.prompt.text_chars
        processes = (server.backend.process for server in healthy)
        return {p: (total - cached.get(p, 0)) / CHARS_PER_TOKEN for p in processes}


class Load(Struct, frozen=True):
    """One server at this moment."""

    key: str
    slots: int
    outstanding: int  # requests that it works on for us
    turns: float = 0.0  # taken so far, each the smaller the more weight it has
    weight: int = 1
    missing_tokens: float = 0.0  # of this prompt, that it does not have in its cache
    prefill_rate: float = DEFAULT_PREFILL_RATE
    service_s: float = DEFAULT_SERVICE_S

    @property
    def has_room(self) -> bool:
        return self.outstanding < self.slots


def load_of(server: UpstreamServer, floor: float, missing_tokens: float) -> Load:
    """`floor` is where turns count from."""
    return Load(
        server.backend.process,
        server.backend.facts.slots,
        server.outstanding,
        max(server.turns, floor),
        server.backend.weight,
        missing_tokens,
        server.prefill_rate,
        server.service_s,
    )


def choose(strategy: Strategy, loads: Sequence[Load]) -> Load | None:
    """The server to take; None if all are full."""
    free = [load for load in loads if load.has_room]
    return min(free, key=_KEYS[strategy]) if free else None


def _in_turn(load: Load) -> tuple[float, ...]:
    """Prefers the server that has had the least of its share."""
    return (load.turns, load.outstanding / load.slots)


def _least_outstanding(load: Load) -> tuple[float, ...]:
    return ((load.outstanding + 1) / (load.slots * load.weight), load.turns)


def _affinity(load: Load) -> tuple[float, ...]:
    return (cost(load), load.turns)


def cost(load: Load) -> float:
    """Seconds until the answer could begin: what must be read again, and what shares the server.

    Slots share one device, so each request that is under way slows the next one down.
    """
    reading = load.missing_tokens / load.prefill_rate
    queue = load.service_s * load.outstanding / (load.slots * load.weight)
    return reading + queue


_KEYS: dict[Strategy, Callable[[Load], tuple[float, ...]]] = {
    Strategy.ROUND_ROBIN: _in_turn,
    Strategy.LEAST_OUTSTANDING: _least_outstanding,
    Strategy.PREFIX_AFFINITY: _affinity,
}
