"""Decides on which devices a server starts, by its predicted memory and what room they have. Pure.

The rules: what the user has chosen stands. One device if one will do, and of those the one with the
least room left; discrete ones before the machine's own memory, before those of other machines.
Else as few as will do, of one back end. Else, only if `offload` allows it, a part of the layers or
the processor. A context that is not set is the largest power of two that fits up to a bound.

`decide` is called again and again: what it needs to know next it returns as a Question.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, islice
from typing import Final, Literal

from msgspec import Struct

from magid.gpus.capacity import Capacity, DeviceRoom
from magid.gpus.memory_table import Estimate
from magid.llama.placement import PlacedDevice, Placement
from magid.wording.sizes import size

ALL_LAYERS: Final = 999
SMALLEST_CTX: Final = 4096
PART_CTX: Final = 8192
_SETS, _SPLITS = 6, 4  # sets of each number of devices, and tries to balance one
_SHARES: Final = 1000


class Wish(Struct, frozen=True):
    """What is to be placed, and what the user has chosen."""

    model_id: str
    device: tuple[str, ...] | None = None  # names or ids; (): the processor only
    layers: int | None = None
    steps: tuple[int, ...] = ()  # contexts to choose from, rising; none: the user's own
    offload: Literal["all", "part", "cpu"] = "all"
    is_own: bool = False  # the user's arguments choose devices or split by themselves


class Question(Struct, frozen=True):
    """Settings whose memory has to be predicted. No devices: on the processor."""

    devices: tuple[str, ...] = ()
    ctx: int | None = None  # None: the user's own
    shares: tuple[int, ...] = ()
    is_own: bool = False  # as the user's options stand


class NoRoom(Struct, frozen=True):
    """It has no room: `reason` follows "cannot start MODEL: it ". `need` in bytes, on one place.

    `rooms` are the devices that were looked at; none: the machine's memory.
    """

    reason: str
    need: int
    rooms: tuple[DeviceRoom, ...] = ()


class UnknownRoom(Struct, frozen=True):
    """No device that tells its free memory has room, and another one does not tell it."""


class NoDevice(Struct, frozen=True):
    """The user has chosen devices that are not there."""

    missing: tuple[str, ...]


Known = Mapping[Question, Estimate]
Answer = Placement | Question | NoRoom | NoDevice | UnknownRoom


class _UnpredictedError(Exception):
    def __init__(self, question: Question) -> None:
        self.question = question


def steps_up_to(most: int, trained: int | None, parallel: int) -> tuple[int, ...]:
    """Returns the contexts to choose from: powers of two from 4096 on, and the largest."""
    bound = min(most, (trained or most) * max(1, parallel))
    steps = []
    step = SMALLEST_CTX
    while step < bound:
        steps.append(step)
        step *= 2
    return (*steps, bound)


def decide(wish: Wish, capacity: Capacity, known: Known) -> Answer:
    """Returns where the server starts, why it cannot, or what has to be predicted first."""
    try:
        return _decided(_case_of(wish, capacity, known))
    except _UnpredictedError as error:
        return error.question


class _Case(Struct, frozen=True):
    wish: Wish
    capacity: Capacity
    known: Known
    first_of: Mapping[tuple[str, str, int | None], str]  # kind -> the first device of it

    def estimate(self, question: Question) -> Estimate:
        found = self.known.get(question)
        if found is None:
            raise _UnpredictedError(question)
        return found

    def alone(self, room: DeviceRoom, ctx: int | None) -> Estimate:
        """Returns the estimate on this device alone: one holds for all devices of its kind."""
        return self.estimate(Question((room.chosen or self.first_of[room.kind],), ctx))


def _case_of(wish: Wish, capacity: Capacity, known: Known) -> _Case:
    first_of = {room.kind: room.name for room in reversed(capacity.devices)}
    return _Case(wish, capacity, known, first_of)


def least_need(wish: Wish, capacity: Capacity, known: Known) -> int | None:
    """Returns what the devices need together at least; None: the rules may use less than all."""
    if wish.is_own or wish.device is not None or wish.layers is not None or wish.offload != "all":
        return None
    case = _case_of(wish, capacity, known)
    ctx = wish.steps[0] if wish.steps else None
    try:
        return min((_least(case, room, ctx) for room in capacity.devices), default=None)
    except _UnpredictedError:
        return None


def _decided(case: _Case) -> Answer:
    wish, capacity = case.wish, case.capacity
    if wish.device and not capacity.devices:
        return NoDevice(wish.device)
    if wish.is_own:
        return _as_it_stands(case)
    if wish.device == () or wish.layers == 0 or not capacity.devices:
        return _on_processor(case) or _no_room_in_memory(case)
    chosen, missing = _chosen(wish, capacity)
    if missing:
        return NoDevice(missing)
    found = _whole(case, chosen)
    if found is None and wish.offload == "part":
        found = _in_part(case, chosen)
    if found is None and wish.offload == "cpu":
        found = _on_processor(case)
    if found is None and any(room.room is None for room in chosen or capacity.devices):
        return UnknownRoom()
    return found or _no_room(case, chosen)


def _chosen(
    wish: Wish, capacity: Capacity
) -> tuple[tuple[DeviceRoom, ...] | None, tuple[str, ...]]:
    """Returns the devices that the user has chosen, and those of them that are not there."""
    if wish.device is None:
        return None, ()
    found = [(name, device_of(name, capacity)) for name in wish.device]
    missing = tuple(name for name, room in found if room is None)
    return tuple(room for _, room in found if room is not None), missing


def device_of(name: str, capacity: Capacity) -> DeviceRoom | None:
    """Returns the device with this name, or with this id."""
    by_id = (r for r in capacity.devices if name.lower() in (r.device.id.lower(), r.device.address))
    return capacity.named(name) or next(by_id, None)


# -- all layers on devices --------------------------------------------------------------------


def _whole(case: _Case, chosen: tuple[DeviceRoom, ...] | None) -> Placement | None:
    rooms = case.capacity.devices
    if chosen is not None:
        return _with_most_context(case, lambda ctx: _on_any(case, [chosen], ctx))
    for count in range(1, len(rooms) + 1):
        if found := _with_most_context(case, partial(_on_some, case, count)):
            return found
    return None


def _with_most_context(
    case: _Case, at: Callable[[int | None], Placement | None]
) -> Placement | None:
    """Returns the placement with the largest context that has one."""
    steps = case.wish.steps
    if not steps:
        return at(None)
    if (found := at(steps[-1])) or len(steps) == 1:
        return found
    best = at(steps[0])
    low, high = 0, len(steps) - 1
    while best is not None and high - low > 1:
        middle = (low + high) // 2
        if found := at(steps[middle]):
            best, low = found, middle
        else:
            high = middle
    return best


def _on_some(case: _Case, count: int, ctx: int | None) -> Placement | None:
    if count == 1:
        return _on_any(case, [(room,) for room in case.capacity.devices], ctx)
    return _on_any(case, _sets(case, count, ctx), ctx)


def _sets(case: _Case, count: int, ctx: int | None) -> Iterator[tuple[DeviceRoom, ...]]:
    """Yields sets of devices of one back end whose room together may do, the least first."""
    rooms = [room for room in case.capacity.devices if room.room]
    need = min((_least(case, room, ctx) for room in rooms), default=0)
    found = [
        devices
        for devices in combinations(rooms, count)
        if len({room.device.backend for room in devices}) == 1 and _sum(devices) >= need
    ]
    found.sort(key=lambda devices: (max(room.rank for room in devices), _sum(devices)))
    return islice(found, _SETS)


def _least(case: _Case, room: DeviceRoom, ctx: int | None) -> int:
    """Returns what all devices together need at least: as much as one alone."""
    return sum(device.need.total for device in case.alone(room, ctx).devices)


def _sum(devices: Sequence[DeviceRoom]) -> int:
    return sum(room.room or 0 for room in devices)


def _on_any(
    case: _Case, sets: Sequence[tuple[DeviceRoom, ...]] | Iterator[tuple[DeviceRoom, ...]],
    ctx: int | None,
) -> Placement | None:  # fmt: skip
    """Returns the placement on the set that has the least room left afterwards."""
    best: tuple[tuple[int, int], Placement] | None = None
    for devices in sets:
        found = _on_one(case, devices[0], ctx) if len(devices) == 1 else _split(case, devices, ctx)
        if found is None:
            continue
        left = _sum(devices) - sum(device.need for device in found.devices)
        order = (max(room.rank for room in devices), left)
        if best is None or order < best[0]:
            best = order, found
        if len(devices) > 1:
            break  # they come with the least room first
    return None if best is None else best[1]


def _on_one(case: _Case, room: DeviceRoom, ctx: int | None) -> Placement | None:
    estimate = case.alone(room, ctx)
    need = sum(device.need.total for device in estimate.devices)
    return _checked(case, estimate, [(room, need)], ctx)


def _split(case: _Case, devices: tuple[DeviceRoom, ...], ctx: int | None) -> Placement | None:
    """Returns a placement whose split follows the room, and then what was predicted for it."""
    weights = [float(room.room or 0) for room in devices]
    names = tuple(room.name for room in devices)
    for _ in range(_SPLITS):
        if not sum(weights):
            return None
        shares = tuple(round(_SHARES * weight / sum(weights)) for weight in weights)
        estimate = case.estimate(Question(names, ctx, shares))
        by_name = {device.name: device.need.total for device in estimate.devices}
        needs = [(room, by_name.get(room.name, 0)) for room in devices]
        if found := _checked(case, estimate, needs, ctx, shares):
            return found
        weights = [w * _slack(room, need) for w, (room, need) in zip(weights, needs, strict=True)]
    return None


def _slack(room: DeviceRoom, need: int) -> float:
    """Returns by how much its share should change; one that got no layer should get one."""
    return (room.room or 0) / need if need else 2.0


def _checked(
    case: _Case,
    estimate: Estimate,
    needs: Sequence[tuple[DeviceRoom, int]],
    ctx: int | None,
    shares: tuple[int, ...] = (),
) -> Placement | None:
    """Returns the placement if all places have room for what was predicted."""
    placed, shared = [], 0
    for room, predicted in needs:
        need = predicted + estimate.rounding + room.overhead
        if room.room is None or need > room.room:
            return None
        placed.append(PlacedDevice(room.name, room.device.id, need))
        shared += need if room.integrated else 0
    host = estimate.host_held
    if host + shared > case.capacity.host:
        return None
    is_whole = case.wish.layers is None
    return Placement(
        tuple(placed), host, "all" if is_whole else "own", pins_devices=True,
        n_gpu_layers=ALL_LAYERS if is_whole else None, ctx_size=ctx, shares=shares,
    )  # fmt: skip


# -- otherwise --------------------------------------------------------------------------------


def _as_it_stands(case: _Case) -> Placement | NoRoom | NoDevice:
    """Returns the placement that the user's own options lead to."""
    estimate = case.estimate(Question(is_own=True))
    placed = []
    held: dict[str, int] = {}  # by GPU: two back ends may list the same one
    for device in estimate.devices:
        room = case.capacity.named(device.name)
        if room is None or not device.need.total:
            continue
        need = device.need.total + estimate.rounding + room.overhead
        held[room.device.id] = held.get(room.device.id, 0) + need
        if room.room is not None and held[room.device.id] > room.room:
            return NoRoom(f"needs {size(need)} on {room.name}; {room.described}", need, (room,))
        placed.append(PlacedDevice(room.name, room.device.id, need))
    host = estimate.host_held
    if host > case.capacity.host:
        return _lacks_memory(host, case.capacity)
    return Placement(tuple(placed), host, "own")


def _in_part(case: _Case, chosen: tuple[DeviceRoom, ...] | None) -> Placement | None:
    """Returns a placement in which llama-server itself fits what it can onto the devices.

    It knows which tensors cost least on the processor: of a mixture of experts, whole layers would
    be the wrong choice.
    """
    rooms = [room for room in (chosen or case.capacity.devices) if room.room]
    rank = min((room.rank for room in rooms), default=0)
    backend = next((room.device.backend for room in rooms if room.rank == rank), "")
    rooms = [room for room in rooms if chosen or room.device.backend == backend]
    steps = case.wish.steps
    ctx = max((step for step in steps if step <= PART_CTX), default=steps[0]) if steps else None
    estimate = case.estimate(Question((), ctx))
    memory, mapped = estimate.host_total.total, estimate.host_total.total - estimate.host_held
    if not rooms or memory - _sum(rooms) - mapped > case.capacity.host:
        return None
    placed = tuple(
        PlacedDevice(room.name, room.device.id, min(room.room or 0, memory)) for room in rooms
    )
    host = max(0, memory - sum(device.need for device in placed) - mapped)
    target = max((room.device.free or 0) - (room.room or 0) for room in rooms) >> 20
    return Placement(
        placed, host, "part", pins_devices=True, ctx_size=ctx, fit_target=max(0, target)
    )


def _on_processor(case: _Case) -> Placement | None:
    """Returns a placement in the machine's memory: as llama-server would have it, if that fits."""
    pins = bool(case.capacity.devices)
    contexts: tuple[int | None, ...] = (None, *case.wish.steps[::-1])
    for ctx in contexts:
        need = case.estimate(Question((), ctx)).host_held
        if need <= case.capacity.host:
            layers = 0 if pins else None
            return Placement((), need, "none", pins_devices=pins, n_gpu_layers=layers, ctx_size=ctx)
    return None


def _no_room_in_memory(case: _Case) -> NoRoom:
    steps = case.wish.steps
    need = case.estimate(Question((), steps[0] if steps else None)).host_held
    return _lacks_memory(need, case.capacity)


def _lacks_memory(need: int, capacity: Capacity) -> NoRoom:
    return NoRoom(f"needs {size(need)} of the machine's memory, {capacity.host_described}", need)


def _no_room(case: _Case, chosen: tuple[DeviceRoom, ...] | None) -> NoRoom:
    """Returns the figures of the smallest context, on the devices that it may use."""
    rooms = chosen or case.capacity.devices
    steps = case.wish.steps
    ctx = steps[0] if steps else None
    if chosen is not None and len(chosen) > 1:
        return _no_room_together(case, chosen, ctx)
    estimate = case.alone(rooms[0], ctx)
    need = min(_least(case, r, ctx) + r.overhead for r in rooms) + estimate.rounding
    host = estimate.host_held
    if host > case.capacity.host:
        return _lacks_memory(host, case.capacity)
    where = "; ".join(room.described for room in rooms)
    return NoRoom(f"needs {size(need)}; {where}", need, rooms)


def _no_room_together(case: _Case, chosen: tuple[DeviceRoom, ...], ctx: int | None) -> NoRoom:
    """Returns the figures of the last split that was tried over the user's devices."""
    names = tuple(room.name for room in chosen)
    tried = [e for q, e in case.known.items() if (q.devices, q.ctx) == (names, ctx)]
    needs = [(one.name, one.need.total + e.rounding) for e in tried[-1:] for one in e.devices]
    said = " and ".join(f"{size(need)} on {name}" for name, need in needs) or "more"
    where = "; ".join(room.described for room in chosen)
    return NoRoom(f"needs {said}; {where}", sum(need for _, need in needs), chosen)
