"""Whether a server has room, by what was predicted and decided. Pure."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from magid.control.prediction_cache import Prediction
from magid.gpus.fitting import Fits, Room, Verdict, judge
from magid.gpus.memory_table import Estimate
from magid.gpus.placing import NoDevice, NoRoom, Question
from magid.llama.placement import Placement
from magid.servers.backend import ObservedServer
from magid.wording.sizes import size


def verdict_of(prediction: Prediction, room: Room) -> Verdict:
    """Returns whether it fits where llama-server chooses."""
    if prediction.estimate is None:
        return Verdict(Fits.UNKNOWN, prediction.problem)
    return judge(prediction.estimate, room)


def verdict_running(server: ObservedServer, estimate: Estimate) -> Verdict:
    """Returns the verdict on a server that runs, perhaps in part on the processor."""
    why = "a server of it runs with these settings"
    if server.placement is not None:
        return Verdict(_extent(server.placement), f"{why} on {_where(server.placement)}")
    if estimate.devices and dict(server.values).get("n_gpu_layers") is None:
        why += "; without nGpuLayers part of it may be on the processor"
    return Verdict(Fits.YES, why)


def verdict_placed(answer: Placement | NoRoom | NoDevice) -> Verdict:
    """Returns whether it would start now, and where."""
    match answer:
        case NoRoom(reason):
            return Verdict(Fits.NO, f"it {reason}")
        case NoDevice(missing):
            return Verdict(Fits.NO, f"this machine has no {', '.join(missing)}")
        case placement:
            needs = ", ".join(f"{one.name}: {size(one.need)} needed" for one in placement.devices)
            why = f"it would start on {_where(placement)}"
            return Verdict(_extent(placement), f"{why}; {needs}" if needs else why)


def _extent(placement: Placement) -> Fits:
    return Fits.PART if placement.extent == "part" else Fits.YES


def _where(placement: Placement) -> str:
    names = ", ".join(one.name for one in placement.devices) or "the processor"
    return f"{names} and the processor" if placement.extent == "part" else names


def deciding(
    answer: Placement | NoRoom | NoDevice, known: Mapping[Question, Prediction]
) -> Prediction:
    """Returns the prediction that the decision rests on, with the names of the devices chosen."""
    if isinstance(answer, Placement):
        names = tuple(one.name for one in answer.devices)
        fitting = (
            made
            for question, made in known.items()
            if (len(question.devices), question.ctx) == (len(names), answer.ctx_size)
            and question.shares == answer.shares
        )
        found = next(fitting, None) or next(iter(known.values()))
        return _renamed(found, names)
    least = min(known.values(), key=_total, default=None)
    return least or Prediction(0.0, problem="nothing was predicted")


def _total(made: Prediction) -> int:
    estimate = made.estimate
    return 0 if estimate is None else sum(one.need.total for one in estimate.devices)


def _renamed(made: Prediction, names: Sequence[str]) -> Prediction:
    """One prediction holds for all devices of a kind: it may name another one."""
    estimate = made.estimate
    if estimate is None or len(estimate.devices) != len(names):
        return made
    devices = tuple(
        replace(one, name=name) for one, name in zip(estimate.devices, names, strict=True)
    )
    return replace(made, estimate=replace(estimate, devices=devices))
