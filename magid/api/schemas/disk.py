"""Answers about the files of models."""

from typing_extensions import TypedDict


class StayingFileReply(TypedDict):
    path: str
    reason: str  # follows the path: "is needed by ..."


class RootReply(TypedDict):
    """`problem`: why it could not be looked at; then the figures are 0."""

    path: str
    isLibrary: bool  # magid may delete there
    totalBytes: int
    freeBytes: int
    problem: str


class ModelUsageReply(TypedDict):
    modelId: str
    sizeBytes: int
    sharedBytes: int  # of them, those of files that other models have too


class FileOnDiskReply(TypedDict):
    path: str
    sizeBytes: int
    changedAt: str


class DiskReply(TypedDict):
    """What lies in the model folders. Sizes are those on the disk; files count once."""

    roots: list[RootReply]
    models: list[ModelUsageReply]
    unfinished: list[FileOnDiskReply]
    others: list[FileOnDiskReply]
    smallBytes: int


class RemovalReply(TypedDict):
    """`freedBytes` of a dry run: what the files take now."""

    message: str
    modelId: str
    removed: list[str]
    freedBytes: int
    stays: list[StayingFileReply]
    forgotten: bool  # what was decided of the model is gone too
    dryRun: bool
