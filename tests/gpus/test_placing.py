"""Where servers go: the rules as tables, and what holds whatever the machine is like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.gpus.capacity import Capacity
from magid.gpus.device import Device, Gpu
from magid.gpus.eviction import Evictable, Stopping, Waiting, make_room
from magid.gpus.memory_table import Estimate
from magid.gpus.placing import (
    Answer,
    NoDevice,
    NoRoom,
    Question,
    UnknownRoom,
    Wish,
    decide,
    steps_up_to,
)
from magid.llama.placement import Placement
from tests.support.placing import GIB, RESERVE, ROUNDING, Predictor, answer, gpu, held, machine


def placed(found: Answer) -> dict[str, float]:
    assert isinstance(found, Placement), found
    return {one.name: round((one.need - ROUNDING) / GIB, 2) for one in found.devices}


PLAIN = Wish("m")


@pytest.mark.parametrize(
    ("why", "gpus", "weights", "where"),
    [
        ("the least room that will do", [gpu("C0", 24), gpu("C1", 12), gpu("C2", 16)], 10, ["C1"]),
        ("the reserve stays free", [gpu("C0", 24), gpu("C1", 11.4)], 10, ["C0"]),
        ("discrete first", [gpu("C0", 11.9, integrated=True), gpu("C1", 24)], 10, ["C1"]),
        ("integrated before another machine", [gpu("RPC0", 24), gpu("C1", 24, integrated=True)],
         10, ["C1"]),
        ("another machine before two", [gpu("RPC0", 24), gpu("C1", 8), gpu("C2", 8)], 10, ["RPC0"]),
        ("two where one will not do", [gpu("C0", 8), gpu("C1", 8)], 10, ["C0", "C1"]),
        ("the least two that will do", [gpu("C0", 24), gpu("C1", 8), gpu("C2", 8), gpu("C3", 12)],
         25, ["C0", "C1"]),
        ("of one back end", [gpu("C0", 8), gpu("V0", 9), gpu("C1", 8)], 10, ["C0", "C1"]),
        ("three", [gpu("C0", 8), gpu("C1", 8), gpu("C2", 8)], 18, ["C0", "C1", "C2"]),
        ("what is free, not what there is", [gpu("C0", 4, 24), gpu("C1", 12, 12)], 10, ["C1"]),
        ("unknown is no room", [gpu("C0", None, 24), gpu("C1", 12)], 10, ["C1"]),
    ],
)  # fmt: skip
def test_where(why: str, gpus: list[Gpu], weights: float, where: list[str]) -> None:
    assert list(placed(answer(PLAIN, machine(*gpus), Predictor(weights)))) == where, why


def test_what_is_passed_on() -> None:
    found = answer(PLAIN, machine(gpu("C0", 8), gpu("C1", 8)), Predictor(10))
    assert isinstance(found, Placement)
    assert (found.extent, found.n_gpu_layers, found.device_option) == ("all", 999, "C0,C1")
    assert found.shares == (500, 500)
    assert all(device.need + RESERVE <= 8 * GIB for device in found.devices)
    assert found.host == GIB // 4


def test_a_split_follows_the_room() -> None:
    found = answer(PLAIN, machine(gpu("C0", 21), gpu("C1", 6)), Predictor(22, compute=0.5))
    assert isinstance(found, Placement)
    assert found.shares[0] > 3 * found.shares[1]


def test_kinds_are_predicted_once() -> None:
    predict = Predictor(10)
    gpus = [gpu("C0", 6, 24), gpu("C1", 12, 24), gpu("C2", 20, 24)]
    assert list(placed(answer(PLAIN, machine(*gpus), predict))) == ["C1"]
    assert predict.asked == [Question(("C0",))]


@pytest.mark.parametrize(
    ("free", "ctx"), [(40, 32_768), (9.4, 16_384), (8.3, 8192), (7.9, 4096)]
)  # fmt: skip
def test_the_context_is_the_largest_that_fits(free: float, ctx: int) -> None:
    wish = Wish("m", steps=steps_up_to(32_768, 131_072, 1))
    found = answer(wish, machine(gpu("C0", free)), Predictor(6.2))
    assert isinstance(found, Placement)
    assert found.ctx_size == ctx


def test_steps() -> None:
    assert steps_up_to(32_768, 131_072, 1) == (4096, 8192, 16_384, 32_768)
    assert steps_up_to(32_768, 20_000, 1) == (4096, 8192, 16_384, 20_000)
    assert steps_up_to(32_768, 2048, 1) == (2048,)
    assert steps_up_to(32_768, 2048, 4) == (4096, 8192)
    assert steps_up_to(8192, None, 1) == (4096, 8192)


def test_one_device_comes_before_a_larger_context() -> None:
    wish = Wish("m", steps=(4096, 32_768))
    found = answer(wish, machine(gpu("C0", 9), gpu("C1", 9)), Predictor(7))
    assert isinstance(found, Placement)
    assert (len(found.devices), found.ctx_size) == (1, 4096)


@pytest.mark.parametrize(
    ("device", "where"),
    [
        (("C0",), ["C0"]),
        (("c0",), ["C0"]),
        (("GPU-C0",), ["C0"]),
        (("C0", "C1"), ["C0", "C1"]),
        ((), []),
    ],
)
def test_what_the_user_has_chosen(device: tuple[str, ...], where: list[str]) -> None:
    wish = Wish("m", device=device)
    assert list(placed(answer(wish, machine(gpu("C0", 24), gpu("C1", 12)), Predictor(4)))) == where


def test_no_room_on_the_devices_that_the_user_has_chosen() -> None:
    found = answer(
        Wish("m", device=("C0", "C1")), machine(gpu("C0", 8), gpu("C1", 8)), Predictor(20)
    )
    assert isinstance(found, NoRoom)
    assert found.reason.startswith("needs 10.4 GiB on C0 and 10.4 GiB on C1; C0 has room for 7.0")


def test_a_device_that_is_gone() -> None:
    wish = Wish("m", device=("C0", "C7"))
    assert answer(wish, machine(gpu("C0", 24)), Predictor(4)) == NoDevice(("C7",))


def test_the_back_end_that_the_user_has_chosen() -> None:
    """It is the same GPU, with the same memory, by another name."""
    cuda = gpu("CUDA0", 24)
    both = Gpu(cuda.device, (Device("Vulkan0", "Vulkan", "card", 24 * GIB, 24 * GIB),))
    predict = Predictor(4)
    found = answer(Wish("m", device=("vulkan0",)), machine(both), predict)
    assert isinstance(found, Placement)
    assert (found.device_option, found.devices[0].id) == ("Vulkan0", "GPU-CUDA0")
    assert predict.asked == [Question(("Vulkan0",))]


def test_a_gpu_that_does_not_tell_its_memory_is_no_reason_to_refuse() -> None:
    capacity = machine(gpu("C0", None, 24), gpu("C1", 8))
    assert answer(PLAIN, capacity, Predictor(10)) == UnknownRoom()
    assert placed(answer(PLAIN, capacity, Predictor(4)))
    chosen = Wish("m", device=("C1",))
    assert isinstance(answer(chosen, capacity, Predictor(10)), NoRoom)
    assert make_room([], lambda _: UnknownRoom()) == UnknownRoom()


def test_layers_of_the_user_go_to_a_device_of_ours() -> None:
    found = answer(Wish("m", layers=20), machine(gpu("C0", 24), gpu("C1", 12)), Predictor(4))
    assert isinstance(found, Placement)
    assert (found.extent, found.n_gpu_layers, found.device_option) == ("own", None, "C1")
    none = answer(Wish("m", layers=0), machine(gpu("C0", 24)), Predictor(4))
    assert isinstance(none, Placement)
    assert (none.extent, none.device_option) == ("none", "none")


def test_arguments_of_the_user_stand() -> None:
    def predict(question: Question) -> Estimate:
        assert question == Question(is_own=True)
        return Predictor(10)(Question(("C0", "C1"), None, (3, 1)))

    wish = Wish("m", is_own=True)
    found = answer(wish, machine(gpu("C0", 24), gpu("C1", 12)), predict)
    assert placed(found) == {"C0": 7.94, "C1": 2.81}
    assert isinstance(found, Placement)
    assert (found.device_option, found.n_gpu_layers, found.extent) == (None, None, "own")
    refused = answer(wish, machine(gpu("C0", 8), gpu("C1", 12)), predict)
    assert isinstance(refused, NoRoom)
    assert refused.reason == "needs 7.9 GiB on C0; C0 has room for 7.0 GiB of 8.0 GiB"
    assert refused.need == int(7.9375 * GIB) + ROUNDING
    assert [room.name for room in refused.rooms] == ["C0"]


def test_no_room_says_who_holds_it() -> None:
    capacity = machine(gpu("C0", 8, 24), holders=[held("beta", {"C0": 9})])
    found = answer(PLAIN, capacity, Predictor(10))
    assert isinstance(found, NoRoom)
    assert found.reason == (
        "needs 10.5 GiB; C0 has room for 7.0 GiB of 24.0 GiB (beta 9.0 GiB, other programs 7.0 GiB)"
    )


@pytest.mark.parametrize(
    ("offload", "extent"), [("all", None), ("part", "part"), ("cpu", "none")]
)  # fmt: skip
def test_offload(offload: str, extent: str | None) -> None:
    wish = Wish("m", offload=offload, steps=(4096, 8192, 32_768))  # type: ignore[arg-type]
    found = answer(wish, machine(gpu("C0", 8)), Predictor(10))
    assert (found.extent if isinstance(found, Placement) else None) == extent
    if isinstance(found, Placement) and extent == "part":
        assert (found.device_option, found.ctx_size) == ("C0", 8192)
        assert found.devices[0].need == 7 * GIB
        assert found.fit_target == 1024, "MiB that stay free"


def test_nothing_goes_to_the_processor_by_itself() -> None:
    assert isinstance(answer(PLAIN, machine(gpu("C0", 8)), Predictor(10)), NoRoom)


def test_without_a_gpu_llama_server_chooses_the_context() -> None:
    wish = Wish("m", steps=(4096, 8192))
    found = answer(wish, machine(host=16), Predictor(10))
    assert isinstance(found, Placement)
    assert (found.extent, found.ctx_size, found.device_option) == ("none", None, None)
    lacks = answer(wish, machine(host=8), Predictor(10))
    assert isinstance(lacks, NoRoom)
    assert lacks.reason.endswith("of the machine's memory, which has room for 7.0 GiB")


def test_the_machines_memory_counts_for_integrated_gpus() -> None:
    shared = gpu("V0", 32, integrated=True)
    assert placed(answer(PLAIN, machine(shared, host=20), Predictor(10)))
    assert isinstance(answer(PLAIN, machine(shared, host=10), Predictor(10)), NoRoom)


# -- what servers hold ------------------------------------------------------------------------


def test_a_server_that_loads_counts_whole() -> None:
    loading = machine(gpu("C0", 20, 24), holders=[held("a", {"C0": 9}, settled=False)])
    assert loading.devices[0].room == (20 - 9 - 1) * GIB
    ready = machine(gpu("C0", 15, 24), holders=[held("a", {"C0": 9})])
    assert ready.devices[0].room == (15 - 1) * GIB
    late = machine(gpu("C0", 24, 24), holders=[held("a", {"C0": 9})])
    assert late.devices[0].room == (24 - 9 - 1) * GIB, "whatever the driver says"


# -- room for on-demand models ----------------------------------------------------------------


def room_for(
    weights: float, needs: dict[str, tuple[str, float]], idle: str, *gpus: Gpu
) -> Stopping | Waiting | NoRoom:
    """`needs` is model -> device and size, in the order of last use; `idle` are their letters."""
    predict = Predictor(weights)
    known: dict[Question, Estimate] = {}

    def place(gone: frozenset[str]) -> Answer:
        holders = [held(m, {d: g}) for m, (d, g) in needs.items() if m not in gone]
        freed = {d: sum(g for m, (n, g) in needs.items() if m in gone and n == d) for d in names}
        now = [
            gpu(g.device.name, (g.device.free or 0) / GIB + freed[g.device.name],
                (g.device.total or 0) / GIB)
            for g in gpus
        ]  # fmt: skip
        return decide(PLAIN, machine(*now, holders=holders), known)

    names = [g.device.name for g in gpus]
    candidates = [Evictable(m, "idle" if m in idle else "busy") for m in needs]
    while isinstance(found := make_room(candidates, place), Question):
        known[found] = predict(found)
    assert not isinstance(found, NoDevice | UnknownRoom)
    return found


TWO = (gpu("C0", 4, 24), gpu("C1", 4, 24))


@pytest.mark.parametrize(
    ("needs", "idle", "stopped"),
    [
        ({"a": ("C0", 10), "b": ("C0", 9), "c": ("C1", 19)}, "abc", ("a",)),
        ({"b": ("C0", 9), "a": ("C0", 10), "c": ("C1", 19)}, "abc", ("b",)),
        ({"a": ("C0", 2), "b": ("C0", 10), "c": ("C1", 19)}, "abc", ("b",)),
        ({"a": ("C0", 2), "b": ("C0", 10), "c": ("C1", 19)}, "ac", ("c",)),
        ({"a": ("C0", 10), "b": ("C0", 10)}, "ab", ("a",)),
    ],
)
def test_who_stops(
    needs: dict[str, tuple[str, float]], idle: str, stopped: tuple[str, ...]
) -> None:
    found = room_for(10, needs, idle, *TWO)
    assert isinstance(found, Stopping)
    assert found.model_ids == stopped


@pytest.mark.parametrize(
    ("needs", "stopped"),
    [
        ({"a": ("C0", 5), "b": ("C0", 5), "c": ("C0", 5), "d": ("V0", 5)}, ("a", "b")),
        ({"a": ("V0", 5), "b": ("C0", 5), "c": ("V0", 5), "d": ("C0", 5)}, ("a", "c")),
        ({"a": ("C0", 3), "b": ("C0", 3), "c": ("C0", 3), "d": ("C0", 3)}, ("a", "b", "c")),
    ],
)
def test_several_stop_on_one_device(
    needs: dict[str, tuple[str, float]], stopped: tuple[str, ...]
) -> None:
    found = room_for(10, needs, "abcd", gpu("C0", 4, 24), gpu("V0", 4, 24))
    assert isinstance(found, Stopping)
    assert found.model_ids == stopped


def test_one_that_stops_may_leave_room_beside_another() -> None:
    """A split over two devices stops fewer than one device for itself."""
    needs = {"a": ("C0", 5.0), "b": ("C0", 5.0), "c": ("C1", 5.0)}
    found = room_for(10, needs, "abc", *TWO)
    assert isinstance(found, Stopping)
    assert found.model_ids == ("a",)
    assert len(found.placement.devices) == 2


def test_busy_ones_are_waited_for_and_nothing_stops_in_vain() -> None:
    needs = {"a": ("C0", 3.0), "b": ("C0", 16.0), "c": ("C1", 19.0)}
    waits = room_for(10, needs, "a", *TWO)
    assert isinstance(waits, Waiting)
    assert waits.model_ids == ("b", "c")
    never = room_for(60, needs, "abc", *TWO)
    assert isinstance(never, NoRoom)
    assert "a 3.0 GiB, b 16.0 GiB" in never.reason


# -- whatever the machine is like -------------------------------------------------------------

sizes = st.integers(1, 48)


@st.composite
def machines(draw: st.DrawFn) -> tuple[Capacity, list[Gpu]]:
    gpus = []
    for at in range(draw(st.integers(1, 5))):
        total = draw(sizes)
        free = draw(st.none() | st.integers(0, total))
        backend = draw(st.sampled_from("CV"))
        gpus.append(gpu(f"{backend}{at}", free, total, integrated=draw(st.none() | st.booleans())))
    return machine(*gpus, host=draw(st.integers(0, 64))), gpus


@given(machines(), sizes, st.sampled_from(["all", "part", "cpu"]), st.booleans())
def test_room_is_never_overdrawn(
    made: tuple[Capacity, list[Gpu]], weights: int, offload: str, steps: bool
) -> None:
    capacity, _ = made
    wish = Wish("m", offload=offload, steps=(4096, 8192, 16_384) if steps else ())  # type: ignore[arg-type]
    found = answer(wish, capacity, Predictor(weights))
    if isinstance(found, Placement):
        for device in found.devices:
            room = capacity.named(device.name)
            assert room is not None
            assert room.room is not None
            assert device.need <= room.room
        assert found.host <= capacity.host
        assert offload == "all" or found.extent in ("all", "part", "none")
    else:
        is_unknown = any(room.room is None for room in capacity.devices)
        assert isinstance(found, UnknownRoom if is_unknown else NoRoom)


@given(machines(), sizes, st.randoms())
def test_the_order_of_gpus_does_not_matter(
    made: tuple[Capacity, list[Gpu]], weights: int, random: object
) -> None:
    capacity, gpus = made
    shuffled = list(gpus)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = Capacity(machine(*shuffled).devices, capacity.host)
    one = answer(PLAIN, capacity, Predictor(weights))
    two = answer(PLAIN, other, Predictor(weights))
    assert type(one) is type(two)
    if isinstance(one, Placement) and isinstance(two, Placement):
        assert len(one.devices) == len(two.devices)
