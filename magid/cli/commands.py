"""All verbs, in the order of the manual."""

from magid.cli import (
    completion,
    doctor,
    following,
    logs,
    looking,
    overrides,
    planning,
    profile,
    run,
    servers,
    token,
    top,
    version,
)
from magid.cli.verbs import Verbs

MODULES = (
    looking, servers, overrides, planning, profile, logs, run, top, following, doctor,
    token, version, completion,
)  # fmt: skip


def add(verbs: Verbs) -> None:
    for module in MODULES:
        module.add(verbs)
