"""Recognises unfinished downloads by the marker files that downloaders keep next to them. Pure.

Some downloaders write into the file itself, whose header may be complete while the rest is zeros
(aria2). Others write into the marker file and rename it at the end.
"""

from typing import Final

_ENDINGS: Final = (
    ".aria2",
    ".crdownload",  # Chromium
    ".download",
    ".downloadinprogress",  # llama.cpp
    ".incomplete",  # huggingface_hub
    ".part",  # Firefox, curl, yt-dlp
    ".partial",
)


def file_of(name: str) -> str | None:
    """Returns `X.gguf` for the name of a marker file of X.gguf; None for other names."""
    lower = name.lower()
    ending = next((one for one in _ENDINGS if lower.endswith(f".gguf{one}")), None)
    return name[: -len(ending)] if ending else None


def why_unfinished(mark: str) -> str:
    """Returns the reason why a file with this marker is no model yet."""
    return (
        f"is still being downloaded, as {mark} next to it shows; delete {mark} if the download "
        "was cancelled"
    )


ALONE: Final = "is still being downloaded; delete it if the download was cancelled"
