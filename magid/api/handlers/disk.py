"""Handlers of what models take on the disk, and of their removal."""

import asyncio
from datetime import UTC, datetime
from pathlib import PurePath

from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import disk
from magid.api.views import when
from magid.control.removal import RemovalResult
from magid.errors import InvalidInput
from magid.library.disk_report import DiskReport, files_of_models, report
from magid.library.disk_usage import FileOnDisk, RootUsage, usage_of
from magid.wording.counts import counted
from magid.wording.sizes import size

_STOP_S = 120.0


async def delete_model(ctx: Context, call: Call) -> Reply:
    """Remove the files of a model that no other model needs; what was decided of it stays."""
    ctx.need_listing()
    known, query = ctx.daemon.model(call.params["modelId"]).model_id, call.query
    if not query.get("files"):
        raise InvalidInput(
            "cannot remove a model without files=true: this removes its files from the disk; "
            "PUT .../enabled leaves a model out instead",
            field="files",
        )
    if query.get("dryRun"):
        return reply(_removal_reply(await ctx.daemon.removals.plan(known)))
    if query.get("stop"):
        await ctx.daemon.finished(known, ctx.daemon.stop(known), _STOP_S)
    forget = query.get("forget", False)
    return reply(_removal_reply(await ctx.daemon.removals.remove(known, forget=forget)))


async def get_disk(ctx: Context, call: Call) -> Reply:
    """What the model folders hold: models, unfinished downloads, files of no model, free space."""
    config, now = ctx.daemon.config, ctx.need_listing()
    paths = [str(path) for path in config.model_paths]
    models = {name: model.found for name, model in now.models.items()}
    wanted = files_of_models(models)

    async def look() -> list[RootUsage]:
        """Starts a process for each folder."""
        looks = (asyncio.to_thread(usage_of, path, {*paths} - {path}, wanted) for path in paths)
        return await asyncio.gather(*looks)

    roots = await ctx.disk_turns.take(look)
    absent = {root.path for root in now.disk.unreadable_roots if root.is_absent}
    seen = [root for root in roots if root.path not in absent or not now.may_lack_folders]
    return reply(_disk_reply(report(seen, models), str(config.library_root)))


def _disk_reply(found: DiskReport, library: str) -> disk.DiskReply:
    return {
        "roots": [
            {"path": root.path, "isLibrary": PurePath(library).is_relative_to(root.path),
             "totalBytes": root.total, "freeBytes": root.free, "problem": root.problem}
            for root in found.roots
        ],
        "models": [
            {"modelId": one.model_id, "sizeBytes": one.size, "sharedBytes": one.shared}
            for one in found.models
        ],
        "unfinished": [_file_reply(file) for file in found.unfinished],
        "others": [_file_reply(file) for file in found.others],
        "smallBytes": found.rest,
    }  # fmt: skip


def _file_reply(file: FileOnDisk) -> disk.FileOnDiskReply:
    changed_at = datetime.fromtimestamp(file.changed_at, UTC)
    return {"path": file.path, "sizeBytes": file.size, "changedAt": when(changed_at) or ""}


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
