"""Handlers of profiles: named selections of models to run."""

import asyncio
from collections.abc import Iterable
from typing import Final, cast

from magid.api import views
from magid.api.context import Context
from magid.api.reply import Call, Reply, cached, digest, etag_of, reply
from magid.api.schemas import access as access_schemas
from magid.api.schemas import models
from magid.catalog.profile import Profile, TextFault, check_slug, parse
from magid.errors import InvalidInput, InvalidProfile
from magid.http.json_text import to_json

_MOST_FAULTS: Final = 20


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


async def get_profile_text(ctx: Context, call: Call) -> Reply:
    """A profile's file as it is, and what is wrong in it."""
    name = check_slug(call.params["name"])
    found = await ctx.profile_turns.take(lambda: asyncio.to_thread(ctx.daemon.profiles.text, name))
    answer: access_schemas.ProfileTextReply = {
        "profileName": name,
        "text": found.text,
        "faults": _shown(found.faults[:_MOST_FAULTS]),
    }
    return cached(to_json(answer), f'"{found.revision}"', call)


async def create_profile(ctx: Context, call: Call) -> Reply:
    """Create a profile."""
    return await _created(ctx, _profile(call))


async def create_profile_text(ctx: Context, call: Call) -> Reply:
    """Create a profile with this YAML as its file."""
    return await _created(ctx, await _profile_in(ctx, call.body.text), call.body.text)


async def _created(ctx: Context, profile: Profile, text: str | None = None) -> Reply:
    name, path = await ctx.daemon.profiles.create(profile, text)
    answer: access_schemas.ProfileCreated = {
        "message": f"Profile '{profile.name}' created successfully",
        "profileName": name,
        "path": str(path),
    }
    return reply(answer, 201)


async def replace_profile(ctx: Context, call: Call) -> Reply:
    """Replace a profile; If-Match is honoured."""
    return await _replaced(ctx, call, _profile(call))


async def replace_profile_text(ctx: Context, call: Call) -> Reply:
    """Replace a profile's file by this YAML, comments included; If-Match is honoured."""
    return await _replaced(ctx, call, await _profile_in(ctx, call.body.text), call.body.text)


async def _replaced(ctx: Context, call: Call, profile: Profile, text: str | None = None) -> Reply:
    name = check_slug(call.params["name"])
    present = await asyncio.to_thread(ctx.daemon.profiles.revision, name)
    await ctx.daemon.profiles.replace(name, profile, _expected(call.if_match, present), text)
    answer: access_schemas.ProfileReplaced = {
        "message": f"Profile '{name}' replaced successfully",
        "profileName": name,
        "active": ctx.daemon.snapshot.active.name == name,
    }
    return reply(answer)


def _profile(call: Call) -> Profile:
    from magid.files import explanation  # late, as `schemas.bodies` is

    return cast(Profile, explanation.value_of(call.body))


async def _profile_in(ctx: Context, text: str) -> Profile:
    """Returns the profile that the text says. Raises InvalidInput, with faults in `errors`.

    One text at a time: each thread that parses may keep the event loop waiting for 5 ms.
    """
    try:
        return await ctx.profile_turns.take(
            lambda: asyncio.to_thread(parse, text.encode(), "the text")
        )
    except InvalidProfile as error:
        faults = cast("list[TextFault]", error.details["errors"])
        raise InvalidInput(
            error.message, field=faults[0].field, errors=_shown(faults[:_MOST_FAULTS])
        ) from None


def _shown(faults: Iterable[TextFault]) -> list[access_schemas.ProfileFault]:
    return [{"line": one.line, "field": one.field, "reason": one.reason} for one in faults]


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
