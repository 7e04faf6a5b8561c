"""Downloads: start, follow, pause, continue, remove; what a repository has, and what is newer."""

from typing import TYPE_CHECKING, Any

from magid.api.context import Context
from magid.api.library_views import download_view, downloads_view, update_view, variants_view
from magid.api.reply import Call, Reply, reply
from magid.discovery.found import FoundModel
from magid.library.downloads.updates import outdated
from magid.library.source import parse

if TYPE_CHECKING:  # imported with the first body
    from magid.api.schemas import bodies


async def list_downloads(ctx: Context, _call: Call) -> Reply:
    """All downloads, the newest first."""
    statuses = await ctx.downloads.listed()
    library = ctx.daemon.config.library_root
    return reply(downloads_view(statuses, library=library, has_units=_has_units(ctx)))


async def create_download(ctx: Context, call: Call) -> Reply:
    """Download a model, or continue to; the answer comes at once, and events tell the rest."""
    given: bodies.DownloadBody = call.body
    status = await ctx.downloads.pull(parse(given.source, draft=given.draft))
    return reply(download_view(status, has_units=_has_units(ctx)), 202)


async def get_download(ctx: Context, call: Call) -> Reply:
    """One download."""
    return await _one(ctx, ctx.downloads.one(call.params["downloadId"]))


async def pause_download(ctx: Context, call: Call) -> Reply:
    """Stop a download, and keep what has come."""
    return await _one(ctx, ctx.downloads.pause(call.params["downloadId"]))


async def resume_download(ctx: Context, call: Call) -> Reply:
    """Continue a download that is paused or has failed."""
    return await _one(ctx, ctx.downloads.resume(call.params["downloadId"]))


async def remove_download(ctx: Context, call: Call) -> Reply:
    """Stop a download, and remove what has come; a model that is whole stays."""
    status = await ctx.downloads.remove(call.params["downloadId"])
    return reply({"message": f"Download of {status.source.text} removed"})


async def list_variants(ctx: Context, call: Call) -> Reply:
    """The models of a repository, with their sizes, asked of the hub. Needs the scope admin."""
    source = parse(call.query.get("source", ""))
    found = await ctx.downloads.ask("list", source)
    gpus = ctx.daemon.gpus.devices.present.gpus
    on_gpus = sum(gpu.device.total or 0 for gpu in gpus)
    memory = await ctx.daemon.gpus.machine.memory()
    return reply(variants_view(source, found, on_gpus, memory["total"]))


async def list_outdated(ctx: Context, _call: Call) -> Reply:
    """Which models have newer files, asked of the hub; changes nothing. Needs the scope admin."""
    models = ctx.need_listing().models
    files = {
        model_id: [model.found.path, *model.found.files[1:], *_beside(model.found)]
        for model_id, model in models.items()
    }
    found = await outdated(ctx.downloads, files)
    return reply({"models": [update_view(each) for each in found]})


def _beside(found: FoundModel) -> list[str]:
    drafts = [draft.path for draft in found.drafts if draft.path is not None]
    return [*(companion.path for companion in found.companions), *drafts]


async def _one(ctx: Context, status: Any) -> Reply:
    return reply(download_view(await status, has_units=_has_units(ctx)))


def _has_units(ctx: Context) -> bool:
    return ctx.daemon.launcher.has_model_users
