"""Handlers of profiles: named selections of models to run."""

import asyncio
from typing import cast

from magid.api import views
from magid.api.context import Context
from magid.api.reply import Call, Reply, cached, digest, etag_of, reply
from magid.api.schemas import access as access_schemas
from magid.api.schemas import models
from magid.catalog.profile import Profile, check_slug
from magid.http.json_text import to_json


async def list_profiles(ctx: Context, call: Call) -> Reply:
    """The names of all profiles."""
    names = await asyncio.to_thread(ctx.daemon.profiles.list)
    body = to_json(names)
    return cached(body, etag_of(body), call)


async def get_profile(ctx: Context, call: Call) -> Reply:
    """One profile, whether it is active, and which of its models are not there."""
    name = check_slug(call.params["name"])
    store = ctx.daemon.profiles
    profile, revision = await asyncio.to_thread(lambda: (store.get(name), store.revision(name)))
    snapshot = ctx.daemon.snapshot
    answer = views.profile_reply(
        profile,
        active=snapshot.active.name == name,
        missing=views.missing_models(profile, snapshot.models),
    )
    body = to_json(answer)
    # The answer has a tag of its own, because it contains `active`; If-Match compares only the
    # file's revision.
    return cached(body, f'"{revision}.{digest(body)}"', call)


async def create_profile(ctx: Context, call: Call) -> Reply:
    """Create a profile."""
    profile = _profile(call)
    name, path = await ctx.daemon.profiles.create(profile)
    answer: access_schemas.ProfileCreated = {
        "message": f"Profile '{profile.name}' created successfully",
        "profileName": name,
        "path": str(path),
    }
    return reply(answer, 201)


async def replace_profile(ctx: Context, call: Call) -> Reply:
    """Replace a profile; If-Match is honoured."""
    name = check_slug(call.params["name"])
    present = await asyncio.to_thread(ctx.daemon.profiles.revision, name)
    expected = _expected(call.if_match, present)
    await ctx.daemon.profiles.replace(name, _profile(call), expected)
    answer: access_schemas.ProfileReplaced = {
        "message": f"Profile '{name}' replaced successfully",
        "profileName": name,
        "active": ctx.daemon.snapshot.active.name == name,
    }
    return reply(answer)


def _profile(call: Call) -> Profile:
    from magid.files import explanation  # late, as `schemas.bodies` is

    return cast(Profile, explanation.value_of(call.body))


def _expected(if_match: str | None, present: str) -> str | None:
    """Returns the revision that the file must have; of several tags the current one if present."""
    if if_match is None or if_match.strip() == "*":
        return None
    revisions = [tag.strip().strip('"').partition(".")[0] for tag in if_match.split(",")]
    return present if present in revisions else revisions[0]


async def delete_profile(ctx: Context, call: Call) -> Reply:
    """Delete a profile; not the active one."""
    name = check_slug(call.params["name"])
    await ctx.daemon.profiles.delete(name)
    answer: models.Message = {"message": f"Profile '{name}' deleted successfully"}
    return reply(answer)


async def activate(ctx: Context, call: Call) -> Reply:
    """Make a profile the active one, and apply it."""
    name = check_slug(call.params["name"])
    wants_apply = call.query.get("apply", True)
    dry_run = call.query.get("dryRun", False)
    plan = await ctx.daemon.activate(name, apply=wants_apply, dry_run=dry_run)
    applied = wants_apply and not dry_run and not plan.is_empty
    said = "Nothing was changed" if dry_run else f"Profile '{name}' activated"
    answer: access_schemas.Activated = {
        **views.plan_reply(said, plan, ctx.conditions()),
        "profileName": name,
        "applied": applied,
    }
    return reply(answer, 202 if applied else 200)
