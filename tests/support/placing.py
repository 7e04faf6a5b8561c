"""A machine with GPUs for tests of placing: pure, with llama-server's predictions made up."""

from collections.abc import Callable, Iterable, Mapping

from magid.gpus.capacity import Capacity, Holder, capacity_of
from magid.gpus.device import Device, Gpu
from magid.gpus.memory_table import DeviceNeed, Estimate, HostNeed, Need
from magid.gpus.placing import Answer, Question, Wish, decide
from magid.llama.placement import PlacedDevice, Placement

GIB = 1 << 30
RESERVE = GIB
ROUNDING = Estimate().rounding


class Predictor:
    """Predicts as llama-server does: weights and context are split, compute is everywhere."""

    def __init__(self, weights: float, per_4k: float = 0.25, compute: float = 0.25) -> None:
        self.weights, self.per_4k, self.compute = weights, per_4k, compute
        self.asked: list[Question] = []

    def __call__(self, question: Question) -> Estimate:
        self.asked.append(question)
        context = self.per_4k * (question.ctx or 4096) / 4096
        if not question.devices:
            return Estimate((), (_host("Host", self.weights + context + self.compute),))
        shares = question.shares or (1,) * len(question.devices)
        return Estimate(
            tuple(
                DeviceNeed(
                    name,
                    "A",
                    Need(
                        int(self.weights * GIB * share / sum(shares)),
                        int(context * GIB * share / sum(shares)),
                        int(self.compute * GIB),
                    ),
                )
                for name, share in zip(question.devices, shares, strict=True)
            ),
            (_host("Host", 0.25),),
        )


def _host(name: str, gib: float) -> HostNeed:
    return HostNeed(name, Need(compute=int(gib * GIB)))


def answer(wish: Wish, capacity: Capacity, predict: Callable[[Question], Estimate]) -> Answer:
    known: dict[Question, Estimate] = {}
    while isinstance(found := decide(wish, capacity, known), Question):
        assert found not in known, "it asks nothing twice"
        known[found] = predict(found)
    return found


def gpu(
    name: str, free: float | None, total: float | None = None, *, integrated: bool | None = None
) -> Gpu:
    size = total or free
    return Gpu(
        Device(
            name,
            name.rstrip("0123456789"),
            f"card of {size}",
            None if size is None else int(size * GIB),
            None if free is None else int(free * GIB),
            integrated,
            uuid=f"GPU-{name}",
        )
    )


def held(model: str, needs: Mapping[str, float], *, settled: bool = True) -> Holder:
    devices = tuple(PlacedDevice(n, f"GPU-{n}", int(g * GIB)) for n, g in needs.items())
    return Holder(model, 8080, Placement(devices, 0, "all"), settled)


def machine(*gpus: Gpu, holders: Iterable[Holder] = (), host: float = 64) -> Capacity:
    return capacity_of(gpus, int(host * GIB), holders, RESERVE, host_reserve=RESERVE)
