"""Which models stop: the quick test changes no decision, and many are of one device."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from magid.gpus.capacity import Capacity, freed_by
from magid.gpus.eviction import Evictable, Stopping, Verdict, could_fit, make_room
from magid.gpus.memory_table import Estimate
from magid.gpus.placing import Answer, NoRoom, Question, Wish, decide, least_need
from tests.support.placing import GIB, Predictor, gpu, held, machine

NAMES = ("C0", "C1", "C2")
SIZE = 16
Models = Mapping[str, tuple[str, float]]  # model -> its device, and GiB


def capacity(models: Models, gone: frozenset[str] = frozenset()) -> Capacity:
    left = {i: where for i, where in models.items() if i not in gone}
    used = {name: sum(n for d, n in left.values() if d == name) for name in NAMES}
    gpus = [gpu(name, max(0, SIZE - used[name]), SIZE) for name in NAMES]
    return machine(*gpus, holders=[held(i, {d: n}) for i, (d, n) in left.items()])


def room_for(wish: Wish, weights: float, models: Models, *, is_quick: bool) -> tuple[Verdict, int]:
    """The verdict once all is predicted, and how many decisions it took then."""
    known: dict[Question, Estimate] = {}
    predict = Predictor(weights)
    decisions = 0

    def place(gone: frozenset[str]) -> Answer:
        nonlocal decisions
        decisions += 1
        return decide(wish, capacity(models, gone), known)

    candidates = [Evictable(i, "idle", frozenset([d])) for i, (d, _) in models.items()]
    freed = freed_by(held(i, {d: n}) for i, (d, n) in models.items())
    while True:
        decisions = 0
        quick = could_fit(wish, capacity(models), known, freed)
        found = make_room(candidates, place, *((quick,) if is_quick else ()))
        if not isinstance(found, Question):
            return found, decisions
        known[found] = predict(found)


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([1.0, 2.5, 4.0])), max_size=9),
    st.sampled_from([2.0, 7.0, 13.0, 20.0]),
)
def test_the_quick_test_changes_no_decision(where: list[tuple[str, float]], weights: float) -> None:
    models = {f"m{at}": place for at, place in enumerate(where)}
    wish = Wish("m", steps=(4096, 8192))
    quick, few = room_for(wish, weights, models, is_quick=True)
    slow, many = room_for(wish, weights, models, is_quick=False)
    assert quick == slow
    assert few <= many


def test_it_saves_decisions() -> None:
    models = {f"m{at}": (NAMES[at % 3], 2.5) for at in range(18)}
    quick, few = room_for(Wish("m"), 9, models, is_quick=True)
    slow, many = room_for(Wish("m"), 9, models, is_quick=False)
    assert quick == slow
    assert few < many / 2


def test_more_than_three_are_of_one_device() -> None:
    """Those that were used longest ago; elsewhere even more would have to stop."""
    models = {
        **{f"a{at}": ("C0", 1.0) for at in range(15)},
        **{f"b{at}": ("C1", 2.5) for at in range(6)},
        **{f"c{at}": ("C2", 1.0) for at in range(15)},
    }
    found, _ = room_for(Wish("m"), 9, models, is_quick=True)
    assert isinstance(found, Stopping)
    assert found.model_ids == ("b0", "b1", "b2", "b3")


def test_the_least_need() -> None:
    predict = Predictor(6)
    known = {Question(("C0",)): predict(Question(("C0",)))}
    one = machine(gpu("C0", 16))
    assert least_need(Wish("m"), one, known) == int(6.5 * GIB)
    assert least_need(Wish("m"), one, {}) is None, "it was not predicted yet"
    for wish in (Wish("m", offload="part"), Wish("m", device=("C0",)), Wish("m", is_own=True)):
        assert least_need(wish, one, known) is None
    assert isinstance(decide(Wish("m"), machine(gpu("C0", 2)), known), NoRoom)
