"""Shows downloads, the models of a repository, and where a model came from. Pure."""

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from magid.api.schemas.library import (
    Download,
    DownloadsReply,
    ModelOrigin,
    OutdatedModel,
    VariantsReply,
)
from magid.library.job import JobStatus
from magid.library.source import ModelSource
from magid.library.updates import ModelUpdate

_ROOM: Final = 1.1  # of its size: what a model takes at least, with a small context


def download_view(status: JobStatus, *, has_units: bool) -> Download:
    """Returns the download as the API has it."""
    source = status.source
    left = status.total - status.done
    is_moving = status.state == "downloading" and status.rate > 0 and status.total > 0
    return {
        "id": status.id,
        "source": source.text,
        "repository": source.repository,
        "revision": source.revision,
        "tag": source.tag,
        "file": source.file,
        "state": status.state,
        "error": status.code,
        "reason": status.reason,
        "notes": list(status.notes),
        "commit": status.commit,
        "licence": status.licence,
        "unit": f"magi-download@{status.id}.service" if has_units else None,
        "files": [
            {"path": file.path, "sizeBytes": file.size, "doneBytes": file.done}
            for file in status.files
        ],
        "totalBytes": status.total,
        "doneBytes": status.done,
        "bytesPerSecond": round(status.rate, 1),
        "secondsLeft": round(left / status.rate, 1) if is_moving else None,
        "createdAt": _moment(status.created_at),
        "updatedAt": _moment(status.updated_at) if status.updated_at else None,
    }


def downloads_view(
    statuses: Iterable[JobStatus], *, library: Path | None, has_units: bool
) -> DownloadsReply:
    """Returns all downloads as the API has them, the newest first."""
    newest = sorted(statuses, key=lambda status: -status.created_at)
    return {
        "downloads": [download_view(each, has_units=has_units) for each in newest],
        "library": None if library is None else str(library),
    }


def variants_view(
    source: ModelSource, found: Mapping[str, Any], gpu_bytes: int, memory_bytes: int
) -> VariantsReply:
    """Returns the models of a repository, and whether this machine has room for each."""
    return {
        "repository": source.repository,
        "revision": source.revision,
        "commit": str(found["commit"]),
        "licence": str(found["licence"]),
        "variants": [
            {
                "name": row["name"],
                "file": row["file"],
                "files": row["files"],
                "companions": row["companions"],
                "sizeBytes": row["sizeBytes"],
                "fits": _fits(row["sizeBytes"], gpu_bytes, memory_bytes),
            }
            for row in found["variants"]
        ],
    }


def update_view(update: ModelUpdate) -> OutdatedModel:
    """Returns what the hub has of a model as the API has it."""
    return {
        "modelId": update.model_id,
        "state": update.state,
        "source": update.source,
        "commit": update.commit,
        "latest": update.latest,
        "files": list(update.files),
        "reason": update.reason,
    }


def origin_view(origin: Mapping[str, Any]) -> ModelOrigin:
    """Returns where a model came from as the API has it."""
    return {
        "endpoint": origin["endpoint"],
        "repository": origin["repository"],
        "revision": origin["revision"],
        "commit": origin["commit"],
        "licence": origin["licence"],
        "path": origin["path"],
        "sha256": origin["oid"],
        "downloadedAt": _moment(origin["downloaded_at"]),
    }


def _fits(size: int, gpu_bytes: int, memory_bytes: int) -> str:
    if size * _ROOM <= gpu_bytes:
        return "gpu"
    return "memory" if size * _ROOM <= memory_bytes else "no"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(min(seconds, time.time() + 1e9), UTC).isoformat(
        timespec="seconds"
    )
