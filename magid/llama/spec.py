"""`ServerSpec`: all that decides how one llama-server runs."""

import hashlib
import json
from dataclasses import asdict, dataclass

from magid.systemd.unit_names import unit_name


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """All that decides how one server runs. Two equal specs are the same server."""

    model_id: str
    instance: int  # 0-based: a model with `instances: 2` has 0 and 1, each with its own port
    port: int
    host: str
    model_path: str  # the first shard, absolute, links resolved
    mmproj_path: str | None = None
    kind: str = "chat"  # chat | embedding | reranker
    n_gpu_layers: int | None = None  # None: llama-server's own default (it fits to free memory)
    ctx_size: int | None = None
    n_threads: int | None = None
    batch_size: int | None = None
    parallel: int | None = None
    extra_args: tuple[str, ...] = ()
    memory_max: int | None = None  # bytes; None: as much as there is
    cpu_quota: int | None = None  # percent of one processor; None: all of them
    stamp: str = ""  # identity of the files' content (inode, size, times): a replaced file differs

    @property
    def unit(self) -> str:
        """The systemd name, also where there is no systemd: one server, one name."""
        return unit_name(self.port)

    @property
    def hash(self) -> str:
        """16 hex digits; what MAGI_SPEC carries, and what `specCurrent` compares."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
