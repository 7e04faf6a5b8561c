"""Answers about the files of models."""

from typing_extensions import TypedDict


class StayingFileReply(TypedDict):
    path: str
    reason: str  # follows the path: "is needed by ..."


class RemovalReply(TypedDict):
    """`freedBytes` of a dry run: what the files take now."""

    message: str
    modelId: str
    removed: list[str]
    freedBytes: int
    stays: list[StayingFileReply]
    forgotten: bool  # what was decided of the model is gone too
    dryRun: bool
