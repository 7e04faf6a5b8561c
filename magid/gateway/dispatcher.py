"""Owns the gateway's state: the servers, the waiting requests and the requests in progress.

Runs on the event loop. Requests enter through `begin`, and everything about a request happens in
callbacks without a task of its own, unless it has to wait for a connection: that makes it fast.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from magid.catalog.profile import LoadBalancingRules
from magid.control.daemon import Daemon
from magid.control.state import Change
from magid.errors import MagidError, NotReady, QueueFull, ServerLost
from magid.gateway.accounting import request_log, token_usage
from magid.gateway.accounting.request_log import Outcome, Records, log_end
from magid.gateway.accounting.statistics import RequestStatistics
from magid.gateway.accounting.text_capture import TextCapture
from magid.gateway.accounting.token_usage import OTHER, UsageStore
from magid.gateway.proxy import health
from magid.gateway.proxy.captured_answer import CapturedAnswer
from magid.gateway.proxy.fleet_state import FleetState
from magid.gateway.proxy.forward import ForwardedRequest, ResponseSink
from magid.gateway.proxy.health import HealthChecker
from magid.gateway.proxy.load_balancer import LoadBalancer
from magid.gateway.proxy.on_demand import OnDemand
from magid.gateway.proxy.queue import FairQueues
from magid.gateway.proxy.server import UpstreamServer
from magid.gateway.proxy.time_slices import TimeSlices
from magid.gateway.proxy.two_stage import ActiveRequest, TwoStageRequest
from magid.gateway.proxy.upstream import INTERNAL_ERROR
from magid.gateway.routing import auto_tier, resolver
from magid.gateway.routing.fleet import Fleet
from magid.gateway.routing.request import ParsedRequest
from magid.gateway.routing.resolver import ModelRoute
from magid.wording.counts import counted

log = logging.getLogger(__name__)

_UNKNOWN = "a model"  # the pool of requests whose model is not known yet


class Dispatcher:
    """The gateway's dispatcher. `open` it on the event loop, after the daemon; `close` it first."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon  # which starts and stops models on request
        self._settings = daemon.config.gateway
        self.records = Records()
        self.capture = TextCapture()
        self.errors: Counter[str] = Counter()  # sent to clients, by code
        self._active: dict[str, ForwardedRequest] = {}  # by the id of their record
        self._queues: FairQueues[ForwardedRequest] = FairQueues(self._settings.queue_limit)
        self._balancer = LoadBalancer()
        self.slices = TimeSlices()  # for large requests, the API's too
        self._tasks: set[asyncio.Task[None]] = set()
        self._health = HealthChecker(daemon, self._spawn)
        self._state = FleetState(
            daemon,
            self._spawn,
            lambda: self._on_demand.resting(),
            self._on_rebuilt,
            self._admit,
        )
        self.usage = UsageStore(daemon.config.state_dir / token_usage.NAME)
        self.statistics = RequestStatistics(self._state.knows, self.usage)
        self._on_demand = OnDemand(
            daemon, self._spawn, self._state.servers_of, self._on_failed_start
        )
        self._unsubscribe = daemon.subscribe(self._on_change)

    def open(self) -> None:
        """Begins to watch the servers."""
        self._spawn(self._watch())
        self._spawn(self.usage.flush_periodically(self.statistics.settle))

    async def close(self) -> None:
        """Ends all requests in progress. Idempotent."""
        self._unsubscribe()
        self.capture.end("magid ends")
        for forwarded in list(self._active.values()):
            forwarded.cancel(Outcome.KILLED)
        self._state.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.statistics.settle()
        await self.usage.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what there is ---------------------------------------------------------------------

    def _on_change(self, change: Change) -> None:
        self._state.invalidate()
        if self._queues:  # a waiting request may go on now
            asyncio.get_running_loop().call_soon(self._state.rebuild_if_stale)

    def _on_rebuilt(self, now: Fleet) -> None:
        self._balancer.rules = now.profile.load_balancing if now.profile else LoadBalancingRules()
        if self._queues:
            asyncio.get_running_loop().call_soon(self._reroute_waiting)

    @property
    def fleet(self) -> Fleet:
        """The present fleet; builds it first if something has changed."""
        return self._state.fleet

    def models(self, only: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
        """Returns the models available to a caller limited to `only`; None: no limit."""
        return self._state.models(only)

    def models_json(self, only: tuple[str, ...] | None) -> bytes:
        """Returns the list for GET /v1/models; rebuilt only when something has changed."""
        return self._state.models_json(only)

    def servers(self) -> list[UpstreamServer]:
        """Returns the ready servers. A copy."""
        return self._state.servers()

    @property
    def waiting(self) -> int:
        """Returns the number of requests that wait for a free slot."""
        return len(self._queues)

    def queues(self) -> dict[str, int]:
        """Returns queue lengths by model or tier; `other` while models are still being found.

        A queue that was used once stays, empty.
        """
        lengths = self._queues.lengths().items()
        return {pool if pool != _UNKNOWN else OTHER: length for pool, length in lengths}

    # -- requests --------------------------------------------------------------------------

    def begin(self, request: ParsedRequest, client: ResponseSink) -> ActiveRequest:
        """Sends the request to a server, in two stages if the profile says so.

        Raises as `send` does.
        """
        profile = self._state.fleet.profile
        if profile is not None and profile.two_stage.enabled:
            rules = profile.two_stage
            if auto_tier.has_stages(request, self._state.limited(request.only), rules):
                return TwoStageRequest(request, client, rules, self.send)
        return self.send(request, client)

    def send(self, request: ParsedRequest, client: ResponseSink) -> ForwardedRequest:
        """Sends the request to a server, or queues it.

        Raises what routing raises, NotReady without a healthy server, QueueFull. Before this
        returns, the client can be called only through `fails`.
        """
        try:
            route = self._route_or_hold(request)
        except MagidError as error:
            record = request_log.refused(request, error)
            self.records.refuse(record)
            self.statistics.add(record, None)
            raise
        forwarded = ForwardedRequest(
            request, client, route, self._retry, self._on_free, self._on_end
        )
        if self.capture.is_on:
            exchange = self.capture.begin(forwarded.record, request.pieces or (request.body,))
            forwarded.client = CapturedAnswer(client, self.capture, exchange)
        self.records.begin(forwarded.record)
        self._active[forwarded.record.id] = forwarded
        try:
            self._place_or_wait(forwarded)
        except MagidError as error:
            forwarded.is_over = True
            forwarded.record.problem = error.code
            self._forget(forwarded, Outcome.REFUSED, error.message)
            raise
        return forwarded

    def route(self, request: ParsedRequest) -> ModelRoute:
        """Returns the request's route.

        Raises ModelNotFound, InvalidInput, NotReady, ServerFailed.
        """
        return auto_tier.route(
            request, self._state.limited(request.only), self._balancer.conversations
        )

    def _route_or_hold(self, request: ParsedRequest) -> ModelRoute:
        """Routes the request, or holds it if routing fails before all models are known.

        Its server may have run all the time: a client that asks while magid is restarted gets an
        answer, also if magid is restarted again before the models are known.
        """
        try:
            return self.route(request)
        except MagidError:
            if self.daemon.knows_models:
                raise
            return ModelRoute(_UNKNOWN, (), "", is_open=True)

    def explain(
        self, request: ParsedRequest
    ) -> tuple[ModelRoute, list[tuple[UpstreamServer, str]], UpstreamServer | None]:
        """Returns where the request would go now, without sending it.

        Returns the route, its servers with the reason each cannot be taken, and the server that
        would be taken. Raises as `route` does.
        """
        route = self.route(request)
        servers = [s for b in route.backends if (s := self._state.server(b.process)) is not None]
        verdicts = [(server, server.why_not) for server in servers]
        healthy = [server for server, why in verdicts if not why]
        return route, verdicts, self._balancer.pick(request, route, healthy) if healthy else None

    def kill(self, request_id: str) -> bool:
        """Ends a running request; returns False if there is none of this id."""
        forwarded = self._active.get(request_id)
        if forwarded is None:
            return False
        forwarded.kill()
        return True

    def _place_or_wait(self, forwarded: ForwardedRequest) -> None:
        if self._place(forwarded):
            return
        starts = forwarded.route.starts
        if starts is not None:
            self._want(starts, forwarded)
        pool = forwarded.route.pool
        if not self._queues.enter(pool, forwarded.request.client, forwarded):
            waiting = counted(self._queues.lengths()[pool], "request waits", "requests wait")
            raise QueueFull(
                f"cannot take the request: {waiting} for {pool} already; try again later"
            )
        self._limit_wait(forwarded)

    def _limit_wait(self, forwarded: ForwardedRequest) -> None:
        """Limits the wait.

        Time counts from the arrival of the request; a later wait does not reset it.
        """
        starts = forwarded.route.starts
        timeout_s = self._on_demand.timeout_s if starts else self._settings.queue_timeout
        if forwarded.wait_timer is not None and timeout_s <= forwarded.timeout_s:
            return
        forwarded.stop_waiting()
        forwarded.timeout_s = max(forwarded.timeout_s, timeout_s)
        left_s = forwarded.record.began + forwarded.timeout_s - time.monotonic()
        forwarded.wait_timer = asyncio.get_running_loop().call_later(
            max(0.0, left_s), self._waited_too_long, forwarded
        )

    def _want(self, model_id: str, forwarded: ForwardedRequest) -> None:
        """Has the model started, unless a start is pending. Raises NotReady, or why it failed."""
        if not self._on_demand.is_coming(model_id):
            if forwarded.request.endpoint.method == "GET":
                raise NotReady(
                    f"cannot answer yet: {model_id} does not run, and a GET starts nothing; "
                    f"POST /api/models/servers/{model_id}/start starts it"
                )
            if model_id in forwarded.started:
                raise NotReady(
                    f"cannot answer: {model_id} was started for this request, and does not run "
                    "any more; try again later"
                )
        forwarded.started.add(model_id)
        self._on_demand.want(model_id)

    def _place(self, forwarded: ForwardedRequest) -> bool:
        """Sends the request to a server; returns False if all its servers are full.

        Raises NotReady if no server is healthy.
        """
        if forwarded.route.waits:
            return False
        healthy, sure = [], []
        for backend in forwarded.route.backends:
            server = self._state.server(backend.process)
            if server is None or backend.process in forwarded.tried or server.why_not:
                continue
            healthy.append(server)
            if not server.is_doubted:
                sure.append(server)
        if not healthy:
            raise self._state.no_healthy_server(forwarded.route)
        chosen = self._balancer.pick(forwarded.request, forwarded.route, sure or healthy)
        if chosen is None:
            return False
        self._balancer.taken(forwarded.request, forwarded.route, chosen)
        forwarded.stop_waiting()
        forwarded.send(chosen)
        return True

    # -- what requests report --------------------------------------------------------------

    def _retry(self, forwarded: ForwardedRequest) -> bool:
        """Sends the request to another server; returns False if there is none."""
        try:
            forwarded.route = self.route(forwarded.request)
            self._place_or_wait(forwarded)
        except MagidError:
            return False
        return True

    def _on_free(self, forwarded: ForwardedRequest, server: UpstreamServer) -> None:
        self._state.drop_if_done(server)
        if self._queues:
            self._admit()

    def _on_end(self, forwarded: ForwardedRequest) -> None:
        self._queues.leave(forwarded.route.pool, forwarded.request.client, forwarded)
        self._forget(forwarded, forwarded.record.outcome, forwarded.record.error)

    def _forget(self, forwarded: ForwardedRequest, outcome: Outcome, error: str) -> None:
        self._active.pop(forwarded.record.id, None)
        self.records.end(forwarded.record, outcome, error)
        self.statistics.add(forwarded.record, forwarded.route)
        log_end(forwarded.record)

    # -- waiting ---------------------------------------------------------------------------

    def _admit(self) -> None:
        """Sends every waiting request that can go now."""
        self._queues.serve(self._place_or_refuse)

    def _place_or_refuse(self, forwarded: ForwardedRequest) -> bool:
        """Returns whether the request has left the queue."""
        return self._or_answer(self._place, forwarded)

    def _reroute_waiting(self) -> None:
        """Routes all waiting requests again, after servers have come or gone."""
        for forwarded in self._queues.drain(lambda _forwarded: True):
            self._or_answer(self._reroute, forwarded)

    def _reroute(self, forwarded: ForwardedRequest) -> bool:
        request = forwarded.request
        route, now = self._route_or_hold(request), self._state.limited(request.only)
        forwarded.route = resolver.without_second_start(route, forwarded.started, request, now)
        self._place_or_wait(forwarded)
        return True

    def _or_answer(
        self, place: Callable[[ForwardedRequest], bool], forwarded: ForwardedRequest
    ) -> bool:
        """Places the request; an error answers only this one, not the others that wait."""
        try:
            return place(forwarded)
        except MagidError as error:
            forwarded.refuse(error)
        except Exception:
            log.exception("request %s cannot be placed", forwarded.record.id)
            forwarded.refuse(ServerLost(f"cannot answer: {INTERNAL_ERROR}"), Outcome.FAILED)
        return True

    def _on_failed_start(self, model_id: str, error: MagidError, pause_s: float) -> None:
        """Routes the requests that wait for this model again, or answers them with the error.

        The model is left out for `pause_s` seconds; 0: the start could not be tried, for lack of
        room.
        """
        self._state.invalidate()
        if pause_s:
            asyncio.get_running_loop().call_later(pause_s, self._state.invalidate)
        for forwarded in self._queues.drain(lambda e: e.route.starts == model_id):
            if pause_s:
                self._or_answer(self._reroute, forwarded)
            else:
                forwarded.refuse(error)

    def _waited_too_long(self, forwarded: ForwardedRequest) -> None:
        forwarded.refuse(
            QueueFull(
                "cannot answer in time: the request waited too long for "
                f"{forwarded.route.pool}; try again later"
            )
        )

    # -- watching servers ---------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(health.LOOK_S)
            try:
                self._look()
            except Exception:
                log.exception("the gateway's look at its servers failed")

    def _look(self) -> None:
        self.daemon.refresh_profile()
        now = self.fleet
        interval = self._balancer.rules.health_check_interval
        self._health.look(self._state.every_server(), now, interval)
        self._on_demand.look(now, time.monotonic())
        if self._queues:
            self._admit()
