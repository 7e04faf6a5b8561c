"""Downloads as llama.cpp's router shows them: in its list of models, and as events. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from magid.library.job import ACTIVE, JobStatus


def under_way(downloads: Iterable[JobStatus]) -> list[JobStatus]:
    """Returns those that have not ended and are not paused, the oldest first."""
    return sorted((status for status in downloads if status.state in ACTIVE), key=_age)


def entries(
    downloads: Iterable[JobStatus], endpoint: str, models: Iterable[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Returns the entries of what is under way, the oldest first, by the names that were asked for.

    One for each name, and none for a name that one of `models` has: that can be used meanwhile.
    Its header is not here yet: a text model is what llama.cpp's router takes it for too.
    """
    taken = {name for model in models for name in (model["id"], *model.get("aliases", ()))}
    coming: dict[str, JobStatus] = {}
    for status in under_way(downloads):
        if status.source.text not in taken:
            coming.setdefault(status.source.text, status)
    return [_entry(status, endpoint) for status in coming.values()]


def _age(status: JobStatus) -> tuple[float, str]:
    return status.created_at, status.id


def _entry(status: JobStatus, endpoint: str) -> dict[str, Any]:
    return {
        "id": status.source.text,
        "object": "model",
        "created": int(status.created_at),
        "owned_by": "magid",
        "aliases": [],
        "status": {"value": "downloading", "args": [], "progress": _progress(status, endpoint)},
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    }


def download_changes(
    before: Mapping[str, JobStatus], now: Mapping[str, JobStatus], endpoint: str
) -> Iterator[dict[str, Any]]:
    """The events of downloads, from one moment to the next; by their ids. Pure.

    Of those that had ended before there are none.
    """
    for job_id, status in now.items():
        old = before.get(job_id)
        event = {"model": status.source.text, "event": "download_progress"}
        if status.state in ACTIVE:
            progress = _progress(status, endpoint)
            if progress and (old is None or progress != _progress(old, endpoint)):
                yield {**event, "data": progress}
        elif old is not None and old.state in ACTIVE:
            is_done = status.state == "done"
            event["event"] = "download_finished" if is_done else "download_failed"
            yield {**event, "data": {} if is_done else {"message": status.reason or status.state}}


def _progress(status: JobStatus, endpoint: str) -> dict[str, dict[str, int]]:
    """How far each file is, by its address at the hub."""
    base = f"{endpoint}/{status.source.repository}/resolve/{status.source.revision}"
    return {f"{base}/{file.path}": {"done": file.done, "total": file.size} for file in status.files}
