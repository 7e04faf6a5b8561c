"""Whatever happens to a machine, room is never overdrawn, and nothing stops in vain."""

from dataclasses import dataclass, field

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from magid.gpus.capacity import Capacity, Holder, capacity_of
from magid.gpus.device import Gpu
from magid.gpus.eviction import Evictable, Stopping, Waiting, make_room
from magid.gpus.placing import Answer, NoDevice, NoRoom, Question, Wish, decide
from magid.llama.placement import Placement
from tests.support.placing import GIB, RESERVE, Predictor, answer, gpu

TOTALS = (24, 12, 12)
HOST = 64 * GIB
NAMES = tuple(f"C{at}" for at in range(len(TOTALS)))


@dataclass
class Server:
    """One that holds its memory, or will: what it has taken so far grows while it loads."""

    placement: Placement
    is_ready: bool = False
    is_busy: bool = False

    def taken(self, name: str) -> int:
        need = sum(one.need for one in self.placement.devices if one.name == name)
        return need if self.is_ready else need // 3


@dataclass
class Machine:
    """What the driver knows: servers, other programs, and memory that comes back late."""

    servers: dict[str, Server] = field(default_factory=dict)  # used longest ago first
    others: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    late: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))

    def used(self, name: str) -> int:
        ours = sum(server.taken(name) for server in self.servers.values())
        return ours + self.others[name] + self.late[name]

    def gpus(self, gone: frozenset[str] = frozenset()) -> list[Gpu]:
        """As llama-server lists them; as they will be when these servers have ended."""
        listed = []
        for name, total in zip(NAMES, TOTALS, strict=True):
            back = sum(s.taken(name) for m, s in self.servers.items() if m in gone)
            free = max(0, total * GIB - self.used(name) + back) / GIB
            listed.append(gpu(name, free, total))
        return listed

    def capacity(self, gone: frozenset[str] = frozenset()) -> Capacity:
        held = [
            Holder(model, 8080, server.placement, server.is_ready)
            for model, server in self.servers.items()
            if model not in gone
        ]
        return capacity_of(self.gpus(gone), HOST, held, RESERVE)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.count = 0

    @rule(weights=st.integers(1, 30), steps=st.booleans(), is_ready=st.booleans())
    def start(self, weights: int, steps: bool, is_ready: bool) -> None:
        wish = Wish("m", steps=(4096, 16_384, 32_768) if steps else ())
        found = answer(wish, self.machine.capacity(), Predictor(weights))
        self._started(found, is_ready=is_ready)

    def _started(self, found: Answer, *, is_ready: bool = False) -> None:
        if isinstance(found, Placement):
            self.count += 1
            self.machine.servers[f"m{self.count}"] = Server(found, is_ready)
        else:
            assert isinstance(found, NoRoom)

    @precondition(lambda self: self.machine.servers)
    @rule(data=st.data())
    def happens(self, data: st.DataObject) -> None:
        """A server gets ready, is used, is left alone, or ends; its memory may come back late."""
        servers = self.machine.servers
        model = data.draw(st.sampled_from(sorted(servers)))
        match data.draw(st.sampled_from(["ready", "used", "idle", "ends", "ends late"])):
            case "ready":
                servers[model].is_ready = True
            case "used":
                servers[model].is_busy = True
                servers[model] = servers.pop(model)  # used last
            case "idle":
                servers[model].is_busy = False
            case how:
                self._end(model, is_late=how == "ends late")

    def _end(self, model: str, *, is_late: bool) -> None:
        server = self.machine.servers.pop(model)
        for name in NAMES if is_late else ():
            self.machine.late[name] += server.taken(name)

    @rule()
    def memory_is_back(self) -> None:
        self.machine.late = dict.fromkeys(NAMES, 0)

    @rule(name=st.sampled_from(NAMES), share=st.floats(0, 1))
    def others(self, name: str, share: float) -> None:
        """Other programs take what is free now, or give it back."""
        self.machine.others[name] = 0
        need = sum(
            one.need
            for server in self.machine.servers.values()
            for one in server.placement.devices
            if one.name == name
        )
        left = TOTALS[NAMES.index(name)] * GIB - need - self.machine.late[name]
        self.machine.others[name] = int(max(0, left) * share)

    @rule(weights=st.integers(1, 30))
    def request(self, weights: int) -> None:
        """For an on-demand model: room is made, as few as will do, and none in vain."""
        known: dict[Question, object] = {}
        predict = Predictor(weights)

        def place(gone: frozenset[str]) -> Answer:
            return decide(Wish("m"), self.machine.capacity(gone), known)  # type: ignore[arg-type]

        servers = self.machine.servers
        candidates = [
            Evictable(m, "idle" if s.is_ready and not s.is_busy else "busy")
            for m, s in servers.items()
        ]
        while isinstance(found := make_room(candidates, place), Question):
            known[found] = predict(found)
        assert not isinstance(found, NoDevice)
        if isinstance(found, Stopping):
            self._made_room(found, place)
            self._started(found.placement)
        elif isinstance(found, Waiting):
            assert isinstance(place(frozenset(i for i in servers if self._idle(i))), NoRoom)
        else:
            assert isinstance(place(frozenset(servers)), NoRoom), "nothing stops in vain"

    def _idle(self, model: str) -> bool:
        server = self.machine.servers[model]
        return server.is_ready and not server.is_busy

    def _made_room(self, found: Stopping, place: object) -> None:
        gone = frozenset(found.model_ids)
        assert all(self._idle(model) for model in gone)
        for model in gone:
            assert isinstance(place(gone - {model}), NoRoom), "it stops in vain"  # type: ignore[operator]
        for model in gone:
            self._end(model, is_late=False)

    @invariant()
    def room_is_never_overdrawn(self) -> None:
        for name, total in zip(NAMES, TOTALS, strict=True):
            needs = sum(
                one.need
                for server in self.machine.servers.values()
                for one in server.placement.devices
                if one.name == name
            )
            assert needs + self.machine.others[name] + self.machine.late[name] <= total * GIB

    @invariant()
    def what_runs_is_not_asked_about_again(self) -> None:
        """Twice the same question has the same answer: where nothing happens, nothing changes."""
        first = answer(Wish("m"), self.machine.capacity(), Predictor(5))
        assert first == answer(Wish("m"), self.machine.capacity(), Predictor(5))


Histories.TestCase.settings = hypothesis.settings(
    hypothesis.settings.get_profile("magid"), max_examples=200, stateful_step_count=30
)
TestHistories = Histories.TestCase
