"""All verbs, in the order of the manual."""

from magid.cli.parser import Verbs
from magid.cli.verbs import (
    chat,
    completion,
    doctor,
    events,
    logs,
    plan,
    profiles,
    servers,
    settings,
    status,
    tokens,
    top,
    version,
)

MODULES = (
    status, servers, settings, plan, profiles, logs, chat, top, events, doctor,
    tokens, version, completion,
)  # fmt: skip


def add(verbs: Verbs) -> None:
    for module in MODULES:
        module.add(verbs)
