"""The GPUs that servers can use."""

from magid.api.context import Context
from magid.api.gpu_views import gpus_reply
from magid.api.reply import Call, Reply, reply


async def list_gpus(ctx: Context, _call: Call) -> Reply:
    """The GPUs as llama-server listed them last, and which servers are told to use them."""
    return reply(gpus_reply(ctx.daemon.devices.present, ctx.daemon.observed().values()))


async def refresh_gpus(ctx: Context, _call: Call) -> Reply:
    """Ask llama-server for the GPUs again, and wait for its list."""
    listed = await ctx.daemon.devices.refresh()
    return reply(gpus_reply(listed, ctx.daemon.observed().values()))
