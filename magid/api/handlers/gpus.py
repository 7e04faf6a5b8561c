"""The GPUs that servers can use, and the memory that servers would need."""

import time
from dataclasses import replace

from magid.api.context import Context
from magid.api.gpu_views import gpus_reply
from magid.api.memory_views import model_memory
from magid.api.reply import Call, Reply, reply
from magid.catalog.effective import Model, server_specs
from magid.control.prediction_cache import Prediction
from magid.errors import LlamaServerMissing
from magid.gpus.fitting import Room
from magid.host.usage import machine_memory
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState


async def list_gpus(ctx: Context, _call: Call) -> Reply:
    """The GPUs as llama-server listed them last, and which servers are told to use them."""
    return reply(gpus_reply(ctx.daemon.devices.present, ctx.daemon.observed().values()))


async def refresh_gpus(ctx: Context, _call: Call) -> Reply:
    """Ask llama-server for the GPUs again, and wait for its list."""
    listed = await ctx.daemon.devices.refresh()
    return reply(gpus_reply(listed, ctx.daemon.observed().values()))


async def get_memory(ctx: Context, call: Call) -> Reply:
    """What memory one server of the model would need, and whether that fits now."""
    ctx.need_listing()
    daemon = ctx.daemon
    own = _specs(ctx, daemon.model(call.params["modelId"]))
    spec = _asked_for(own[0], call)
    prediction = await _prediction(ctx, spec)
    listed = daemon.devices.present
    if prediction.estimate is not None and prediction.estimate.devices:
        listed = await daemon.devices.refresh()
    limit = spec.memory_max if daemon.launcher.has_model_users else None
    room = Room(listed.gpus, machine_memory()["available"], limit)
    observed = daemon.observed().values()
    running = {server.spec_hash for server in observed if server.state is ServerState.READY}
    runs = spec == own[0] and any(one.hash in running for one in own)
    return reply(model_memory(spec, prediction, room, runs=runs))


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
        program = await ctx.program()
    except LlamaServerMissing as error:
        return Prediction(time.time(), problem=error.message)
    return await ctx.daemon.predictions.of(spec, program)
