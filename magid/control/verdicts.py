"""Whether a server has room, by what was predicted and decided. Pure."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from magid.control.prediction_cache import Prediction
from magid.gpus.capacity import Capacity
from magid.gpus.fitting import Fits, Room, Verdict, judge
from magid.gpus.header_estimate import HeaderEstimate, at_most
from magid.gpus.memory_table import Estimate
from magid.gpus.placing import NoDevice, NoRoom, Question
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer
from magid.wording.sizes import size


def destination(placement: Placement) -> str:
    """Returns the devices with what each has to hold: "CUDA0 (5.0 GiB)", "the processor"."""
    where = ", ".join(f"{one.name} ({size(one.need)})" for one in placement.devices)
    match placement.extent:
        case "none":
            return "the processor"
        case "part":
            return f"{where}, and in part to the processor"
        case _:
            return where or "the processor"


def verdict_of(prediction: Prediction, room: Room) -> Verdict:
    """Returns whether it fits where llama-server chooses."""
    if prediction.estimate is None:
        return Verdict(Fits.UNKNOWN, prediction.problem)
    return judge(prediction.estimate, room)


def verdict_running(server: ObservedServer, estimate: Estimate) -> Verdict:
    """Returns the verdict on a server that runs, perhaps in part on the processor."""
    why = "a server of it runs with these settings"
    if server.place is not None:
        return Verdict(_extent(server.place), f"{why} on {_where(server.place)}")
    if estimate.devices and dict(server.values).get("n_gpu_layers") is None:
        why += "; without nGpuLayers part of it may be on the processor"
    return Verdict(Fits.YES, why)


def verdict_placed(
    answer: Placement | NoRoom | NoDevice,
    estimate: Estimate | None = None,
    available: int | None = None,
) -> Verdict:
    """Returns whether it would start now, and where. `available` is the machine's memory."""
    match answer:
        case NoRoom(reason):
            return Verdict(Fits.NO, f"it {reason}")
        case NoDevice(missing):
            return Verdict(Fits.NO, f"this machine has no {', '.join(missing)}")
        case placement:
            needs = ", ".join(f"{one.name}: {size(one.need)} needed" for one in placement.devices)
            why = f"it would start on {_where(placement)}"
            if placement.devices or estimate is None or available is None:
                return Verdict(_extent(placement), f"{why}; {needs}" if needs else why)
            return _on_processor(why, estimate.host_total.total, available)


def _on_processor(why: str, need: int, available: int) -> Verdict:
    """Returns whether the weights stay in memory too: the kernel may drop them and read again."""
    if need <= available:
        return Verdict(Fits.YES, why)
    why += f", and be slow: it needs {size(need)} with its weights, {size(available)} are free, "
    return Verdict(Fits.TIGHT, f"{why}so weights are read from the disk again and again")


def verdict_estimated(
    estimate: HeaderEstimate | None,
    spec: ServerSpec,
    answer: Placement | NoRoom | NoDevice | None,
    capacity: Capacity,
    problem: str,
) -> Verdict:
    """Returns what the model's header allows to say, where nothing is predicted.

    `answer` is what was decided without a prediction, and `problem` why there is none.
    """
    if answer is not None:
        return verdict_placed(answer)
    if estimate is None:
        return Verdict(Fits.UNKNOWN, problem)
    if is_on_processor(spec, capacity):
        need = f"{size(at_most(estimate.on_processor))} at most of the machine's memory"
        said = f"{problem}; by its header it needs {need}, which has room for {size(capacity.host)}"
        return Verdict(Fits.UNKNOWN, said)
    return _on_gpus_by_header(estimate, spec, capacity, problem)


def _on_gpus_by_header(
    estimate: HeaderEstimate, spec: ServerSpec, capacity: Capacity, problem: str
) -> Verdict:
    rooms = [room for room in capacity.devices if room.room is not None]
    best = max(rooms, key=lambda room: room.room or 0, default=None)
    most, total = at_most(estimate.on_devices), sum(room.device.total or 0 for room in rooms)
    said = f"by its header it needs {size(most)} at most"
    if best is not None and most <= (best.room or 0) and not (spec.device or spec.extra_args):
        return Verdict(Fits.YES, f"{said}; {best.described}")
    is_all = len(rooms) == len(capacity.devices) and spec.offload == "all"
    if is_all and spec.n_gpu_layers is None and estimate.device_weights > total:
        weights = f"its weights alone need {size(estimate.device_weights)}"
        return Verdict(Fits.NO, f"{weights}, and all GPUs together have {size(total)}")
    where = "" if best is None else f"; {best.described}"
    return Verdict(Fits.UNKNOWN, f"{problem or 'its memory is not known'}; {said}{where}")


def is_on_processor(spec: ServerSpec, capacity: Capacity) -> bool:
    return not capacity.devices or spec.device == "none" or spec.n_gpu_layers == 0


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
