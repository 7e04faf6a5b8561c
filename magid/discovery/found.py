"""What a scan finds: models, their companions, and files that are no models yet or broken."""

from msgspec import Struct

from magid.discovery.abilities import ModelAbilities
from magid.discovery.kinds import ModelKind
from magid.discovery.naming import ModelName, file_stem
from magid.discovery.tiers import ThinkingMode, Tier
from magid.discovery.walker import UnreadableRoot


class CompanionFile(Struct, frozen=True):
    """A GGUF file that is no model by itself."""

    kind: str  # mmproj | draft | lora | imatrix | vocab
    path: str


class FoundModel(Struct, frozen=True):
    """One model on disk, with all its shards."""

    path: str  # what llama-server gets: the first shard, absolute, links resolved
    filename: str  # the name it has in its folder, which a link may have given it
    files: tuple[str, ...]
    companions: tuple[CompanionFile, ...]  # the projector to start it with, if there is one
    kind: ModelKind
    name: ModelName
    display_name: str
    architecture: str
    context_length: int | None  # tokens it was trained for
    parameter_count: int
    active_parameter_count: int  # per token; less than all in a mixture of experts
    size_bytes: int  # without the projector
    bits_per_weight: float  # measured over all tensors
    thinking_mode: ThinkingMode
    thinking_evidence: str
    abilities: ModelAbilities
    tier: Tier
    base_id: str
    stamp: str  # 16 hex digits: another value means other content, of the projector too

    @property
    def is_thinking(self) -> bool:
        return self.thinking_mode is ThinkingMode.ALWAYS

    @property
    def stem(self) -> str:
        """`X` of `X.gguf`, and of `X-00001-of-00003.gguf`."""
        return file_stem(self.filename)


class BrokenFile(Struct, frozen=True):
    """A file or folder that cannot be used, and why; the reason does not repeat the path."""

    path: str
    reason: str


class PendingFile(Struct, frozen=True):
    """A file of a first listing, whose whole header was not read yet."""

    path: str
    filename: str
    size_bytes: int  # of all its shards
    architecture: str | None
    name: str | None  # general.name, printable
    context_length: int | None


class Scan(Struct, frozen=True):
    """What all roots hold."""

    models: tuple[FoundModel, ...] = ()  # in path order
    broken: tuple[BrokenFile, ...] = ()  # in path order; unreadable and silent folders too
    companions: tuple[CompanionFile, ...] = ()  # in path order, paired or not
    unreadable_roots: tuple[UnreadableRoot, ...] = ()
    empty_folders: tuple[str, ...] = ()  # they hold nothing at all, as where no disk is mounted
    duration_s: float = 0.0
