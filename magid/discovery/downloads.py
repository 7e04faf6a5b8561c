"""Which files are still being downloaded: their downloaders keep a file of their own beside them.

Pure. Some fill the file itself, whose header may be right and the rest zeros (aria2); others fill
the one beside it, and rename that at the end.
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
    """`X.gguf` for the name of the file that a downloader keeps for it; None for other names."""
    lower = name.lower()
    ending = next((one for one in _ENDINGS if lower.endswith(f".gguf{one}")), None)
    return name[: -len(ending)] if ending else None


def why_unfinished(mark: str) -> str:
    """The reason for a file with this one beside it."""
    return (
        f"is still being downloaded: {mark} is beside it; it is taken up when that is gone, "
        "so delete that one if the download was given up"
    )


ALONE: Final = (
    "is still being downloaded; it is taken up when it has its own name, so delete it if the "
    "download was given up"
)
