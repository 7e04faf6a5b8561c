"""Reads the table in which llama-server predicts its memory (`--fit on -lv 4`). Pure.

It prints the table before it reads a byte of the weights: one row for each device, one for the
host's memory, and one for each kind of buffer in the host's memory that a back end has of its own
(weights repacked for the processor, for example). While it looks for settings that fit, it prints
the table again and again. The first one is for the settings that it was started with.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

_MIB: Final = 1 << 20
_MOST_MIB: Final = 1 << 40
_MOST_ROWS: Final = 256
_HEAD: Final = "| memory breakdown [MiB]"
_ROW: Final = re.compile(r"\| {2,8}- (?P<name>[^|]{1,300}?) *\|(?P<figures>[^|]{1,200})\|")
_NAME: Final = re.compile(r"(?P<name>[^ ()]{1,64})(?: \((?P<description>.*)\))?")
_KINDS: Final = r"(\d{1,13}) = +(\d{1,13}) \+ +(\d{1,13}) \+ +(\d{1,13})"
_ON_DEVICE: Final = re.compile(
    rf" *(\d{{1,13}}) = +(-?\d{{1,13}}) \+ \( *{_KINDS}\) \+ +-?\d{{1,20}} *", re.ASCII
)
_ON_HOST: Final = re.compile(rf" *{_KINDS} *", re.ASCII)
_REDUCED: Final = re.compile(r"context size reduced from (\d{1,10}) to (?P<to>\d{1,10}) ", re.ASCII)


class Need(Struct, frozen=True):
    """Memory of one server in one place, in bytes. Each is rounded down to whole MiB."""

    model: int = 0  # weights
    context: int = 0  # KV cache and other state of the context
    compute: int = 0  # what is computed with

    @property
    def total(self) -> int:
        return self.model + self.context + self.compute

    def __add__(self, other: "Need") -> "Need":
        return Need(
            self.model + other.model, self.context + other.context, self.compute + other.compute
        )


class DeviceNeed(Struct, frozen=True):
    """What one device has to hold."""

    name: str  # what `--device` takes
    description: str
    need: Need


class HostNeed(Struct, frozen=True):
    """Buffers of one kind in the host's memory: `Host`, or one that a back end has of its own."""

    name: str
    need: Need


class Estimate(Struct, frozen=True):
    """What a server needs, by llama-server's own account."""

    devices: tuple[DeviceNeed, ...] = ()
    host: tuple[HostNeed, ...] = ()
    fitting_ctx_size: int | None = None  # to which llama-server would reduce the context itself

    @property
    def host_total(self) -> Need:
        return sum((one.need for one in self.host), start=Need())


def estimate_in(lines: Iterable[str]) -> Estimate | None:
    """Returns what the first table in these lines says; None if there is no table with rows."""
    devices: dict[str, DeviceNeed] = {}
    host: dict[str, HostNeed] = {}
    reduced: int | None = None
    tables = 0
    for line in lines:
        if _HEAD in line:
            tables += 1
        elif found := _REDUCED.search(line):
            reduced = int(found["to"])
        elif tables == 1 and (row := _row(line)) and len(devices) + len(host) < _MOST_ROWS:
            if isinstance(row, DeviceNeed):
                devices.setdefault(row.name, row)
            else:
                host.setdefault(row.name, row)
    if not devices and not host:
        return None
    return Estimate(tuple(devices.values()), tuple(host.values()), reduced)


def _row(line: str) -> DeviceNeed | HostNeed | None:
    row = _ROW.search(line)
    name = row and _NAME.fullmatch(row["name"])
    if not row or not name:
        return None
    if figures := _ON_DEVICE.fullmatch(row["figures"]):
        need = _need(figures.groups()[3:])
        about = name["description"] or ""
        return None if need is None else DeviceNeed(name["name"], about, need)
    if figures := _ON_HOST.fullmatch(row["figures"]):
        need = _need(figures.groups()[1:])
        return None if need is None else HostNeed(name["name"], need)
    return None


def _need(figures: Iterable[str]) -> Need | None:
    model, context, compute = map(int, figures)
    if max(model, context, compute) > _MOST_MIB:
        return None
    return Need(model * _MIB, context * _MIB, compute * _MIB)
