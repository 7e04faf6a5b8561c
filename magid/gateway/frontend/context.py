"""State shared by all gateway connections: limits and authentication.

`ClientConnection` uses it for each of its requests.
"""

from msgspec import Struct
from msgspec.structs import replace

from magid.auth import sandboxed
from magid.auth.authenticator import LOCAL, Authenticator, admit_viewer, check_url
from magid.auth.limits import Limiter, Limits
from magid.auth.origins import Policy
from magid.auth.token_store import Caller
from magid.auth.tokens import Scope
from magid.config.settings import Config
from magid.errors import MagidError, RateLimited
from magid.gateway.accounting import request_log
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.frontend.request_reader import (
    BodyReader,
    RequestHead,
    RequestHeadCache,
    small_too_large,
)
from magid.gateway.routing.endpoints import FOR_ADMINS, find, methods_of, nearest
from magid.gateway.routing.outline import WHOLE_BYTES
from magid.http import request_rules
from magid.library.downloads.owner import Downloads


class FrontendContext(Struct, frozen=True):
    """What connections share: those over TCP, of proxies, and over unix sockets, without a Host."""

    dispatcher: Dispatcher
    downloads: Downloads
    parse: RequestHeadCache
    max_body_bytes: int
    timeout_s: float  # in which a whole request has to arrive
    send_timeout_s: float  # in which the rest of a last answer has to be taken
    authenticator: Authenticator
    limiter: Limiter
    is_tcp: bool
    is_shut: bool = False  # for a model's own server
    is_view: bool = False  # over the socket of the group magi-view

    @property
    def small_body_bytes(self) -> int:
        """The limit of a body that is for no model."""
        return min(self.max_body_bytes, WHOLE_BYTES)

    def body_reader(self, head: RequestHead) -> BodyReader:
        """Returns what reads the body. Only a request to a model may have a large one.

        Raises TooLarge, and for a path that does not exist what `unknown_path` returns. A preflight
        has no credentials, so that anybody could fill the memory with its body.
        """
        endpoint = find(head.method, head.path)
        if endpoint is not None and endpoint.kinds and not endpoint.asks_by_query:
            return BodyReader(head.length, self.max_body_bytes)
        limit, is_known = self.small_body_bytes, endpoint is not None or head.method == "OPTIONS"
        return BodyReader(
            head.length, limit, small_too_large(limit) if is_known else unknown_path(head)
        )

    def admit(self, head: RequestHead, peer: str, need: Scope | None = None) -> Caller:
        """Authenticates the request.

        Raises as `Authenticator.authenticate` does, and InvalidInput for a token in the URL.
        """
        if self.is_shut:
            raise sandboxed.refuse()
        check_url(head.query)
        if head.method == "OPTIONS":  # a browser asks whether it may send credentials
            return LOCAL
        need = need or (Scope.ADMIN if (head.method, head.path) in FOR_ADMINS else Scope.INFER)
        if self.is_view:
            return admit_viewer(need)
        return self.authenticator.authenticate(head.presented, need, peer if self.is_tcp else None)

    def count(self, head: RequestHead, request_id: str, caller: Caller, limits: Limits) -> None:
        """Counts a request towards the limits of its token.

        Raises RateLimited, and keeps a record of the request then.
        """
        try:
            self.limiter.enter(caller.name, caller.id, limits)
        except RateLimited as error:
            record = request_log.unread(
                head.path, request_id, head.client_request_id, caller.name, error
            )
            self.dispatcher.records.refuse(record)
            raise


class FrontendContexts:
    """The context of each connection: heads are checked by where the connection comes from."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        downloads: Downloads,
        policy: Policy,
        config: Config,
        authenticator: Authenticator,
    ) -> None:
        def used_today(token: str) -> int:
            dispatcher.statistics.settle()
            return dispatcher.usage.used_today(token)

        def make(policy: Policy | None) -> FrontendContext:
            return FrontendContext(
                dispatcher, downloads, RequestHeadCache(policy),
                config.gateway.max_body_bytes, config.request_timeout, config.send_timeout,
                authenticator, limiter, policy is not None,
            )  # fmt: skip

        limiter = Limiter(used_today)

        self._policy = policy
        self._local = make(None)  # browsers cannot reach unix sockets
        self._tcp, self._proxied = make(policy), make(replace(policy, is_proxied=True))

    def of(self, peer: str | None) -> FrontendContext:
        """Returns the context for connections from this address; None: over a unix socket."""
        if peer is None:
            return self._local
        return self._proxied if self._policy.for_peer(peer).is_proxied else self._tcp


def unknown_path(head: RequestHead) -> MagidError:
    """Returns the error for a path that is not the gateway's, or has other methods."""
    if methods_of(head.path):
        return request_rules.wrong_method(head.method, head.path)
    return request_rules.unknown_path(head.path, nearest(head.path))
