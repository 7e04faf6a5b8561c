"""Schemas of downloads."""

from typing_extensions import TypedDict


class DownloadFile(TypedDict):
    path: str
    sizeBytes: int
    doneBytes: int


class Download(TypedDict):
    """One download. `error` is a stable code, with `reason` for a person; both may be empty.

    `state` is queued, downloading, paused, verifying, done or failed. Sizes are 0 until the hub has
    told them; `secondsLeft` is null while that is not known.
    """

    id: str
    source: str
    repository: str
    revision: str
    tag: str
    file: str
    state: str
    error: str
    reason: str
    notes: list[str]
    commit: str
    licence: str
    unit: str | None
    files: list[DownloadFile]
    totalBytes: int
    doneBytes: int
    bytesPerSecond: float
    secondsLeft: float | None
    createdAt: str
    updatedAt: str | None


class DownloadsReply(TypedDict):
    """All downloads, the newest first. `library` is null where nothing can be downloaded."""

    downloads: list[Download]
    library: str | None


class RepositoryVariant(TypedDict):
    """One model of a repository. `fits` is gpu, memory or no: by its size alone."""

    name: str
    file: str
    files: int
    companions: list[str]
    sizeBytes: int
    fits: str


class VariantsReply(TypedDict):
    repository: str
    revision: str
    commit: str
    licence: str
    variants: list[RepositoryVariant]


class OutdatedModel(TypedDict):
    """What the hub has of one model. `source` is what to download to get it; "" if unknown.

    `state` is newer, current, unknown, gated, gone, offline or refused; `reason` says why. `commit`
    is that of the files here, `latest` the hub's.
    """

    modelId: str
    state: str
    source: str
    commit: str
    latest: str
    files: list[str]
    reason: str


class OutdatedReply(TypedDict):
    """All models, in the order of their ids."""

    models: list[OutdatedModel]


class ModelOrigin(TypedDict):
    """Where a model was downloaded from, as the hub said then."""

    endpoint: str
    repository: str
    revision: str
    commit: str
    licence: str
    path: str
    sha256: str
    downloadedAt: str
