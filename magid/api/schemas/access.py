"""Schemas of tokens and profiles."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from magid.api.schemas.servers import PlanReply
from magid.auth.tokens import ApiToken, Scope
from magid.discovery.tiers import Tier


class TokenLimitsReply(TypedDict):
    message: str
    entry: ApiToken


class TierConfig(TypedDict):
    name: str
    maxScore: float
    expectedTimeSeconds: float
    description: str


class TwoStage(TypedDict):
    enabled: bool
    stage1Tier: Tier
    stage2Tier: Tier
    stage1MaxTokens: int


class LoadBalancing(TypedDict):
    enabled: bool
    strategy: str
    healthCheckInterval: float
    weights: dict[str, int]


class ProfileVariant(TypedDict):
    """An alias with parameters of its own. What it has not is left out."""

    model: str
    set: NotRequired[dict[str, Any]]
    defaults: NotRequired[dict[str, Any]]
    strip: NotRequired[list[str]]
    system: NotRequired[str]
    reasoning: NotRequired[int]


class ProfileReply(TypedDict):
    name: str
    description: str
    enabledModels: list[str]
    tierConfig: list[TierConfig]
    twoStage: TwoStage
    loadBalancing: LoadBalancing
    aliases: dict[str, str | ProfileVariant]
    active: bool
    missingModels: list[str]


class ProfileFault(TypedDict):
    """One error in a profile's text. `field` is the key as in the text; `line` null: of no line."""

    line: int | None
    field: str
    reason: str


class ProfileTextReply(TypedDict):
    """A profile's file as it is, with its comments. `faults` say why it cannot be used."""

    profileName: str
    text: str
    faults: list[ProfileFault]


class ProfileCreated(TypedDict):
    message: str
    profileName: str
    path: str


class ProfileReplaced(TypedDict):
    message: str
    profileName: str
    active: bool


class Activated(PlanReply):
    profileName: str  # noqa: N815  # a TypedDict, though its base is in another module
    applied: bool


class SessionReply(TypedDict):
    """`access`: the most that the caller may do; `scopes` has all of it.

    `name` is the token's, or says who made the link; `models` limits requests to the gateway.
    `capturedUntil`: until when administrators can read what is asked and answered; null: they
    cannot.
    """

    signedIn: bool
    required: bool
    access: Literal["admin", "read", "infer", "none"]
    scopes: list[Scope]
    name: str
    models: list[str] | None
    expiresAt: str | None
    capturedUntil: str | None


class SignInLink(TypedDict):
    """`path` is relative to the page's address; `link` and `expiresAt`: null without tokens."""

    addresses: list[str]
    path: str
    link: str | None
    expiresAt: str | None


class TokensReply(TypedDict):
    required: bool
    problem: str | None
    tokens: list[ApiToken]


class TokenCreated(TypedDict):
    message: str
    token: str
    entry: ApiToken
