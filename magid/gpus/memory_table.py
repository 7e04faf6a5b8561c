"""Reads the table in which llama-server predicts its memory (`--fit on -lv 4`). Pure.

It prints the table before it reads a byte of the weights: one row for each device, one for the
host's memory, and one for each kind of buffer in the host's memory that a back end has of its own
(weights repacked for the processor, for example). While it looks for settings that fit, it prints
the table again and again. The first one is for the settings that it was started with. With a draft
a second table follows, announced as that of an "extra model": what the draft takes besides.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct, structs

_MIB: Final = 1 << 20
_MOST_MIB: Final = 1 << 40
_MOST_ROWS: Final = 128
_EXTRA: Final = " for the extra model "
_HOST: Final = "Host"
_HEAD: Final = "| memory breakdown [MiB]"
_ROW: Final = re.compile(r"\| {2,8}- (?P<name>[^|]{1,300}?) *\|(?P<figures>[^|]{1,200})\|")
_NAME: Final = re.compile(r"(?P<name>[^ ()]{1,64})(?: \((?P<description>.*)\))?")
_KINDS: Final = r"(\d{1,13}) = +(\d{1,13}) \+ +(\d{1,13}) \+ +(\d{1,13})"
_ON_DEVICE: Final = re.compile(
    rf" *(\d{{1,13}}) = +(-?\d{{1,13}}) \+ \( *{_KINDS}\) \+ +-?\d{{1,20}} *", re.ASCII
)
_KINDS_OF_MEMORY: Final = 3
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
    draft: int | None = None  # bytes of it that a draft takes, in all places
    is_mapped: bool = True  # the weights in the host's memory are pages of their file

    @property
    def host_total(self) -> Need:
        return sum((one.need for one in self.host), start=Need())

    @property
    def rounding(self) -> int:
        """What one device may take beyond its figures: each kind was rounded down to whole MiB."""
        return _KINDS_OF_MEMORY * _MIB * (1 if self.draft is None else 2)

    @property
    def host_held(self) -> int:
        """Returns what of the host's memory the kernel cannot drop and read again from a file.

        That are all but the weights in `Host`: what a back end has of its own is a copy.
        """
        mapped = (one.need.model for one in self.host if one.name == _HOST and self.is_mapped)
        return self.host_total.total - sum(mapped)


def with_adapters(estimate: Estimate, size: int) -> Estimate:
    """Returns what a server with LoRA adapters of this size needs: llama-server leaves them out.

    Each device has those of its own layers. How they are split is not known, so each counts with
    all of them.
    """
    if not size:
        return estimate
    more = Need(model=size)
    if estimate.devices:
        devices = tuple(structs.replace(one, need=one.need + more) for one in estimate.devices)
        return structs.replace(estimate, devices=devices)
    first, *others = estimate.host
    return structs.replace(estimate, host=(structs.replace(first, need=first.need + more), *others))


def estimate_in(lines: Iterable[str]) -> Estimate | None:
    """Returns what the first table in these lines says, and the first one of a draft.

    None if there is no table with rows.
    """
    model, draft, other = _Table(), _Table(), _Table()
    table = other
    reduced: int | None = None
    is_extra = False
    for line in lines:
        if _EXTRA in line:
            is_extra = True
        elif _HEAD in line:
            first = draft if is_extra else model
            table = first if first.is_new else other
            table.is_new, is_extra = False, False
        elif found := _REDUCED.search(line):
            reduced = int(found["to"])
        elif row := _row(line):
            table.add(row)
    if not model.rows:
        return None
    both = model.rows | {name: _sum(row, model.rows.get(name)) for name, row in draft.rows.items()}
    return Estimate(
        tuple(row for row in both.values() if isinstance(row, DeviceNeed)),
        tuple(row for row in both.values() if isinstance(row, HostNeed)),
        reduced,
        sum(row.need.total for row in draft.rows.values()) if draft.rows else None,
    )


class _Table:
    """The rows of one table by their names; of equal names the first counts."""

    def __init__(self) -> None:
        self.rows: dict[str, DeviceNeed | HostNeed] = {}
        self.is_new = True

    def add(self, row: DeviceNeed | HostNeed) -> None:
        if len(self.rows) < _MOST_ROWS:
            self.rows.setdefault(row.name, row)


def _sum(row: DeviceNeed | HostNeed, other: DeviceNeed | HostNeed | None) -> DeviceNeed | HostNeed:
    return row if other is None else structs.replace(other, need=row.need + other.need)


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
