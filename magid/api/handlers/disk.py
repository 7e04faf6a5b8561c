"""Handlers of what models take on the disk, and of their removal."""

from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import disk
from magid.control.removal import RemovalResult
from magid.errors import InvalidInput
from magid.wording.counts import counted
from magid.wording.sizes import size

_STOP_S = 120.0


async def delete_model(ctx: Context, call: Call) -> Reply:
    """Remove the files of a model that no other model needs; what was decided of it stays."""
    model_id, query = call.params["modelId"], call.query
    ctx.need_listing()
    if not query.get("files"):
        raise InvalidInput(
            "cannot remove a model without files=true: this removes its files from the disk; "
            "PUT .../enabled leaves a model out instead",
            field="files",
        )
    if query.get("dryRun"):
        return reply(_removal_reply(await ctx.daemon.removals.plan(model_id)))
    known = ctx.daemon.model(model_id).model_id
    if query.get("stop"):
        await ctx.daemon.finished(known, ctx.daemon.stop(known), _STOP_S)
    forget = query.get("forget", False)
    return reply(_removal_reply(await ctx.daemon.removals.remove(known, forget=forget)))


def _removal_reply(result: RemovalResult) -> disk.RemovalReply:
    files, freed = counted(len(result.removed), "file"), size(result.freed)
    said = f"{files} with {freed} would go" if result.is_plan else f"{files} removed, {freed} freed"
    return {
        "message": f"{result.model_id}: {said}",
        "modelId": result.model_id,
        "removed": list(result.removed),
        "freedBytes": result.freed,
        "stays": [{"path": one.path, "reason": one.reason} for one in result.stays],
        "forgotten": result.is_forgotten,
        "dryRun": result.is_plan,
    }
