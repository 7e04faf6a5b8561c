"""Schemas of the GPUs."""

from typing import Literal

from typing_extensions import TypedDict

Kind = Literal["discrete", "integrated"]


class GpuName(TypedDict):
    """A device of llama-server's: what its option --device takes."""

    name: str
    backend: str
    description: str


class GpuServer(TypedDict):
    modelId: str
    port: int


class ListedGpu(GpuName):
    """One physical GPU, or a part of one (MIG). Null is unknown.

    `othersBytes` is what other programs use: unknown while a server of magid's may use the GPU.
    `servers` are the running ones whose setting `device` names it.
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
    servers: list[GpuServer]
    alsoListedAs: list[GpuName]


class GpusReply(TypedDict):
    """The GPUs as listed at `listedAt`; `problem` says why a later listing failed.

    `serversAnywhere` are running servers without the setting `device`: llama-server chose for them.
    """

    gpus: list[ListedGpu]
    serversAnywhere: list[GpuServer]
    listedAt: str | None
    problem: str | None
