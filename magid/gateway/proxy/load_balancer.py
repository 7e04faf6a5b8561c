"""Which of the sound servers takes a request: whose turn it is, and who knows the conversation.

Lives on the event loop. The choice itself is `balancing`'s.
"""

from magid.catalog.profile import LoadBalancing, Strategy
from magid.gateway.proxy.balancing import choose
from magid.gateway.proxy.server import Server
from magid.gateway.routing.conversations import Conversations
from magid.gateway.routing.prompt import CHARS_PER_TOKEN
from magid.gateway.routing.request import Asked
from magid.gateway.routing.resolver import Route


class Picker:
    """`rules` are the active profile's; whoever follows the profile sets them."""

    def __init__(self) -> None:
        self.rules = LoadBalancing()
        self.conversations = Conversations()
        self._floors: dict[str, float] = {}  # by pool: where turns count from

    def pick(self, asked: Asked, route: Route, sound: list[Server]) -> Server | None:
        """The conversation's own server, else one by the rules; None if all are full.

        `sound` is not empty. Changes nothing.
        """
        rules = self.rules
        if not rules.enabled or len(sound) == 1:
            return sound[0] if sound[0].has_room else None
        for server in sound:
            if server.backend.process == route.process and server.has_room:
                return server
        floor = self._floors.get(route.pool, 0.0)
        missing = self._missing_tokens(asked, sound)
        by_key = {server.backend.process: server for server in sound}
        loads = [server.load(floor, missing.get(key, 0.0)) for key, server in by_key.items()]
        chosen = choose(rules.strategy, loads)
        return None if chosen is None else by_key[chosen.key]

    def taken(self, asked: Asked, route: Route, server: Server) -> None:
        """The server has had its turn, and has read this prompt."""
        # Who was away meanwhile has not saved up turns: they count from the pool's floor on.
        floor = max(server.turns, self._floors.get(route.pool, 0.0))
        self._floors[route.pool] = floor
        server.turns = floor + 1 / server.backend.weight
        tier = route.tier if route.parts else None
        if asked.endpoint.generates and (tier is not None or self._follows_prefixes):
            server.learns_rates = True
            self.conversations.remember(asked.prompt, server.backend.process, tier)

    @property
    def _follows_prefixes(self) -> bool:
        return self.rules.enabled and self.rules.strategy is Strategy.PREFIX_AFFINITY

    def _missing_tokens(self, asked: Asked, sound: list[Server]) -> dict[str, float]:
        """By process: how much of the prompt it would have to read."""
        if not asked.endpoint.generates or not self._follows_prefixes:
            return {}
        cached = self.conversations.cached_chars(asked.prompt)
        total = asked.prompt.text_chars
        processes = (server.backend.process for server in sound)
        return {p: (total - cached.get(p, 0)) / CHARS_PER_TOKEN for p in processes}
