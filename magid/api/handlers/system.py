"""Handlers of what magid runs with: the settings in force, and llama-servers side by side."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import system as schemas
from magid.api.views import when
from magid.config import loading

if TYPE_CHECKING:
    from magid.library.engine_store import Engine


async def get_configuration(ctx: Context, call: Call) -> Reply:
    """The settings in force since the start, and where each comes from."""
    found = ctx.configuration
    values = {} if found is None else loading.values(found.config)
    answer: schemas.ConfigurationReply = {
        "path": None if found is None or found.path is None else str(found.path),
        "settings": [
            {
                "key": setting.key,
                "value": values[setting.key],
                "default": json.loads(setting.default),
                "source": found.sources[setting.key],
                "description": setting.description,
            }
            for setting in loading.settings()
            if found is not None
        ],
    }
    return reply(answer)


async def get_engines(ctx: Context, call: Call) -> Reply:
    """The llama-servers that were added side by side, and which of them is used."""
    found = await ctx.engines.look()
    used = None if ctx.daemon.config.llama_server_path else found.default
    models = ctx.daemon.snapshot.models.values()
    answer: schemas.EnginesReply = {
        "used": used,
        "engines": [
            _shown(one, used, [m.model_id for m in models if m.settings.engine == one.name])
            for one in found.listed
        ],
    }
    return reply(answer)


def _shown(engine: "Engine", used: str | None, models: list[str]) -> schemas.ListedEngine:
    return {
        "name": engine.name,
        "version": engine.version,
        "used": engine.name == used,
        "gpus": list(engine.gpus),
        "models": models,
        "source": engine.source,
        "sha256": engine.sha256 or None,
        "addedAt": when(datetime.fromtimestamp(engine.added_at, UTC)) or "",
    }
