"""Schemas of the answers on models and the registry.

Answers are TypedDicts with the names used on the wire, so that the type checker checks them,
OpenAPI describes them, and no object is built twice. `tierThresholds` keeps the snake_case keys
that the first clients were written against.
"""

from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from magid.api.schemas.gpus import Fitting, Source
from magid.api.schemas.library import ModelOrigin
from magid.api.schemas.servers import Condition
from magid.discovery.kinds import ModelKind
from magid.discovery.tiers import ThinkingMode, Tier
from magid.llama.runtime_settings import SETTINGS

JSON_OBJECT = dict[str, Any]


class ErrorReply(TypedDict):
    error: str
    message: str
    details: JSON_OBJECT


class Message(TypedDict):
    message: str


class Companion(TypedDict):
    kind: str
    filePath: str


if TYPE_CHECKING:  # the type checker reads no table

    class SettingsInForce(TypedDict): ...

else:
    SettingsInForce = TypedDict("SettingsInForce", {s.key: s.annotation for s in SETTINGS})


class Abilities(TypedDict):
    """Known before a model runs, from its header and its projector's. null: they do not tell."""

    kind: ModelKind
    contextLength: int | None
    tools: bool | None
    images: bool | None
    audio: bool | None
    thinking: ThinkingMode
    infill: bool | None
    embeddingLength: int | None


class ShortNeed(TypedDict):
    """Of one server: on all GPUs together, and of the machine's memory."""

    devicesBytes: int
    hostBytes: int


class MemoryFit(TypedDict):
    """Whether one server would start now with the model's settings. `need` is null if unknown.

    By what was predicted before and by the last list of GPUs: the answer starts nothing. `source`
    is `estimated` where nothing was predicted and the header of the file is what is known.
    """

    fits: Fitting
    why: str
    need: ShortNeed | None
    source: Source | None


class DiscoveredModel(SettingsInForce, TypedDict):
    filePath: str
    filename: str
    stem: str  # of a model in several files without the number of the shard
    family: str
    version: str | None
    variant: str | None
    sizeParams: float
    quantization: str
    isThinkingModel: bool
    thinkingOverride: bool | None
    assignedTier: Tier
    tierOverride: Tier | None
    port: int | None
    enabled: bool
    enabledOverride: bool | None
    modelId: str
    effectiveTier: Tier
    effectiveThinking: bool
    displayName: str
    isInstruct: bool
    isCoder: bool
    kind: ModelKind
    architecture: str
    contextLength: int | None
    parameterCount: int
    activeParameterCount: int
    sizeBytes: int
    files: list[str]
    companions: list[Companion]
    thinkingMode: ThinkingMode
    thinkingEvidence: str
    abilities: Abilities
    memory: MemoryFit
    discoveredAt: str


class DraftInUse(TypedDict):
    """What guesses the model's next tokens from its next start on. `type` null: nothing does.

    `filePath` null: layers of the model's own file. `reason` is for a person.
    """

    type: str | None
    filePath: str | None
    reason: str


class ModelAdapter(TypedDict):
    """A LoRA adapter of the model, loaded from its next start on. Clients ask for `name`."""

    name: str
    filePath: str


class ModelDetail(DiscoveredModel):
    """One model, with where each value comes from and what it would run as."""

    sources: dict[str, str]
    ports: list[int]
    argv: list[list[str]]
    argvProblem: str
    wanted: bool
    wantedReason: str
    notInForce: dict[str, str]
    drafting: DraftInUse
    adapters: list[ModelAdapter]
    origin: ModelOrigin | None


class RemovedModel(TypedDict):
    modelId: str
    filePath: str
    missingSince: str | None
    tierOverride: Tier | None
    thinkingOverride: bool | None
    enabledOverride: bool | None


class BrokenModel(TypedDict):
    path: str
    reason: str


class PendingModel(TypedDict):
    filePath: str
    filename: str
    sizeBytes: int
    architecture: str | None
    name: str | None
    contextLength: int | None


class TierThresholds(TypedDict):
    powerful_min: float
    fast_max: float


class RegistryFrame(TypedDict):
    """The registry without its models, which are kept as JSON one by one."""

    scanPath: str
    scanPaths: list[str]
    lastScan: str | None
    portRange: tuple[int, int]
    tierThresholds: TierThresholds
    modelsRemoved: list[RemovedModel]
    modelsBroken: list[BrokenModel]
    modelsPending: list[PendingModel]


class RegistryReply(RegistryFrame):
    models: dict[str, DiscoveredModel]


class RescanReply(TypedDict):
    message: str
    modelsFound: int
    modelsAdded: int
    modelsRemoved: int
    timestamp: str
    added: list[str]
    removed: list[str]
    modelsBroken: list[BrokenModel]
    conditions: list[Condition]
    durationMs: float


class TierReply(TypedDict):
    message: str
    modelId: str
    tier: Tier
    override: bool
    restartRequired: bool


class ThinkingReply(TypedDict):
    message: str
    modelId: str
    thinking: bool
    override: bool
    tierChanged: bool
    tier: Tier
    restartRequired: bool


class EnabledReply(TypedDict):
    message: str
    modelId: str
    enabled: bool
    override: bool
    restartRequired: bool


class EnabledAllReply(TypedDict):
    message: str
    modelsUpdated: int
    enabled: bool
    timestamp: str
    restartRequired: bool


class PortRangeReply(TypedDict):
    message: str
    start: int
    end: int
    restartRequired: bool


class PortReply(TypedDict):
    message: str
    modelId: str
    port: int | None
    override: bool
    restartRequired: bool


class SettingsReply(TypedDict):
    message: str
    modelId: str
    runtimeSettings: JSON_OBJECT
    restartRequired: bool
