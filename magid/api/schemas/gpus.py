"""Schemas of the GPUs."""

from typing import Literal

from typing_extensions import TypedDict

Kind = Literal["discrete", "integrated"]
Source = Literal["predicted", "estimated"]
Fitting = Literal["yes", "tight", "part", "no", "unknown"]


class GpuName(TypedDict):
    """A device of llama-server's: what its option --device takes."""

    name: str
    backend: str
    description: str


class GpuServer(TypedDict):
    modelId: str
    port: int


class GpuHolder(GpuServer):
    """A running server on a GPU. `needBytes` is what it was predicted to take there, if it was.

    Of that, `modelBytes` are weights, `contextBytes` the KV cache and other state of the context,
    and `computeBytes` what it computes with; what is left allows for rounding and the driver. Null:
    not known, as of a server whose settings have changed since it started.
    """

    needBytes: int | None
    modelBytes: int | None
    contextBytes: int | None
    computeBytes: int | None


class ListedGpu(GpuName):
    """One physical GPU, or a part of one (MIG). Null is unknown.

    `othersBytes` is what other programs use: unknown while a server loads, or one may use the GPU
    whose memory was not predicted. `roomBytes` is what magid would give one more server,
    and `overheadBytes` what a server was seen to take beyond its prediction.
    """

    id: str
    kind: Kind | None
    address: str | None
    uuid: str | None
    isPartition: bool
    totalBytes: int | None
    freeBytes: int | None
    usedBytes: int | None
    othersBytes: int | None
    roomBytes: int | None
    overheadBytes: int
    servers: list[GpuHolder]
    alsoListedAs: list[GpuName]


class GpusReply(TypedDict):
    """The GPUs as listed at `listedAt`; `problem` says why a later listing failed.

    `serversAnywhere` are running servers whose place llama-server chose. `reserveBytes` stay free
    on each GPU (gpu_reserve in magid.yaml).
    """

    gpus: list[ListedGpu]
    serversAnywhere: list[GpuServer]
    listedAt: str | None
    problem: str | None
    reserveBytes: int


class MemoryNeed(TypedDict):
    """What one server takes in one place, in bytes; each is rounded down to whole MiB."""

    name: str
    modelBytes: int
    contextBytes: int
    computeBytes: int
    totalBytes: int


class DeviceMemory(MemoryNeed):
    """Of one device of llama-server's. Null is unknown.

    `roomBytes` is what magid would give one more server: without the reserve, and what others hold.
    """

    description: str
    freeBytes: int | None
    roomBytes: int | None


class HostMemory(TypedDict):
    """The machine's own memory. `limitBytes` is the model's setting memoryMax, kept by systemd.

    `buffers` are the kinds of which `totalBytes` is the sum.
    """

    totalBytes: int
    availableBytes: int
    limitBytes: int | None
    buffers: list[MemoryNeed]


class ModelMemory(TypedDict):
    """What one server of the model needs, and whether that fits now.

    `source` is `estimated` where there is no prediction: `why` says why, and what the header of the
    file allows to say; null where that says nothing. `ctxSize` is the model's
    setting, or what magid would choose. `fittingCtxSize` is the context to which llama-server would
    have reduced it at `predictedAt`, where magid places nothing. `draftBytes` is how much of it the
    model's draft needs; null without one.
    """

    modelId: str
    ctxSize: int | None
    parallel: int | None
    fits: Fitting
    why: str
    source: Source | None
    predictedAt: str | None
    devices: list[DeviceMemory]
    host: HostMemory | None
    draftBytes: int | None
    fittingCtxSize: int | None
