"""Downloads over Ollama's API: what a client may name, and the lines of an answer. Pure.

Its clients show a bar for each `digest`, and every other `status` as it is. Lines come as Ollama's
do: `pulling manifest`, the files, `verifying sha256 digest`, `writing manifest`, `success`.
"""

from collections.abc import Iterator
from typing import Any, Final

from magid.errors import InvalidInput
from magid.gateway.routing.resolver import LATEST
from magid.library import source as sources
from magid.library.job import ACTIVE, JobStatus
from magid.library.source import ModelSource

FIRST: Final[dict[str, Any]] = {"status": "pulling manifest"}
SUCCESS: Final[dict[str, Any]] = {"status": "success"}
LAST: Final[tuple[dict[str, Any], ...]] = ({"status": "writing manifest"}, SUCCESS)
_VERIFYING: Final[dict[str, Any]] = {"status": "verifying sha256 digest"}
_SHOWN_DIGITS: Final = 12
_OLLAMAS: Final = ("registry.ollama.ai/", "ollama.com/", "library/")


def source_of(name: str) -> ModelSource:
    """Returns what to download: `hf.co/ORG/REPO:TAG` or `ORG/REPO`. Raises InvalidInput."""
    asked = name.strip().removesuffix(LATEST)
    if "/" not in asked or asked.startswith(_OLLAMAS):
        raise InvalidInput(
            f"cannot pull {name[:200]!r}: it is a name of Ollama's own library, and magid "
            "downloads from a hub like Hugging Face; name a repository there that has GGUF files, "
            "as hf.co/ORG/REPO:Q4_K_M",
            field="model",
        )
    return sources.parse(asked)


def lines(sent: JobStatus | None, now: JobStatus) -> Iterator[dict[str, Any]]:
    """Yields what has changed since the status that was sent; None: nothing was sent."""
    before = {file.oid: file.done for file in sent.files} if sent else {}
    for file in now.files:
        if before.get(file.oid) != file.done:
            yield {
                "status": f"pulling {file.oid[:_SHOWN_DIGITS]}",
                "digest": f"sha256:{file.oid}",
                "total": file.size,
                "completed": file.done,
            }
    if now.state in ACTIVE and now.reason and now.reason != (sent.reason if sent else ""):
        yield {"status": now.reason}
    if _is_whole(now) and not (sent and _is_whole(sent)):
        yield _VERIFYING


def _is_whole(status: JobStatus) -> bool:
    """Whether all bytes are here: a part of an earlier try is verified before the rest comes."""
    return status.state in ("verifying", "done") and status.done == status.total > 0
