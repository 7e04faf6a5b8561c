"""What the launcher has to know of a unit that is loaded. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from magid.launcher.sandbox import ORDER_FIELD, SPEC_FIELD, field_of

UNIT: Final = "org.freedesktop.systemd1.Unit"
_SERVICE: Final = "org.freedesktop.systemd1.Service"
# What UnitFacts are made of. One by one: all properties of a unit, which are 400, take PID 1 and
# the bus twice as long, and they are asked for while it starts a server.
FACTS: Final = (
    *((UNIT, name) for name in ("Transient", "ActiveState", "FragmentPath")),
    *((_SERVICE, name) for name in ("LogExtraFields", "TimeoutStopUSec", "NRestarts")),
)
_LONGEST_STOP_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """The properties of one loaded unit that matter here."""

    transient: bool
    active: str  # ActiveState
    spec: str
    order: str
    fragment: str
    stop_s: float
    restarts: int  # NRestarts: automatic restarts since the last explicit start

    @property
    def is_ours(self) -> bool:
        return self.transient and bool(self.spec)

    @property
    def is_down(self) -> bool:
        return self.active in ("inactive", "failed")


def seen_in(properties: Mapping[str, Any]) -> UnitFacts:
    """Picks the facts from properties of a unit."""
    fields = [bytes(field) for field in properties.get("LogExtraFields", ())]
    return UnitFacts(
        transient=bool(properties.get("Transient", False)),
        active=str(properties.get("ActiveState", "")),
        spec=field_of(fields, SPEC_FIELD),
        order=field_of(fields, ORDER_FIELD),
        fragment=str(properties.get("FragmentPath", "")),
        stop_s=min(int(properties.get("TimeoutStopUSec", 0)) / 1_000_000, _LONGEST_STOP_S),
        restarts=int(properties.get("NRestarts", 0)),
    )
