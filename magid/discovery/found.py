"""The results of a scan: models, their companions, pending and broken files."""

from msgspec import Struct

from magid.discovery.abilities import ModelAbilities
from magid.discovery.kinds import ModelKind
from magid.discovery.model_shape import ModelShape
from magid.discovery.naming import ModelName, file_stem
from magid.discovery.tiers import ThinkingMode, Tier
from magid.discovery.walker import UnreadableRoot


class CompanionFile(Struct, frozen=True):
    """A GGUF file that is not a model by itself."""

    kind: str  # mmproj | draft | lora | imatrix | vocab
    path: str


class Draft(Struct, frozen=True):
    """What guesses a model's next tokens, for the model to check several of them at once."""

    kind: str  # of `drafts.KINDS`
    path: str | None = None  # its file; None: layers of the model's own file
    filename: str = ""
    stamp: str = ""  # changes with the content of its file


class Adapter(Struct, frozen=True):
    """A LoRA adapter of a model. Clients ask for `MODEL:NAME`."""

    name: str
    path: str
    size_bytes: int
    stamp: str  # changes with the content of its file


class FoundModel(Struct, frozen=True):
    """One model on disk, with all its shards."""

    path: str  # llama-server's argument: the first shard, absolute, links resolved
    filename: str  # its name in its folder, which may be a link's
    files: tuple[str, ...]
    companions: tuple[CompanionFile, ...]  # the projector to start it with, if there is one
    kind: ModelKind
    name: ModelName
    display_name: str
    architecture: str
    context_length: int | None  # tokens that it was trained for
    parameter_count: int
    active_parameter_count: int  # per token; in a mixture of experts fewer than all
    size_bytes: int  # without the projector
    bits_per_weight: float  # measured over all tensors
    thinking_mode: ThinkingMode
    thinking_evidence: str
    abilities: ModelAbilities
    tier: Tier
    base_id: str
    shape: ModelShape
    stamp: str  # 16 hex digits that change with the content of its files and its projector
    drafts: tuple[Draft, ...] = ()  # those that match it, the best first
    adapters: tuple[Adapter, ...] = ()  # in the order of their names
    paths: tuple[str, ...] = ()  # all of its files and its projector: links, then what they lead to

    @property
    def is_thinking(self) -> bool:
        return self.thinking_mode is ThinkingMode.ALWAYS

    @property
    def stem(self) -> str:
        """`X` for `X.gguf` and for `X-00001-of-00003.gguf`."""
        return file_stem(self.filename)


class BrokenFile(Struct, frozen=True):
    """A file or folder that cannot be used. `reason` follows the path: "is empty"."""

    path: str
    reason: str


class PendingFile(Struct, frozen=True):
    """A model in a first listing, whose header was not completely read yet."""

    path: str
    filename: str
    size_bytes: int  # of all its shards
    architecture: str | None
    name: str | None  # general.name, printable
    context_length: int | None


class Scan(Struct, frozen=True):
    """The content of all model folders."""

    models: tuple[FoundModel, ...] = ()  # in path order
    broken: tuple[BrokenFile, ...] = ()  # in path order; includes unreadable and hung folders
    companions: tuple[CompanionFile, ...] = ()  # in path order, paired or not
    unreadable_roots: tuple[UnreadableRoot, ...] = ()
    empty_folders: tuple[str, ...] = ()  # without any file, like the mount point of a missing disk
    duration_s: float = 0.0
