"""Schemas of the gateway's decisions and requests."""

from typing_extensions import TypedDict

from magid.api.schemas.access import ProfileVariant
from magid.discovery.tiers import Tier


class Candidate(TypedDict):
    modelId: str
    port: int
    tier: Tier
    outstanding: int
    slots: int
    whyNot: str | None


class ExplainedVariant(ProfileVariant):
    name: str  # of the alias in the profile


class Explanation(TypedDict):
    model: str
    variant: ExplainedVariant | None
    pool: str
    tier: Tier | None
    route: str
    score: float | None
    parts: dict[str, float]
    candidates: list[Candidate]
    chosen: Candidate | None
    starts: str | None


class GatewayRequest(TypedDict):
    """`code` names magid's own error, if the answer was one: the class, as `error` of errors."""

    id: str
    clientRequestId: str | None
    at: str
    path: str
    token: str | None
    model: str
    variant: str | None
    modelId: str | None
    port: int | None
    tier: str | None
    route: str
    stream: bool
    status: int | None
    outcome: str
    error: str | None
    code: str | None
    attempts: int
    waitedSeconds: float | None
    firstByteSeconds: float | None
    firstTokenSeconds: float | None
    durationSeconds: float | None
    promptTokens: int | None
    cachedTokens: int | None
    answerTokens: int | None
    tokensPerSecond: float | None


class RequestsReply(TypedDict):
    running: int
    waiting: int
    requests: list[GatewayRequest]


class CapturedRequest(TypedDict):
    """The sizes are those of the whole texts, of which less may be kept."""

    id: str
    model: str
    token: str | None
    path: str
    requestBytes: int
    answerBytes: int


class CapturedTexts(CapturedRequest):
    """The body that the server got, and its answer, without chunks: JSON, or events of a stream.

    Of a long request both ends are kept, of a long answer the beginning.
    """

    request: str
    answer: str
    contentType: str | None  # of the answer


class CaptureReply(TypedDict):
    """`bytes` are kept, of `maxBytes`; `dropped` requests have made room for newer ones."""

    on: bool
    until: str | None
    bytes: int
    maxBytes: int
    dropped: int
    requests: list[CapturedRequest]


class UsageFigures(TypedDict):
    requests: int
    promptTokens: int
    cachedTokens: int
    answerTokens: int


class UsageRow(UsageFigures):
    """`token` is empty for callers without one; what is not grouped by is null."""

    day: str | None
    token: str | None
    model: str | None


UsageReply = TypedDict(
    "UsageReply",
    {
        "from": str,
        "to": str,
        "rows": list[UsageRow],
        "total": UsageFigures,
        "problems": list[str],
    },
)
