"""Models on demand have bounds: tries, pauses and patience, over a launcher that misbehaves."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from magid.config.settings import Gateway
from magid.control.daemon import Daemon
from magid.errors import MagidError, NotReady
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.proxy.failures import FIRST_S, MAX_S, Failures
from magid.gateway.proxy.forward import ForwardedRequest
from magid.gateway.routing.fleet import ServerProperties
from magid.llama.placement import Placement
from magid.llama.runtime_settings import RuntimeSettings
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from tests.support import ggufs
from tests.support.daemons import ALPHA, BETA, GAMMA, SIZES, House, states
from tests.support.deadlines import PATIENCE_S
from tests.support.on_demand import Client, IdleServers, request
from tests.support.recording_backend import StillLauncher, all_quiet, refusal

DELTA = "delta_9p0b_q4km_balanced"
MODELS = 4
BROKEN = "exit status 3: broken on purpose"
# Nobody waits for them in a test: what a failure costs is counted in calls.
QUEUE_S = 4.0


class Launcher(StillLauncher):
    """Starts succeed but for the ports in `broken`; stops fail on those in `sticky`."""

    def __init__(self) -> None:
        super().__init__(prompt=True)
        self.broken: set[int] = set()
        self.sticky: set[int] = set()

    async def start(self, spec: ServerSpec, placement: Placement | None = None) -> None:
        self.prompt = spec.port not in self.broken
        await super().start(spec, placement)
        if spec.port in self.broken:
            self.show(spec.port, ServerState.FAILED, BROKEN)

    async def stop(self, port: int) -> None:
        if port in self.sticky:
            self.refuse[port] = refusal()
        await super().stop(port)

    def count(self, verb: str) -> Counter[int]:
        return Counter(port for called, port in self.calls if called == verb)


class World:
    """A daemon whose models are all on demand, and its gateway."""

    def __init__(
        self, house: House, daemon: Daemon, launcher: Launcher, servers: IdleServers
    ) -> None:
        self.house, self.daemon, self.launcher = house, daemon, launcher
        self.servers = servers
        self.gateway = Dispatcher(daemon)
        self.gateway.open()

    def port(self, model_id: str) -> int:
        specs = self.daemon.snapshot.wanted.specs
        return next(spec.port for spec in specs if spec.model_id == model_id)

    def send(
        self, model: str, method: str = "POST", **fields: Any
    ) -> tuple[ForwardedRequest, Client]:
        client = Client()
        return self.gateway.send(request(model, method, **fields), client), client

    async def learned(self, model_id: str) -> ServerProperties:
        """What its server says, as soon as the gateway knows it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                (backend,) = self.gateway.fleet.offers[model_id].backends
                if backend.facts.tools is not None:
                    return backend.facts
                await all_quiet()

    async def ask(self, model: str, **fields: Any) -> int | MagidError:
        """What becomes of it."""
        try:
            return await ended(self.send(model, **fields)[1])
        except MagidError as error:
            return error


async def ended(client: Client) -> int | MagidError:
    async with asyncio.timeout(PATIENCE_S):
        return await client.answer


@pytest.fixture
def make(tmp_path: Path, free_ports: Callable[[int], int]) -> Callable[..., Any]:
    """A world with this `max_loaded` and the two models of a tier besides the house's three.

    `template` is in the headers of all.
    """

    @asynccontextmanager
    async def world(
        max_loaded: int | None = None, template: str | None = None
    ) -> AsyncIterator[World]:
        launcher = Launcher()
        house = House(tmp_path, launcher=launcher)
        for name, size in {**SIZES, "Delta": 9}.items():
            house.add(name, size, metadata={"tokenizer.chat_template": template})
        low = free_ports(MODELS)
        house.settings |= {
            "port_range": (low, low + MODELS - 1),
            "server_defaults": RuntimeSettings(start="on-demand"),
            "gateway": Gateway(max_loaded=max_loaded, queue_timeout=QUEUE_S),
        }
        answering = IdleServers()
        servers = [
            await asyncio.start_server(answering.serve, "127.0.0.1", low + n) for n in range(MODELS)
        ]
        found = World(house, await house.running(), launcher, answering)
        try:
            yield found
        finally:
            await found.gateway.close()
            await house.close()
            for server in servers:
                server.close()
                await server.wait_closed()

    return world


# -- stops that fail ---------------------------------------------------------------------------


async def test_a_stop_that_fails_costs_time_and_no_loop(make: Any) -> None:
    async with make(max_loaded=1) as world:
        assert await world.ask(ALPHA) == 200
        world.launcher.sticky.add(world.port(ALPHA))
        error = await world.ask(BETA)
        assert isinstance(error, NotReady)
        assert "max_loaded" in error.message
        assert "could not be stopped" in error.message
        assert 1 <= world.launcher.count("stop")[world.port(ALPHA)] <= 4
        assert world.launcher.count("start")[world.port(BETA)] == 0
        world.launcher.sticky.clear()
        assert await world.ask(BETA) == 200  # for want of room it does not rest


async def test_a_model_whose_engine_is_gone_stops_no_other(make: Any) -> None:
    async with make(max_loaded=1) as world:
        assert await world.ask(ALPHA) == 200
        port = world.port(ALPHA)
        await world.daemon.set_settings(BETA, {"engine": "gone"})
        await world.daemon.gpus.engines.look()
        error = await world.ask(BETA)
        assert isinstance(error, NotReady)
        assert "cannot use the engine 'gone'" in error.message
        assert not world.launcher.count("stop")[port]
        await world.daemon.set_settings(BETA, {"engine": None})
        assert await world.ask(BETA) == 200


async def test_those_who_wait_for_room_wait_side_by_side(make: Any) -> None:
    async with make(max_loaded=1) as world:
        assert await world.ask(ALPHA) == 200
        world.launcher.sticky.add(world.port(ALPHA))
        errors = await asyncio.gather(*(world.ask(model) for model in (BETA, DELTA, GAMMA)))
        assert {type(error) for error in errors} == {NotReady}
        assert world.launcher.count("stop")[world.port(ALPHA)] <= 6


async def test_a_model_that_cannot_be_stopped_for_idleness_is_left_alone_a_while(
    make: Any,
) -> None:
    async with make() as world:
        assert await world.ask(ALPHA) == 200
        world.launcher.sticky.add(world.port(ALPHA))
        await world.daemon.set_settings(ALPHA, {"idle_stop_seconds": 1})
        await world.launcher.wait_for(lambda: world.launcher.count("stop").total() > 0)
        on_demand = world.gateway._on_demand
        for _ in range(100):  # the look of each of the next seconds
            on_demand.look(world.gateway.fleet, asyncio.get_running_loop().time() + 1)
            await all_quiet()
        assert world.launcher.count("stop").total() == 1


# -- starts that fail --------------------------------------------------------------------------


async def test_a_start_that_failed_is_remembered_with_its_reason(make: Any) -> None:
    async with make() as world:
        world.launcher.broken.add(world.port(ALPHA))
        first = await world.ask(ALPHA)
        assert isinstance(first, MagidError)
        for error in (first, await world.ask(ALPHA), await world.ask(ALPHA)):
            assert isinstance(error, NotReady)
            assert BROKEN in error.message
            assert "not tried again for 5 s after 1 failed start" in error.message
        assert world.launcher.count("start")[world.port(ALPHA)] == 1
        with pytest.raises(NotReady, match="broken on purpose"):
            world.gateway.explain(request(ALPHA))
        # Other settings deserve another try.
        world.launcher.broken.clear()
        await world.daemon.set_settings(ALPHA, {"parallel": 3})
        assert await world.ask(ALPHA) == 200


def test_the_pause_grows_and_ends_with_a_success() -> None:
    failures, now, pauses = Failures(), 0.0, []
    error = NotReady("cannot")
    for _ in range(9):
        pauses.append(failures.failed("m", error, now))
        assert failures.of("m", now + pauses[-1] - 0.1) is not None
        now += pauses[-1]
        assert failures.of("m", now) is None
    assert pauses == [FIRST_S * n for n in (1, 2, 4, 8, 16, 32)] + [MAX_S] * 3
    failures.succeeded("m")
    assert failures.failed("m", error, now) == FIRST_S
    assert failures.of("m", now, frozenset({"another"})) is None


async def test_a_tier_takes_another_model_and_says_so(make: Any) -> None:
    async with make() as world:
        world.launcher.broken.add(world.port(BETA))
        for _ in range(2):
            forwarded, client = world.send("balanced")
            assert await ended(client) == 200
            assert forwarded.record.model_id == DELTA
            assert b"beta_8p0b_q4km_balanced could not be started" in client.fields
        assert world.launcher.count("start") == {world.port(BETA): 1, world.port(DELTA): 1}


async def test_a_model_that_crashes_while_it_loads_delays_no_other(make: Any) -> None:
    """In order: the other one is started before the first is given up."""
    async with make() as world:
        alpha = world.port(ALPHA)
        world.launcher.hold("start", alpha)
        waiting = world.send(ALPHA)[1]
        await world.launcher.until(("start", alpha))
        other = world.send(BETA)[1]
        world.launcher.show(alpha, ServerState.LOADING)
        world.launcher.release("start", alpha)
        world.launcher.prompt = False
        await all_quiet()
        world.launcher.show(alpha, ServerState.BACKOFF, BROKEN)
        assert await ended(other) == 200
        assert not waiting.answer.done()
        world.launcher.show(alpha, ServerState.FAILED, BROKEN)
        error = await ended(waiting)
        assert isinstance(error, NotReady)
        assert BROKEN in error.message


async def test_models_on_different_devices_load_side_by_side(make: Any) -> None:
    async with make() as world:
        cards = (f"  CUDA{at}: card (8192 MiB, 8000 MiB free)\n" for at in range(2))
        world.launcher.devices = f"Available devices:\n{''.join(cards)}"
        await world.daemon.gpus.devices.refresh()
        for model_id, device in ((ALPHA, "CUDA0"), (BETA, "CUDA1")):
            await world.daemon.set_settings(model_id, {"device": device})
        world.launcher.hold("start", world.port(ALPHA))
        waiting = world.send(ALPHA)[1]
        assert await world.ask(BETA) == 200
        assert not waiting.answer.done()
        world.launcher.release("start", world.port(ALPHA))
        assert await ended(waiting) == 200


# -- one request -------------------------------------------------------------------------------


TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize("template", [None, ggufs.TOOL_TEMPLATE])
async def test_a_request_starts_one_model_at_most(make: Any, template: str | None) -> None:
    """Also where files promise what no server keeps."""
    async with make(max_loaded=1, template=template) as world:
        for _ in range(2 * MODELS):
            before = len(world.launcher.calls)
            assert await world.ask("balanced", tools=TOOLS) == 200
            starts = Counter(c for c in world.launcher.calls[before:] if c[0] == "start")
            assert starts.total() <= 1, starts


async def test_a_server_that_says_otherwise_than_its_files_is_believed_and_logged_once(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(template=ggufs.TOOL_TEMPLATE) as world:
        assert world.gateway.fleet.offers[ALPHA].tools
        for _ in range(2):
            assert await world.ask(ALPHA) == 200
            assert (await world.learned(ALPHA)).tools is False
            assert world.gateway.fleet.offers[ALPHA].tools is False
            await world.daemon.finished(ALPHA, world.daemon.stop(ALPHA), PATIENCE_S)
        assert caplog.text.count("disagrees with the model's files: cannot do tools") == 1


async def test_a_server_that_was_too_busy_to_tell_is_asked_again(make: Any) -> None:
    async with make() as world:
        world.servers.busy = 1
        assert await world.ask(ALPHA) == 200
        assert world.servers.busy == 0
        assert (await world.learned(ALPHA)).slots == 2


async def test_patience_is_counted_once(make: Any) -> None:
    async with make() as world:
        beta, delta = world.port(BETA), world.port(DELTA)
        world.launcher.hold("start", beta)
        world.launcher.hold("start", delta)
        forwarded, client = world.send("balanced")
        await world.launcher.until(("start", beta))
        assert forwarded.wait_timer is not None
        until_then = forwarded.wait_timer.when()
        world.launcher.broken.add(beta)
        world.launcher.release("start", beta)
        await world.launcher.wait_for(lambda: ("start", delta) in world.launcher.calls)
        assert forwarded.route.starts == DELTA
        assert forwarded.wait_timer is not None
        assert forwarded.wait_timer.when() == pytest.approx(until_then, abs=0.5)
        world.launcher.release("start", delta)
        await ended(client)


async def test_one_whose_model_was_stopped_again_does_not_start_it_again(make: Any) -> None:
    async with make() as world:
        alpha = world.port(ALPHA)
        world.launcher.hold("start", alpha)
        client = world.send(ALPHA)[1]
        await world.launcher.until(("start", alpha))
        world.launcher.show(alpha, ServerState.LOADING)
        world.launcher.prompt = False
        world.launcher.release("start", alpha)
        await all_quiet()
        world.daemon.stop(ALPHA)
        error = await ended(client)
        assert isinstance(error, MagidError)
        await all_quiet()
        assert world.launcher.count("start")[alpha] == 1


async def test_a_get_starts_and_stops_nothing(make: Any) -> None:
    async with make(max_loaded=1) as world:
        assert await world.ask(ALPHA) == 200
        for model in (BETA, "balanced", GAMMA):
            with pytest.raises(NotReady, match="a GET starts nothing"):
                world.send(model, "GET")
        assert await ended(world.send(ALPHA, "GET")[1]) == 200
        assert states(world.daemon) == {ALPHA: ServerState.READY}
        assert world.launcher.calls == [("start", world.port(ALPHA))]
