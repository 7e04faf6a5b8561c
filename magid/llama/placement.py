"""Where one process of a server runs: what was decided when it was started.

It is no part of `ServerSpec`, and so not of its hash: a server keeps its place although another one
would be chosen today. The launcher writes it into the unit, where magid reads it again.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from magid.errors import InvalidInput
from magid.llama.setting_values import Integer, Text

MAX_DEVICES: Final = 32
MAX_BYTES: Final = 2**60
FIELD: Final = "MAGI_PLACEMENT"
_NAME: Final = Text("[A-Za-z]{1,32}[0-9]{0,5}", "a device of llama-server")
_ID: Final = Text("[A-Za-z0-9:.-]{1,64}", "the id of a GPU")
_UUID: Final = re.compile(r"(?:GPU|MIG)-[0-9A-Fa-f-]{36}")
_BYTES: Final = Integer(0, MAX_BYTES)
_LAYERS: Final = Integer(0, 9999)
_CTX: Final = Integer(1, 2**24)
_MIB: Final = Integer(0, 2**30)
_SHARE: Final = Integer(0, 2**20)
_REMOTE: Final = re.compile(
    r"(?P<server>[0-9.]{7,15}:[0-9]{1,5})(?:-(?P<number>[0-9]{1,2})of(?P<count>[0-9]{1,2}))?"
)
_NEW: Final = frozenset({"cache_ram", "host_later"})  # a unit of an older magid lacks them
_ORDER: Final = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

Extent = Literal["all", "part", "none", "own"]
Source = Literal["predicted", "unknown"]


def remote_id(server: str, number: int, count: int) -> str:
    """Returns the id of a device of an RPC server, whose devices are numbered from 0."""
    return server if count == 1 else f"{server}-{number}of{count}"


@dataclass(frozen=True, slots=True)
class PlacedDevice:
    """One device, and what the server was predicted to take there, in bytes."""

    name: str  # as llama-server listed it
    id: str  # stays over reboots, as far as one is known
    need: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a server runs. None: magid passes no such option, so the user's own counts."""

    devices: tuple[PlacedDevice, ...]
    host: int  # bytes of the machine's memory
    extent: Extent  # of its layers on devices; own: as the user's options say
    source: Source = "predicted"  # unknown: llama-server fits its memory by itself
    pins_devices: bool = False  # passes `--device`
    n_gpu_layers: int | None = None
    ctx_size: int | None = None
    shares: tuple[int, ...] = ()  # of each device, for `--tensor-split`
    fit_target: int | None = None  # llama-server fits what it can, and leaves so many MiB free
    cache_ram: int | None = None  # MiB of its prompt cache at most; they count in `host`
    host_later: int | None = None  # of `host`, bytes that a ready server may not have taken yet

    @property
    def decides_place(self) -> bool:
        """Whether more was decided than a bound of the prompt cache.

        Where not, the server runs as llama-server and the user's own options have it.
        """
        return self.pins_devices or self.source == "predicted"

    @property
    def uuids(self) -> tuple[str, ...]:
        """Of the devices, if CUDA lists them and all have one: their numbers may change."""
        found = tuple(d.id for d in self.devices if _UUID.fullmatch(d.id))
        is_cuda = all(d.name.startswith("CUDA") for d in self.devices)
        return found if self.pins_devices and is_cuda and len(found) == len(self.devices) else ()

    @property
    def remote(self) -> tuple[str, ...]:
        """The RPC servers that it needs, and no other: one that is away would end the server."""
        return tuple(self._counts)

    @property
    def _counts(self) -> dict[str, int]:
        """Of each RPC server, how many devices it has."""
        matches = (_REMOTE.fullmatch(device.id) for device in self.devices)
        return {found["server"]: int(found["count"] or 1) for found in matches if found}

    @property
    def own_names(self) -> tuple[str, ...]:
        """The names of its devices for a llama-server that is started for this place.

        It numbers the devices of those RPC servers that it is told of.
        """
        first, before = {}, 0
        for server, count in self._counts.items():
            first[server], before = before, before + count
        found = [_REMOTE.fullmatch(device.id) for device in self.devices]
        return tuple(
            f"RPC{first[match['server']] + int(match['number'] or 0)}" if match else device.name
            for match, device in zip(found, self.devices, strict=True)
        )

    @property
    def device_option(self) -> str | None:
        """What `--device` takes."""
        if not self.pins_devices:
            return None
        return ",".join(self.names_there) or "none"

    @property
    def names_there(self) -> tuple[str, ...]:
        """What its process calls its devices. Those that are chosen by UUID are numbered from 0."""
        return tuple(f"CUDA{at}" for at in range(len(self.uuids))) or self.own_names

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make the names of devices mean what they mean in the list."""
        found = dict([_ORDER])
        if self.uuids:
            found["CUDA_VISIBLE_DEVICES"] = ",".join(self.uuids)
        return found

    @property
    def text(self) -> str:
        """One line of JSON, which `parse` reads."""
        return json.dumps(asdict(self), separators=(",", ":"))


LISTING_ENVIRONMENT: Final = dict([_ORDER])
"""For llama-server when it lists devices or predicts: numbers follow the PCI bus there too."""


def environment_of(placement: Placement | None) -> Mapping[str, str]:
    """Returns the variables of a server's process, also of one that has no placement."""
    return LISTING_ENVIRONMENT if placement is None else placement.environment


def options_of(placement: Placement | None) -> Mapping[str, object]:
    """Returns the settings that a placement decides, by their names in `ServerSettings`."""
    if placement is None:
        return {}
    found = {
        "device": placement.device_option,
        "n_gpu_layers": placement.n_gpu_layers,
        "ctx_size": placement.ctx_size,
    }
    return {name: value for name, value in found.items() if value is not None}


def parse(text: str) -> Placement | None:
    """Returns the placement in a unit's field; None for an unreadable one of another version."""
    try:
        return checked(json.loads(text))
    except (InvalidInput, ValueError, RecursionError):
        return None


def checked(value: object) -> Placement:
    """Returns the placement in these plain values, each within its bounds. Raises InvalidInput."""
    try:
        return _checked(value)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"cannot use placement: {error}", field="placement") from None


def _checked(value: Any) -> Placement:
    known = set(Placement.__slots__)
    if not isinstance(value, dict) or set(value) | _NEW != known:
        raise ValueError(f"it should have exactly {', '.join(sorted(known))}")
    if value["extent"] not in ("all", "part", "none", "own"):
        raise ValueError("extent should be all, part, none or own")
    if value["source"] not in ("predicted", "unknown"):
        raise ValueError("source should be predicted or unknown")
    if type(value["pins_devices"]) is not bool:
        raise ValueError("pins_devices should be true or false")
    return Placement(
        devices=tuple(_device(one) for one in _several(value["devices"])),
        host=_BYTES.check(value["host"]),
        extent=value["extent"],
        source=value["source"],
        pins_devices=value["pins_devices"],
        n_gpu_layers=_or_none(_LAYERS, value["n_gpu_layers"]),
        ctx_size=_or_none(_CTX, value["ctx_size"]),
        shares=tuple(_SHARE.check(one) for one in _several(value["shares"])),
        fit_target=_or_none(_MIB, value["fit_target"]),
        cache_ram=_or_none(_MIB, value.get("cache_ram")),
        host_later=_or_none(_BYTES, value.get("host_later")),
    )


def _device(value: Any) -> PlacedDevice:
    if not isinstance(value, dict) or set(value) != {"name", "id", "need"}:
        raise ValueError("a device should have exactly id, name, need")
    return PlacedDevice(
        _NAME.check(value["name"]), _ID.check(value["id"]), _BYTES.check(value["need"])
    )


def _several(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) > MAX_DEVICES:
        raise ValueError(f"it should have lists of at most {MAX_DEVICES}")
    return list(value)


def _or_none(values: Integer, value: object) -> int | None:
    return None if value is None else values.check(value)
