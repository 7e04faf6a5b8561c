"""The GPUs that servers can use, and the memory that servers would need."""

import time
from collections.abc import Iterable
from dataclasses import replace

from magid.api.context import Context
from magid.api.memory_views import model_memory
from magid.api.reply import Call, Reply, reply
from magid.catalog.effective import Model, server_specs
from magid.control.prediction_cache import Prediction
from magid.control.verdicts import deciding, verdict_of, verdict_placed, verdict_running
from magid.errors import LlamaServerMissing
from magid.gpus.fitting import Room, Verdict
from magid.gpus.placing import NoDevice, NoRoom
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerState


async def list_gpus(ctx: Context, _call: Call) -> Reply:
    """The GPUs as llama-server listed them last, and which servers are told to use them."""
    return reply(ctx.gpus())


async def refresh_gpus(ctx: Context, _call: Call) -> Reply:
    """Ask llama-server for the GPUs again, and wait for its list."""
    await ctx.daemon.gpus.refresh()
    return reply(ctx.gpus())


async def get_memory(ctx: Context, call: Call) -> Reply:
    """What memory one server of the model would need, and whether that fits now."""
    ctx.need_listing()
    daemon = ctx.daemon
    model = daemon.model(call.params["modelId"])
    own = _specs(ctx, model)
    spec = _asked_for(own[0], call)
    devices = daemon.gpus.devices.of(spec.engine)
    decision = await daemon.gpus.placing.decided(spec)
    if isinstance(decision.answer, NoRoom | NoDevice) and devices.present.gpus:
        await devices.refresh()  # there may be room since the last list
        decision = await daemon.gpus.placing.decided(spec)
    answer = decision.answer
    running = _running(ctx, own) if spec == own[0] else None
    place = answer if running is None else running.place or answer
    if place is None or not decision.known:
        prediction = await _prediction(ctx, spec)
    else:
        prediction = deciding(place, decision.known)
    gpus, placing = devices.present.gpus, daemon.gpus.placing
    memory = await placing.holders.memory()
    room = Room(gpus, memory.available, placing.holders.limit_of(spec))
    capacity = placing.holders.capacity(gpus, port=spec.port, engine=spec.engine)
    if prediction.estimate is None:
        fit = daemon.gpus.fits.by_header(model, spec, memory, decision, prediction.problem)
        verdict = Verdict(fit.fits, fit.why)
        return reply(model_memory(spec, prediction, room, capacity, verdict, None, fit.source))
    placement = answer if isinstance(answer, Placement) else None
    verdict = (
        verdict_of(prediction, room)
        if answer is None
        else verdict_placed(answer, prediction.estimate, memory.available)
    )
    if running is not None:
        verdict, placement = verdict_running(running, prediction.estimate), running.place
    return reply(model_memory(spec, prediction, room, capacity, verdict, placement))


def _running(ctx: Context, specs: Iterable[ServerSpec]) -> ObservedServer | None:
    """Returns a server that runs with the settings of one of these."""
    hashes = {spec.hash for spec in specs}
    ready = (s for s in ctx.daemon.observed().values() if s.state is ServerState.READY)
    return next((server for server in ready if server.spec_hash in hashes), None)


def _specs(ctx: Context, model: Model) -> tuple[ServerSpec, ...]:
    """Returns the model's servers; one, if it has no port."""
    config = ctx.daemon.config
    ports = model.entry.ports or (config.port_range[0],)
    return server_specs(model, config.llama_server_host, ports)


def _asked_for(spec: ServerSpec, call: Call) -> ServerSpec:
    query = call.query
    return replace(
        spec,
        ctx_size=query.get("ctxSize", spec.ctx_size),
        parallel=query.get("parallel", spec.parallel),
    )


async def _prediction(ctx: Context, spec: ServerSpec) -> Prediction:
    try:
        program = await ctx.program(spec.engine)
    except LlamaServerMissing as error:
        return Prediction(time.time(), problem=error.message)
    return await ctx.daemon.gpus.predictions.of(spec, program)
