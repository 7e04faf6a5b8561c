"""Which starts run side by side."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.control.turns import Processors, Turn, turn_of, waits_for
from magid.llama.placement import Placement
from tests.support.values import spec

NO_GPU = Processors(cores=4, free_bytes=100, has_devices=False)
GPUS = Processors(cores=4, free_bytes=100, has_devices=True)
ANY, NONE = frozenset[str](), frozenset({"none"})


@pytest.mark.parametrize(
    ("device", "devices"),
    [(None, set()), ("CUDA0", {"CUDA0"}), ("CUDA0,CUDA1", {"CUDA0", "CUDA1"}), ("none", {"none"})],
)
def test_turn_of(device: str | None, devices: set[str]) -> None:
    assert turn_of(spec("a", 8080, device=device, n_threads=3), 7) == Turn(frozenset(devices), 3, 7)


def test_a_bound_of_the_prompt_cache_is_no_device() -> None:
    """What llama-server places by itself may be anywhere, where there are devices."""
    bounded, wanted = Placement((), 1, "own", source="unknown", cache_ram=512), spec("a", 8080)
    assert turn_of(wanted, 7, bounded) == turn_of(wanted, 7)
    assert turn_of(wanted, 7, replace(bounded, source="predicted")).devices == NONE


@pytest.mark.parametrize(
    ("mine", "other", "machine", "waits"),
    [
        # Of devices.
        (Turn(frozenset({"CUDA0"})), Turn(frozenset({"CUDA1"})), GPUS, False),
        (Turn(frozenset({"CUDA0"})), Turn(frozenset({"CUDA0", "CUDA1"})), GPUS, True),
        (Turn(ANY), Turn(frozenset({"CUDA0"})), GPUS, True),
        (Turn(frozenset({"CUDA0"})), Turn(ANY), GPUS, True),
        (Turn(frozenset({"CUDA0"})), Turn(NONE), GPUS, False),
        (Turn(NONE), Turn(frozenset({"CUDA0"})), GPUS, False),
        (Turn(NONE, 1, 1), Turn(ANY, 1, 1), GPUS, False),
        # Of processors: by threads, and by memory.
        (Turn(ANY, 2, 50), Turn(ANY, 2, 50), NO_GPU, False),
        (Turn(ANY, 2, 50), Turn(ANY, 3, 50), NO_GPU, True),
        (Turn(ANY, 2, 50), Turn(ANY, 2, 51), NO_GPU, True),
        (Turn(ANY, None, 1), Turn(ANY, 1, 1), NO_GPU, True),
        (Turn(ANY, 1, 1), Turn(ANY, None, 1), NO_GPU, True),
        (Turn(ANY, 1, None), Turn(ANY, 1, 1), NO_GPU, True),
        (Turn(NONE, 2, 50), Turn(ANY, 2, 50), NO_GPU, False),
        (Turn(NONE, 2, 50), Turn(NONE, 2, 50), GPUS, False),
        (Turn(NONE, 2, 50), Turn(NONE, 3, 50), GPUS, True),
    ],
)
def test_two_starts(mine: Turn, other: Turn, machine: Processors, waits: bool) -> None:
    assert waits_for(mine, {"other": other}, machine) == ({"other"} if waits else set())


@pytest.mark.parametrize("need", [1, 1000, None])
def test_the_first_never_waits(need: int | None) -> None:
    """Also one that is too large: what then happens is not for the order of starts to decide."""
    assert waits_for(Turn(ANY, 99, need), {}, NO_GPU) == set()


turns = st.builds(
    Turn,
    devices=st.sampled_from([ANY, NONE, frozenset({"CUDA0"}), frozenset({"CUDA0", "CUDA1"})]),
    threads=st.none() | st.integers(1, 4),
    need_bytes=st.none() | st.integers(0, 60),
)


@given(st.lists(turns, max_size=12), st.sampled_from([GPUS, NO_GPU]), st.data())
def test_all_get_their_turn_and_none_overdraws(
    line: list[Turn], machine: Processors, data: st.DataObject
) -> None:
    unfinished, running = dict(enumerate(line)), set[int]()
    while unfinished:
        for number, turn in unfinished.items():
            earlier = {n: t for n, t in unfinished.items() if n < number}
            if number not in running and not waits_for(turn, earlier, machine):
                running.add(number)
        assert running, "none may begin"
        beside = [unfinished[n] for n in running if unfinished[n].is_without_device(machine)]
        if len(beside) > 1:
            assert sum(turn.threads or 99 for turn in beside) <= machine.cores
            assert sum(turn.need_bytes or 0 for turn in beside) <= machine.free_bytes
        ended = data.draw(st.sampled_from(sorted(running)))
        running.discard(ended)
        del unfinished[ended]
