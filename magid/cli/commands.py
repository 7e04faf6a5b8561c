"""All verbs, in groups: the order of `magictl --help` and of the manual."""

from magid.cli.parser import Verbs
from magid.cli.verbs import (
    capture,
    chat,
    completion,
    config,
    disk,
    doctor,
    engines,
    events,
    fits,
    gpus,
    help_verb,
    import_verb,
    logs,
    open_verb,
    outdated,
    plan,
    profiles,
    pull,
    servers,
    settings,
    status,
    tokens,
    top,
    usage,
    version,
)

MODULES = (
    status, servers, settings, plan, profiles, logs, chat, top, events, doctor,
    tokens, open_verb, version, completion, config, usage, gpus, fits, pull, outdated, import_verb,
    engines, disk, capture, help_verb,
)  # fmt: skip
GROUPS = {
    "Models": ("ls", "show", "cat", "rescan", "pull", "download", "outdated", "df", "rm"),
    "Servers": ("status", "ps", "top", "events", "logs", "start", "stop", "restart", "wait"),
    "Decisions": (
        "enable", "disable", "tier", "thinking", "set", "profile", "diff", "apply", "import",
    ),
    "Prompts": ("run", "route", "usage", "capture"),
    "This machine": (
        "open", "gpus", "fits", "engine", "doctor", "config", "token", "version", "completion",
        "help",
    ),
}  # fmt: skip


def add(verbs: Verbs) -> None:
    for module in MODULES:
        module.add(verbs)
