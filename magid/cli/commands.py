"""All verbs, in the order of the manual."""

from magid.cli import logs, looking, overrides, planning, profile, servers, version
from magid.cli.verbs import Verbs

MODULES = (looking, planning, servers, overrides, profile, logs, version)


def add(verbs: Verbs) -> None:
    for module in MODULES:
        module.add(verbs)
