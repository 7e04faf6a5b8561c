"""`ServerSpec`: everything that determines how one llama-server runs."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

from magid.llama.runtime_settings import BY_NAME, ServerSettings
from magid.systemd.unit_names import unit_name

# Settings that are hashed even while unset. A newer setting is hashed only when it is set, so that
# an upgrade does not change the hash of running servers, which would restart them.
_HASHED_UNSET: Final = frozenset(
    {"n_gpu_layers", "ctx_size", "n_threads", "batch_size", "parallel", "extra_args"}
    | {"memory_max", "cpu_quota"}
)


# What lies beside a model is not hashed: a draft that was found changes how fast answers come, not
# which, and adapters have names of their own. They count from the next start on.
_UNHASHED: Final = frozenset(
    {"draft_type", "draft_path", "draft_stamp", "lora_paths", "lora_stamp", "lora_bytes"}
)

MAX_ADAPTERS: Final = 16

DRAFT_TYPES: Final = ("mtp", "dflash", "dspark", "eagle3", "simple")
"""Of --spec-type, without "draft-"; `simple` is a small model of its own."""


@dataclass(frozen=True, slots=True)
class ServerSpec(ServerSettings):
    """Everything that determines how one server runs. Equal specs mean the same server."""

    model_id: str
    instance: int  # 0-based: a model with `instances: 2` has 0 and 1, each with its own port
    port: int
    host: str
    model_path: str  # the first shard, absolute, links resolved
    mmproj_path: str | None = None
    kind: str = "chat"  # chat | embedding | reranker
    stamp: str = ""  # identity of the files' content (inode, size, times): a replaced file differs
    draft_type: str | None = None  # one of DRAFT_TYPES
    draft_path: str | None = None  # absolute, links resolved; None: layers of the model's own file
    draft_stamp: str = ""
    lora_paths: tuple[str, ...] = ()  # of adapters, loaded with scale 0; requests choose them
    lora_stamp: str = ""
    lora_bytes: int = 0  # of all of them

    @property
    def unit(self) -> str:
        """The unit name, also used without systemd."""
        return unit_name(self.port)

    @property
    def hash(self) -> str:
        """16 hex digits, for MAGI_SPEC, and for the comparison in `specCurrent`."""
        return _hash_of(self)


@lru_cache(4096)  # each change of a server asks for those of all
def _hash_of(spec: ServerSpec) -> str:
    hashed = {name: value for name, value in asdict(spec).items() if _is_hashed(name, value)}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_hashed(name: str, value: object) -> bool:
    if name in _UNHASHED:
        return False
    setting = BY_NAME.get(name)
    return setting is None or name in _HASHED_UNSET or value != setting.default
